"""Structure files in zip and tar archives, read one by one within limits and never unpacked as a whole.

A piece of a zip archive is a range of its entries, a piece of a tar archive a range of bytes of the unpacked stream, so
that reading can begin anywhere. Entries go by their names in the archive; none is written to a path that it names.
"""

from __future__ import annotations

import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, Any

from crystalformers.crystal import Crystal
from crystalformers.data.sets.archives import FREE_BYTES, MAX_RATIO
from crystalformers.errors import CrystalformersError, StructureError
from crystalformers.io import Rejected
from crystalformers.io.files import format_of, known_formats, read_file
from crystalformers.io.text import check_length, printable

DAMAGE = (
    *(EOFError, ValueError, IndexError, KeyError, OverflowError, RuntimeError, NotImplementedError),
    *(struct.error, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile),
)
"""What the standard library raises about an archive that is damaged, encrypted or compressed in an unknown way."""

MAX_NAME = 200
"""Longest name of a file in an archive, bytes without its folders; file systems allow 255."""

Found = Iterator[Crystal | Rejected]


def zip_cuts(file: IO[bytes], size: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Begin, end and number of files of each piece of a zip archive.

    Args:
        file: the archive.
        size: files in a piece, at most.
        length: of the archive, bytes.

    Raises:
        StructureError: if it would unpack to more than `MAX_RATIO` times its length.
    """
    entries = _entries(file)
    _check_unpacked(sum(entry.file_size for entry in entries), length)
    for start in range(0, len(entries), size):
        stop = min(start + size, len(entries))
        yield start, stop, stop - start


def read_zip(file: IO[bytes], start: int, stop: int, length: int) -> Found:
    """The structures of a piece of a zip archive."""
    entries = _entries(file)
    _check_unpacked(sum(entry.file_size for entry in entries), length)
    with zipfile.ZipFile(file) as archive, TemporaryDirectory() as folder:
        for entry in entries[start:stop]:
            try:
                with checked():
                    content = _content(archive.open(entry), entry.file_size, entry.filename)
            except (StructureError, OSError) as error:
                yield _unreadable(entry.filename, error)
                continue
            yield from _structures(entry.filename, content, Path(folder))


def _entries(file: IO[bytes]) -> list[zipfile.ZipInfo]:
    with checked(), zipfile.ZipFile(file) as archive:
        files = [entry for entry in archive.infolist() if not entry.filename.endswith("/")]
    return [entry for entry in files if not _hidden(entry.filename)]


def tar_cuts(file: IO[bytes], size: int, length: int) -> Iterator[tuple[int, int, int]]:
    """Begin, end and number of files of each piece of a tar archive, gzip-compressed or not, as `zip_cuts`."""
    start, stop, count = 0, 0, 0
    for _, member in _members(file, 0, length):
        if count == size:
            yield start, member.offset, count
            start, count = member.offset, 0
        count += 1
        stop = member.offset + 1
    if count:
        yield start, stop, count


def read_tar(file: IO[bytes], start: int, stop: int, length: int) -> Found:
    """The structures of a piece of a tar archive."""
    with TemporaryDirectory() as folder:
        for archive, member in _members(file, start, length):
            if member.offset >= stop:
                return
            if not member.isreg():
                yield Rejected(printable(member.name), "it is a link or device, no file", printable(member.name))
                continue
            try:
                with checked():
                    opened = archive.extractfile(member)
                    assert opened is not None  # the member is a file
                    content = _content(opened, member.size, member.name)
            except StructureError as error:
                yield _unreadable(member.name, error)
                continue
            yield from _structures(member.name, content, Path(folder))


def _members(file: IO[bytes], start: int, length: int) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """The members of a tar archive from a byte on, with the archive that reads them."""
    compressed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    stream: IO[bytes] = gzip.GzipFile(fileobj=file) if compressed else file  # type: ignore[assignment]
    bounded: Any = Bounded(stream, _most_unpacked(length) if compressed else length)
    with checked():
        stream.seek(start)
        archive = tarfile.open(fileobj=bounded, mode="r:")  # noqa: SIM115 - closed below
    with archive:
        while True:
            with checked():
                member = archive.next()
            if member is None:
                _check_end(bounded, archive.offset)
                return
            archive.members.clear()  # type: ignore[attr-defined] # so that memory does not grow
            _check_unpacked(member.offset_data + (member.size if compressed else 0), length)
            if not member.isdir() and not _hidden(member.name):
                yield archive, member


def _check_end(stream: Bounded, offset: int) -> None:
    """Raise a StructureError if an archive goes on where `tarfile` sees its end, as it does at a damaged header."""
    with checked():
        stream.seek(offset)
        block = stream.read(tarfile.BLOCKSIZE)
    if any(block):
        raise StructureError(f"the archive is damaged (no header at byte {offset:,})", remedy="pack it again")


@contextmanager
def checked() -> Iterator[None]:
    """Raise what the standard library raises about a damaged archive as a StructureError."""
    try:
        yield
    except CrystalformersError:
        raise
    except DAMAGE as error:
        raise StructureError(f"the archive is damaged ({type(error).__name__}: {error})") from error


class Bounded:
    """A stream that is asked for no more bytes at once than it may hold, whatever the headers of an archive claim."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self.stream, self.most = stream, most
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes."""
        return self.stream.read(self.most if size < 0 else min(size, self.most))


def _most_unpacked(length: int) -> int:
    return max(FREE_BYTES, MAX_RATIO * length)


def _check_unpacked(unpacked: int, length: int) -> None:
    limit = _most_unpacked(length)
    if unpacked > limit:
        problem = f"the archive unpacks to more than {limit >> 20} MB"
        raise StructureError(problem, remedy="unpack it first, if it is sound")


def _content(file: IO[bytes], size: int, name: str) -> bytes:
    check_length(size, "the file", Path(name))
    with file:
        return file.read(size)


def _structures(name: str, content: bytes, folder: Path) -> Found:
    """The structures of one file of an archive."""
    name, short = printable(name), PurePosixPath(printable(name).replace("\\", "/")).name
    if format_of(Path(short)) is None or len(short.encode()) > MAX_NAME or not short.isprintable():
        problem = f"not a structure file by its name; known are {known_formats()}"
        yield Rejected(name, problem, where=name)
        return
    path = folder / short
    path.write_bytes(content)
    for found in read_file(path):
        yield renamed(found, str(path), name)
    path.unlink()


def renamed(found: Crystal | Rejected, old: str, new: str) -> Crystal | Rejected:
    """The same with another name for the file that it was read from."""
    if isinstance(found, Rejected):
        return Rejected(*(text.replace(old, new) for text in (found.name, found.problem, found.where, found.remedy)))
    return replace(found, name=found.name.replace(old, new))


def _unreadable(name: str, error: Exception) -> Rejected:
    problem = error.problem if isinstance(error, StructureError) else f"the file cannot be read ({error})"
    return Rejected(printable(name), problem, where=printable(name))


def _hidden(name: str) -> bool:
    return any(part.startswith(".") and part.strip(".") for part in name.replace("\\", "/").split("/"))
