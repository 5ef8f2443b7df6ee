"""Compressed source files, read as streams and never unpacked to disk, within limits that no archive can stretch."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from crystalformers.data.sets.entry import SourceFileError
from crystalformers.io.json_stream import Readable

MAX_RATIO = 100
"""How many times its own size an archive may hold; the published ones hold about 10 times."""

FREE_BYTES = 64 << 20
"""What any archive may hold, whatever its size."""

DAMAGE = (zlib.error, zipfile.BadZipFile, gzip.BadGzipFile)
"""Errors of decompressors; that of gzip is an OSError, which would otherwise pass for one of the disk."""

_AGAIN = "download it again"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a decompressor or decoder complains of becomes a SourceFileError that names the file."""
    try:
        yield
    except SourceFileError:
        raise
    except (EOFError, ValueError, NotImplementedError, RuntimeError, *DAMAGE) as error:
        raise SourceFileError(f"the file is broken ({error})", where=str(path), remedy=_AGAIN) from error


@contextmanager
def open_zip(path: Path, member: str) -> Iterator[LimitedStream]:
    """A file inside a zip archive, open for reading; inside the block `reading` is in force.

    Args:
        path: the archive.
        member: name of the file; where there is none such, the only `.json` file is taken.

    Raises:
        SourceFileError: if the archive is broken, holds another file, a path that leads out of its folder, or more
            than `MAX_RATIO` times its size.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        _check_paths(archive, path)
        info = _member(archive, path, member)
        if info.file_size > unpacked_limit(path):
            raise _too_large(path)
        with archive.open(info) as file:
            yield LimitedStream(file, path)


@contextmanager
def open_zip_folder(path: Path) -> Iterator[Mapping[str, Callable[[], bytes]]]:
    """The files inside a zip archive by their names without folders, each as a function that reads it whole.

    Raises:
        SourceFileError: as `open_zip`, or if two files have the same name.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        _check_paths(archive, path)
        infos = [info for info in archive.infolist() if not info.is_dir()]
        if sum(info.file_size for info in infos) > unpacked_limit(path):
            raise _too_large(path)
        files = {PurePosixPath(info.filename).name: partial(_whole, archive, info, path) for info in infos}
        if len(files) < len(infos):
            raise SourceFileError("the archive holds two files of one name", where=str(path))
        yield files


def _whole(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    with archive.open(info) as file:
        return LimitedStream(file, path).read(info.file_size)


def _check_paths(archive: zipfile.ZipFile, path: Path) -> None:
    for name in archive.namelist():
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            raise SourceFileError(
                f"the archive holds '{name}', a path that leads out of its folder", where=str(path), remedy=_AGAIN
            )


def _member(archive: zipfile.ZipFile, path: Path, member: str) -> zipfile.ZipInfo:
    infos = [info for info in archive.infolist() if PurePosixPath(info.filename).name == member]
    infos = infos or [info for info in archive.infolist() if info.filename.endswith(".json")]
    if len(infos) != 1:
        held = ", ".join(archive.namelist()[:5]) or "nothing"
        raise SourceFileError(f"the archive holds {held}, expected {member}", where=str(path), remedy=_AGAIN)
    return infos[0]


@contextmanager
def open_gzip(path: Path) -> Iterator[LimitedStream]:
    """A gzip-compressed file, open for reading as by `open_zip`; raises SourceFileError as that does."""
    with reading(path), gzip.open(path) as file:
        yield LimitedStream(file, path)


def unpacked_limit(path: Path) -> int:
    """Bytes that a file may unpack to."""
    return max(FREE_BYTES, MAX_RATIO * path.stat().st_size)


def _too_large(path: Path) -> SourceFileError:
    problem = f"the archive unpacks to more than {unpacked_limit(path) >> 20} MB, {MAX_RATIO} times its own size"
    return SourceFileError(f"{problem}: it is not what was published", where=str(path), remedy=_AGAIN)


class LimitedStream:
    """The unpacked content of an archive, which is given only up to `unpacked_limit`."""

    def __init__(self, file: Readable, path: Path) -> None:
        self._file, self._path = file, path
        self._left = unpacked_limit(path)

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; raises SourceFileError past the limit."""
        data = self._file.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise _too_large(self._path)
        return data
