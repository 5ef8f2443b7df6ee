"""Many structures, one at a time: files, directories and tables in the order they are given."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError, TableError
from crystalformers.io.files import checked_path, format_of, known_formats, read_file
from crystalformers.io.rejected import Rejected
from crystalformers.io.rows import TableRows
from crystalformers.io.source import Source
from crystalformers.io.tables import is_table, open_source
from crystalformers.io.text import excerpt, printable


def read_structures(paths: Sequence[Path | str], species: Sequence[str] = ()) -> Iterator[Crystal | Rejected]:
    """Every structure of files, directories and tables, in input order; a bad one never stops the others.

    A directory stands for the structure files in it and below, sorted by path; hidden files are passed over and
    every other file is reported. Tables inside a directory are not followed. Memory holds one file or one batch of
    table rows at a time.

    Args:
        paths: structure files, directories, and `.parquet`, `.csv` or `.jsonl` tables.
        species: chemical symbols for POSCARs that name no elements (VASP 4), one for each of their counts; not for
            those that a table names.

    Yields:
        A crystal (named by its path, `file#block`, or its id in a table), or `Rejected` with the reason.
    """
    for given in paths:
        try:
            path = checked_path(given)
        except StructureError as error:
            yield Rejected.of(excerpt(printable(str(given))), error)
            continue
        if os.path.isdir(path):  # not path.is_dir(), which raises for names that are too long
            yield from _read_directory(path, species)
        elif is_table(path):
            yield from _read_table(path)
        else:
            yield from read_file(path, species)


def count_structures(paths: Sequence[Path | str]) -> int | None:
    """How many items `read_structures` will yield, None if only reading tells.

    A CIF counts as one structure, although a few hold several: meant for progress bars.
    """
    total = 0
    for path in map(Path, paths):
        inside = os.path.isdir(path)
        for file in files_below(path) if inside else [path]:
            n = _count(file, inside=inside)
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


def files_below(directory: Path) -> list[Path]:
    """Files of a directory and below, links that lead nowhere among them, sorted; hidden ones left out."""
    found = (path for path in directory.rglob("*") if not path.is_dir())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(directory).parts))


def _read_directory(directory: Path, species: Sequence[str]) -> Iterator[Crystal | Rejected]:
    name, files = str(directory), files_below(directory)
    if not files:
        yield Rejected(name, f"the directory holds no files; known formats are {known_formats()}", where=name)
    for path in files:
        yield from read_file_of_directory(path, species)


def read_file_of_directory(path: Path, species: Sequence[str] = ()) -> Iterator[Crystal | Rejected]:
    """Every structure of a file, as `read_file` gives them; a table is refused."""
    if is_table(path) and format_of(path) is None:
        problem = "a table inside a directory is not read"
        yield Rejected(str(path), problem, where=str(path), remedy="give its path instead")
    else:
        yield from read_file(path, species)


def _read_table(path: Path) -> Iterator[Crystal | Rejected]:
    try:
        yield from structures_of(open_source(path))
    except TableError as error:
        yield Rejected.of(str(path), error)


def structures_of(source: Source, first: int = 0) -> Iterator[Crystal | Rejected]:
    """The structures of a table, row by row.

    Args:
        source: the table, or consecutive rows of it.
        first: number of the first of these rows in the table.

    Raises:
        TableError: if the table has no rows, or cannot be read to its end.
    """
    row = first
    for batch in source.batches(()):
        rows = TableRows(batch, str(source.path), row)
        for k in range(len(rows)):
            try:
                yield rows[k]
            except StructureError as error:
                yield Rejected.of(rows.name(k), error)
        row += len(rows)
    if row == first:
        raise TableError("the table has no rows", where=str(source.path))
