"""Many structures, one at a time: files, directories and tables in the order they are given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError, TableError
from crystalformers.io.files import format_of, known_formats, read_file
from crystalformers.io.rejected import Rejected
from crystalformers.io.rows import TableRows
from crystalformers.io.tables import is_table, open_source


def read_structures(paths: Sequence[Path | str]) -> Iterator[Crystal | Rejected]:
    """Every structure of files, directories and tables, in input order; a bad one never stops the others.

    A directory stands for the structure files in it and below, sorted by path; hidden files are passed over and
    every other file is reported. Tables inside a directory are not followed. Memory holds one file or one batch of
    table rows at a time.

    Args:
        paths: structure files, directories, and `.parquet`, `.csv` or `.jsonl` tables.

    Yields:
        A crystal (named by its path, `file#block`, or its id in a table), or `Rejected` with the reason.
    """
    for path in map(Path, paths):
        if path.is_dir():
            yield from _read_directory(path)
        elif is_table(path):
            yield from _read_table(path)
        else:
            yield from read_file(path)


def count_structures(paths: Sequence[Path | str]) -> int | None:
    """How many items `read_structures` will yield, None if only reading tells.

    A CIF counts as one structure, although a few hold several: meant for progress bars.
    """
    total = 0
    for path in map(Path, paths):
        files = _files(path) if path.is_dir() else [path]
        for file in files:
            n = _count(file, inside=path.is_dir())
            if n is None:
                return None
            total += n
    return total


def _count(path: Path, inside: bool) -> int | None:
    if is_table(path) and not inside:
        try:
            return open_source(path).n_rows
        except TableError:
            return 1
    known = format_of(path)
    return None if known and known.many else 1


def _files(directory: Path) -> list[Path]:
    """Files of a directory and below, sorted; hidden files and folders left out."""
    files = (path for path in directory.rglob("*") if path.is_file())
    visible = (p for p in files if not any(part.startswith(".") for part in p.relative_to(directory).parts))
    return sorted(visible)


def _read_directory(directory: Path) -> Iterator[Crystal | Rejected]:
    name, files = str(directory), _files(directory)
    if not files:
        yield Rejected(name, f"the directory holds no files; known formats are {known_formats()}", where=name)
    for path in files:
        if is_table(path) and format_of(path) is None:
            problem = "a table inside a directory is not read"
            yield Rejected(str(path), problem, where=str(path), remedy="give its path instead")
        else:
            yield from read_file(path)


def _read_table(path: Path) -> Iterator[Crystal | Rejected]:
    first = 0
    try:
        for batch in open_source(path).batches(()):
            rows = TableRows(batch, str(path), first)
            for row in range(len(rows)):
                try:
                    yield rows[row]
                except StructureError as error:
                    yield Rejected.of(rows.name(row), error)
            first += len(rows)
    except TableError as error:
        yield Rejected.of(str(path), error)
