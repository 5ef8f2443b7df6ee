"""The text of structure files and tables, compressed or not, within limits that no file can stretch."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from crystalformers.errors import ConfigError, CrystalformersError, StructureError

MAX_TEXT = 100
"""Text that is held in memory at once, million characters: a whole CIF, POSCAR or JSON file, a frame or a line of
others. The environment variable `CRYSTALFORMERS_MAX_TEXT` sets another limit."""

CHUNK = 1 << 16
"""Characters that are read at once where a file is read line by line."""

LIMIT_VARIABLE = "CRYSTALFORMERS_MAX_TEXT"

MAX_RATIO = 100
"""How many times its own size a gzip file may unpack to; text of structures shrinks 3 to 20 times."""

FREE_TEXT = 10**7
"""Characters that any gzip file may unpack to, whatever its size."""


def plain_name(path: Path) -> str:
    """Name of a file in lower case and without `.gz`, by which its format is known."""
    return path.name.lower().removesuffix(".gz")


def open_text(path: Path, errors: str = "strict") -> IO[str]:
    """A text file, gzip-compressed or not, open for reading as UTF-8."""
    if _is_compressed(path):
        return gzip.open(path, "rt", encoding="utf-8-sig", errors=errors)
    return path.open(encoding="utf-8-sig", errors=errors)


def read_text(path: Path, errors: str = "strict") -> str:
    """Content of a text file, gzip-compressed or not; raises StructureError if there is none, or too much."""
    limit = text_limit()
    with _named_errors(path), open_text(path, errors) as file:
        text = file.read(limit + 1)
    check_length(len(text), "the file", path)
    if not text.strip():
        raise StructureError("the file is empty", where=str(path), remedy="export the structure again")
    return text


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, one at a time.

    Raises:
        StructureError: if a line is longer than `MAX_TEXT`, or a gzip file unpacks to more than `MAX_RATIO` allows.
    """
    text_limit()
    begun, total = "", 0
    with _named_errors(path), open_text(path) as file:
        while chunk := file.read(max(CHUNK, len(begun))):
            total += len(chunk)
            _check_unpacked(total, path)
            *lines, begun = (begun + chunk).split("\n")
            for line in lines:
                yield line + "\n"
            check_length(len(begun), "a line", path)
        if begun:
            yield begun


class UnpackedBytes:
    """The bytes of a file, unpacked, given only as far as `MAX_RATIO` allows."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path, self._total = file, path, 0

    def read(self, size: int, /) -> bytes:
        """The next bytes, empty at the end; raises StructureError if they are too many."""
        data = self._file.read(size)
        self._total += len(data)
        _check_unpacked(self._total, self._path)
        return data


@contextmanager
def open_bytes(path: Path) -> Iterator[UnpackedBytes]:
    """The bytes of a file, gzip-compressed or not, open for reading as a stream."""
    with gzip.open(path) if _is_compressed(path) else path.open("rb") as file:
        yield UnpackedBytes(file, path)  # type: ignore[arg-type] # GzipFile


def _check_unpacked(total: int, path: Path) -> None:
    if _is_compressed(path) and total > max(FREE_TEXT, MAX_RATIO * path.stat().st_size):
        raise StructureError(
            f"the file unpacks to more than {MAX_RATIO} times its size",
            where=str(path),
            remedy="unpack it first, if it is sound",
        )


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    """Errors of the file system, of decompression and of decoding as one sentence that names the file."""
    try:
        yield
    except CrystalformersError:
        raise
    except (OSError, EOFError, zlib.error, ValueError) as error:  # ValueError: not UTF-8; a name with a null byte
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StructureError(f"the file cannot be read ({reason})", where=str(path)) from error


def check_length(length: int, what: str, path: Path) -> None:
    """Raise a StructureError if a text that is to be held in memory is longer than the limit."""
    limit = text_limit()
    if length > limit:
        raise StructureError(
            f"{what} is longer than {limit // 10**6} million characters",
            where=str(path),
            remedy=f"write a table, or set {LIMIT_VARIABLE} to more millions",
        )


def text_limit() -> int:
    """Characters that may be held at once; raises ConfigError if the environment variable is no positive number."""
    given = os.environ.get(LIMIT_VARIABLE, str(MAX_TEXT))
    if not re.fullmatch("[1-9][0-9]{0,5}", given):
        raise ConfigError(
            f"{LIMIT_VARIABLE} is '{given[:20]}', expected a positive number of million characters",
            remedy=f"unset it, or set it as in {LIMIT_VARIABLE}={MAX_TEXT}",
        )
    return int(given) * 10**6


def printable(text: str) -> str:
    """A text that can be encoded: bytes of a file name that are not UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def excerpt(text: str, length: int = 60) -> str:
    """The beginning of a text on one line, for messages."""
    text = " ".join(text[: 2 * length].split())
    return text if len(text) <= length else f"{text[:length]}..."


def _is_compressed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"
