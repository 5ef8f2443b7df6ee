"""Compressed source files, read as streams and never unpacked to disk, within limits that no archive can stretch."""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

from crystalformers.data.sets.entry import SourceFileError

MAX_RATIO = 100
"""How many times its own size an archive may hold; the published ones hold about 10 times."""

FREE_BYTES = 64 << 20
"""What any archive may hold, whatever its size."""

_AGAIN = "download it again"


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever a decompressor or decoder complains of becomes a SourceFileError that names the file."""
    try:
        yield
    except SourceFileError:
        raise
    except (EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
        raise SourceFileError(f"the file is broken ({error})", where=str(path), remedy=_AGAIN) from error


@contextmanager
def open_zip(path: Path, member: str) -> Iterator[IO[bytes]]:
    """A file inside a zip archive, open for reading.

    Args:
        path: the archive.
        member: name of the file; where there is none such, the only `.json` file is taken.

    Raises:
        SourceFileError: if the archive is broken, holds another file, a path that leads out of its folder, or more
            than `MAX_RATIO` times its size.
    """
    with reading(path), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
                raise SourceFileError(
                    f"the archive holds '{name}', a path that leads out of its folder", where=str(path), remedy=_AGAIN
                )
        info = _member(archive, path, member)
        limit = unpacked_limit(path)
        if info.file_size > limit:
            raise _too_large(path, limit)
        with archive.open(info) as file:
            yield io.BufferedReader(_Limited(file, path, limit), 1 << 16)


def _member(archive: zipfile.ZipFile, path: Path, member: str) -> zipfile.ZipInfo:
    infos = [info for info in archive.infolist() if PurePosixPath(info.filename).name == member]
    infos = infos or [info for info in archive.infolist() if info.filename.endswith(".json")]
    if len(infos) != 1:
        held = ", ".join(archive.namelist()[:5]) or "nothing"
        raise SourceFileError(f"the archive holds {held}, expected {member}", where=str(path), remedy=_AGAIN)
    return infos[0]


@contextmanager
def open_gzip(path: Path) -> Iterator[IO[bytes]]:
    """A gzip-compressed file, open for reading; raises SourceFileError as `open_zip` does."""
    with reading(path), gzip.open(path) as file:
        yield io.BufferedReader(_Limited(file, path, unpacked_limit(path)), 1 << 16)


def unpacked_limit(path: Path) -> int:
    """Bytes that a file may unpack to."""
    return max(FREE_BYTES, MAX_RATIO * path.stat().st_size)


def _too_large(path: Path, limit: int) -> SourceFileError:
    return SourceFileError(
        f"the archive unpacks to more than {limit >> 20} MB, {MAX_RATIO} times its own size: it is not what was "
        "published",
        where=str(path),
        remedy=_AGAIN,
    )


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than a limit."""

    def __init__(self, file: _Readable, path: Path, limit: int) -> None:
        self._file, self._path, self._limit = file, path, limit
        self._given = 0

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # the buffer that BufferedReader passes
        """Fill a buffer; raises SourceFileError past the limit."""
        data = self._file.read(len(buffer))
        self._given += len(data)
        if self._given > self._limit:
            raise _too_large(self._path, self._limit)
        buffer[: len(data)] = data
        return len(data)
