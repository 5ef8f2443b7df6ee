"""What is screened: Parquet files are cut into ranges of rows, folders and archives into ranges of files.

Other tables, and structure files given by name, are one piece each, since only reading tells what they hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from crystalformers.crystal import Crystal
from crystalformers.data.sets.formats import OPTIMADE_STRUCTURE, check_axes, optimade_row
from crystalformers.errors import ConfigError, CrystalformersError, StructureError, TableError
from crystalformers.io import Rejected, count_structures, read_structures
from crystalformers.io.source import Record, Source, batches_of
from crystalformers.io.stream import read_file_of_directory, structures_of
from crystalformers.io.tables import batches_of_rows, open_parquet
from crystalformers.screening.addresses import (
    absolute,
    exists,
    files_of,
    is_folder,
    is_remote,
    local_copy,
    open_bytes,
    sha256,
    size_of,
    stamp,
)
from crystalformers.screening.archives import read_tar, read_zip, renamed, tar_cuts, zip_cuts

OPTIMADE_IDS = ("immutable_id", "id", "material_id")
"""Columns with the id of a row in a table of OPTIMADE structures such as LeMat-Bulk; the first one there is taken."""

DAMAGE = (TableError, StructureError, OSError, UnicodeDecodeError, pa.ArrowException)
"""What readers of tables and of archives raise about a file that is not what its name says."""


class Structure(NamedTuple):
    """A structure with the place it comes from.

    Attributes:
        file: address of the file or archive.
        row: number of the row in a table, counted from 0; None in other files.
        found: the crystal, or why it cannot be used.
    """

    file: str
    row: int | None
    found: Crystal | Rejected


class Piece(NamedTuple):
    """A range of an input.

    Attributes:
        input: number of the input.
        start: first row, file or byte, by the kind of the input.
        stop: the one after the last.
        length: structures that it holds; 0 if only reading tells.
    """

    input: int
    start: int
    stop: int
    length: int


@dataclass(frozen=True)
class Input:
    """A file, an archive, or the structure files of a folder.

    Attributes:
        address: absolute path, or address of fsspec.
        kind: one of `KINDS`.
        sha256: hash of the content.
        stamp: what tells cheaply that it has changed.
        problem: why it cannot be read at all; empty if it can.
    """

    address: str
    kind: str
    sha256: str = ""
    stamp: str = ""
    problem: str = ""

    def cuts(self, size: int) -> Iterator[tuple[int, int, int]]:
        """Begin, end and number of structures of consecutive ranges with at most `size` structures."""
        return KINDS[self.kind].cuts(self.address, size)

    def structures(self, piece: Piece) -> Iterator[Structure]:
        """The structures of a range; those that cannot be read come as `Rejected`.

        Raises:
            ConfigError: if the input has changed since the run began.
        """
        check_unchanged(self)
        if self.problem:
            yield Structure(self.address, None, Rejected(self.address, self.problem, where=self.address))
            return
        next_row = piece.start if self.kind in TABLES else None
        try:
            for file, row, found in KINDS[self.kind].read(self.address, piece.start, piece.stop):
                yield Structure(file, row, found)
                next_row = None if row is None else row + 1
        except DAMAGE as error:
            problem = _problem(self.address, error)
            yield Structure(self.address, next_row, Rejected(self.address, problem, where=self.address))


@lru_cache(maxsize=4096)
def check_unchanged(given: Input) -> None:
    """Raise a ConfigError if an input has changed; each process looks once."""
    if not exists(given.address) or current_stamp(given) != given.stamp:
        raise ConfigError("it has changed since the run began", where=given.address, remedy="screen it to a new folder")


def find_inputs(sources: Sequence[str]) -> list[Input]:
    """The inputs that files, folders and addresses stand for, without hashes.

    A folder stands for each Parquet file and archive in it and below, and then for its other files together.

    Raises:
        ConfigError: if there is no such file or folder.
    """
    found = []
    for address in map(absolute, sources):
        if not exists(address):
            raise ConfigError("there is no such file or folder", where=address)
        if not is_folder(address):
            found.append(Input(address, _kind(address)))
            continue
        files = files_of(address)
        found += [Input(file, _kind(file)) for file in files if _kind(file) != "file"]
        if not files or any(_kind(file) == "file" for file in files):
            found.append(Input(address, "folder"))
    return found


def with_cuts(given: Input, size: int) -> tuple[Input, list[tuple[int, int, int]]]:
    """An input with its hash and stamp, and its ranges; with its problem if it cannot be read.

    Raises:
        DataSetError: if the lattice vectors of a table of OPTIMADE structures are in the wrong order.
    """
    given = replace(given, stamp=current_stamp(given), sha256=current_sha256(given))
    try:
        if given.kind == "parquet":
            given = replace(given, kind=_layout(given.address))
        return given, list(given.cuts(size))
    except DAMAGE as error:
        return replace(given, problem=_problem(given.address, error)), [(0, 0, 1)]


def _problem(address: str, error: Exception) -> str:
    """What is wrong with a file; raises the error again if it may be the network, so that the run can be repeated."""
    if is_remote(address) and isinstance(error.__cause__ or error, OSError):
        raise error
    return error.problem if isinstance(error, CrystalformersError) else f"the file is damaged ({error})"


def current_stamp(given: Input) -> str:
    """The stamp of an input as it is now."""
    if given.kind != "folder":
        return stamp(given.address)
    _files.cache_clear()
    return _digest(f"{file} {stamp(file)}\n" for file in _files(given.address))


def current_sha256(given: Input) -> str:
    """The hash of an input as it is now; of a folder that of the names and hashes of its files."""
    if given.kind != "folder":
        return sha256(given.address)
    return _digest(f"{file.removeprefix(given.address)} {sha256(file)}\n" for file in _files(given.address))


def _digest(lines: Iterator[str]) -> str:
    result = hashlib.sha256()
    for line in lines:
        result.update(line.encode("utf-8", "backslashreplace"))
    return result.hexdigest()


def _kind(file: str) -> str:
    name = file.lower()
    if name.endswith(".parquet"):
        return "parquet"
    if name.endswith(".zip"):
        return "zip"
    return "tar" if name.endswith((".tar", ".tar.gz", ".tgz")) else "file"


# Parquet


def _layout(address: str) -> str:
    """`optimade` for a table with the columns of OPTIMADE, else `parquet`."""
    with open_bytes(address) as file:
        opened = pq.ParquetFile(file)
        if not {"lattice_vectors", "cartesian_site_positions", "species_at_sites"} <= set(opened.schema_arrow.names):
            return "parquet"
        entries = next(opened.iter_batches(1024, columns=_optimade_columns(opened))).to_pylist()
        check_axes([optimade_row(str(k), entry) for k, entry in enumerate(entries)], Path(address))
        return "optimade"


def _rows(address: str, size: int) -> Iterator[tuple[int, int, int]]:
    with open_bytes(address) as file:
        n_rows = pq.ParquetFile(file).metadata.num_rows
    if n_rows == 0:
        raise TableError("the table has no rows", where=address)
    for start in range(0, n_rows, size):
        stop = min(start + size, n_rows)
        yield start, stop, stop - start


def _table_rows(address: str, size: int) -> Iterator[tuple[int, int, int]]:
    with open_bytes(address) as file:
        open_parquet(Path(address), None, file)  # names a missing column
    return _rows(address, size)


def _read_parquet(address: str, start: int, stop: int) -> Iterator[Structure]:
    with open_bytes(address) as file:
        source = open_parquet(Path(address), range(start, stop), file)
        for row, found in enumerate(structures_of(source, start), start):
            yield Structure(address, row, found)


def _read_optimade(address: str, start: int, stop: int) -> Iterator[Structure]:
    with open_bytes(address) as file:
        opened = pq.ParquetFile(file)
        columns = _optimade_columns(opened)
        identity = next((name for name in OPTIMADE_IDS if name in columns), None)
        batches = batches_of_rows(opened, range(start, stop), columns)
        entries = enumerate((entry for batch in batches for entry in batch.to_pylist()), start)
        rows = (optimade_row(str(entry.get(identity) or f"row {row}"), entry) for row, entry in entries)
        records: Iterator[Record] = ((row.name, row.crystal, None, []) for row in rows)
        source = Source(Path(address), [], lambda wanted: batches_of(records, wanted))
        for row, found in enumerate(structures_of(source, start), start):
            yield Structure(address, row, found)


def _optimade_columns(file: pq.ParquetFile) -> list[str]:
    return [name for name in (*OPTIMADE_STRUCTURE, *OPTIMADE_IDS) if name in file.schema_arrow.names]


# Archives


def _archive_cuts(cuts: Callable[[IO[bytes], int, int], Iterator[tuple[int, int, int]]]) -> Cuts:
    def cut(address: str, size: int) -> Iterator[tuple[int, int, int]]:
        with open_bytes(address) as file:
            found = list(cuts(file, size, size_of(address)))
        if not found:
            raise StructureError("the archive holds no files")
        yield from found

    return cut


def _archive_reader(read: Callable[[IO[bytes], int, int, int], Iterator[Crystal | Rejected]]) -> Read:
    def structures(address: str, start: int, stop: int) -> Iterator[Structure]:
        with open_bytes(address) as file:
            for found in read(file, start, stop, size_of(address)):
                yield Structure(address, None, found)

    return structures


# Folders and single files


@lru_cache(maxsize=16)
def _files(folder: str) -> tuple[str, ...]:
    """The files of a folder that are no inputs of their own."""
    return tuple(file for file in files_of(folder) if _kind(file) == "file")


def _folder_cuts(address: str, size: int) -> Iterator[tuple[int, int, int]]:
    files = _files(address)
    if not files:
        raise StructureError("the folder holds no files")
    for start in range(0, len(files), size):
        stop = min(start + size, len(files))
        yield start, stop, stop - start


def _read_folder(address: str, start: int, stop: int) -> Iterator[Structure]:
    for file in islice(_files(address), start, stop):
        with local_copy(file) as path:
            for found in read_file_of_directory(path):
                yield Structure(file, None, renamed(found, str(path), file))


def _file_cuts(address: str, _: int) -> Iterator[tuple[int, int, int]]:
    with local_copy(address) as path:
        yield 0, 0, count_structures([path]) or 0


def _read_one(address: str, _: int, __: int) -> Iterator[Structure]:
    with local_copy(address) as path:
        for found in read_structures([path]):
            yield Structure(address, None, renamed(found, str(path), address))


Cuts = Callable[[str, int], Iterator[tuple[int, int, int]]]
Read = Callable[[str, int, int], Iterator[Structure]]


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
        cuts: of an address and the most structures in a range: begin, end and number of structures of each range.
        read: the structures of a range, of its address, begin and end.
    """

    cuts: Cuts
    read: Read


KINDS = {
    "parquet": Kind(_table_rows, _read_parquet),
    "optimade": Kind(_rows, _read_optimade),
    "zip": Kind(_archive_cuts(zip_cuts), _archive_reader(read_zip)),
    "tar": Kind(_archive_cuts(tar_cuts), _archive_reader(read_tar)),
    "folder": Kind(_folder_cuts, _read_folder),
    "file": Kind(_file_cuts, _read_one),
}

TABLES = ("parquet", "optimade")
"""Kinds whose ranges are rows."""
