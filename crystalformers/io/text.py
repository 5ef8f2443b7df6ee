"""The text of structure files and tables, compressed or not."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import IO

from crystalformers.errors import StructureError


def plain_name(path: Path) -> str:
    """Name of a file in lower case and without `.gz`, by which its format is known."""
    return path.name.lower().removesuffix(".gz")


def open_text(path: Path, errors: str = "strict") -> IO[str]:
    """A text file, gzip-compressed or not, open for reading as UTF-8."""
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", errors=errors)
    return path.open(encoding="utf-8-sig", errors=errors)


def read_text(path: Path, errors: str = "strict") -> str:
    """Content of a text file, gzip-compressed or not; raises StructureError if there is none."""
    try:
        with open_text(path, errors) as file:
            text = file.read()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise StructureError(f"the file cannot be read ({reason})", where=str(path)) from error
    if not text.strip():
        raise StructureError("the file is empty", where=str(path), remedy="export the structure again")
    return text
