"""What ASE reads: inputs and outputs of simulation codes, trajectories, databases. ASE is imported only then.

Only formats that hold a lattice, and whose reader runs nothing that is in the file, are listed.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from functools import partial
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError, TableError
from crystalformers.io.frames import crystals_of_frames, next_frame, with_ase, xyz_frames
from crystalformers.io.objects import from_object
from crystalformers.io.overlap import check
from crystalformers.io.rejected import Rejected
from crystalformers.io.source import CrystalOf, Record, Source, batches_of, label_text, labels_of, record
from crystalformers.io.text import plain_name, read_text

ASE_FORMATS = {
    "*.traj": "traj",
    "*outcar*": "vasp-out",
    "*xdatcar*": "vasp-xdatcar",
    "*vasprun*.xml": "vasp-xml",
    "*.pwi": "espresso-in",
    "*.pwo": "espresso-out",
    "geometry.in": "aims",
    "*.magres": "magres",
    "*.gen": "gen",
    "*.res": "res",
    "*.cfg": "cfg",
    "*.f34": "crystal",
    "*.rmc6f": "rmc6f",
    "*.xsf": "xsf",
    "*.xsd": "xsd",
}
"""Names of files, in lower case, and what ASE calls their formats."""

BY_PATH = frozenset({"traj", "vasp-out"})
"""Formats that ASE reads from a path only, besides those that it says."""

RESULTS = ("energy", "free_energy", "magmom", "charge")
"""Results of a calculation that are labels, if ASE has them; energies of the cell in eV."""


def read_ase_file(path: Path) -> Iterator[Crystal | Rejected]:
    """Every structure of a file of one of `ASE_FORMATS`, one at a time.

    Raises:
        StructureError: if the file cannot be read, or ASE is not installed.
    """
    yield from crystals_of_frames(_frames(path), path)


def _frames(path: Path) -> Iterator[Any]:
    io = with_ase(path, "ase.io")
    form = next(form for pattern, form in ASE_FORMATS.items() if fnmatchcase(plain_name(path), pattern))
    file: Path | StringIO = path
    if form in BY_PATH or not io.formats.ioformats[form].acceptsfd:
        if path.suffix.lower() == ".gz":
            raise StructureError("this format is read unpacked only", where=str(path), remedy="unpack it")
        if not path.is_file():
            raise StructureError("the file cannot be read (No such file or directory)", where=str(path))
    else:
        file = StringIO(read_text(path, errors="replace"))
    found: Iterator[Any] = io.iread(file, index=":", format=form, do_not_split_by_at_sign=True)
    return found


def open_frames(path: Path) -> Source:
    """An extended XYZ file or a trajectory: ids are `id` in the info of a frame, else its number from 0.

    Labels are the single values in the info, and `RESULTS`.

    Raises:
        TableError: if ASE is not installed, or the file cannot be opened.
    """
    read = _frames if plain_name(path).endswith(".traj") else xyz_frames

    def rows() -> Iterator[tuple[dict[str, Any], CrystalOf]]:
        frames = read(path)
        for index in count():
            frame = next_frame(frames, path)
            if frame is None:
                return
            name = {"id": str(index)}
            if isinstance(frame, StructureError):
                yield name, partial(_refuse, frame)
            else:
                results = {} if frame.calc is None else frame.calc.results
                values = {key: results[key] for key in RESULTS if key in results} | frame.info
                yield name | values, partial(_crystal_of, frame)

    n_rows = 0

    def values() -> Iterator[Mapping[str, Any]]:
        nonlocal n_rows
        for row, _ in rows():
            n_rows += 1
            yield {key: value for key, value in row.items() if isinstance(value, str | int | float)}

    labels = labels_of(values())

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return batches_of((record(k, row, crystal, wanted) for k, (row, crystal) in enumerate(rows())), wanted)

    return Source(path, labels, batches, n_rows)


def _refuse(error: StructureError, row: Any, name: str) -> Crystal:
    raise error


def _crystal_of(frame: Any, row: Any, name: str) -> Crystal:
    return check(from_object(frame, name))


def open_database(path: Path) -> Source:
    """An SQLite database of ASE: the id of a row is ASE's own, labels are its key-value pairs and `RESULTS`.

    Raises:
        TableError: if the file is none, or ASE is not installed.
    """
    database = with_ase(path, "ase.db", TableError)
    _check_database(path)

    def rows() -> Iterator[Any]:
        connection = database.connect(os.fspath(path), type="db", use_lock_file=False)
        try:
            yield from connection.select()
        except Exception as error:  # a foreign parser on foreign input
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise TableError(f"the database cannot be read ({reason})", where=str(path)) from error

    n_rows = 0

    def values() -> Iterator[Mapping[str, Any]]:
        nonlocal n_rows
        for row in rows():
            n_rows += 1
            yield _values(row)

    labels = labels_of(values())

    def batches(wanted: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return batches_of((_record(row, wanted) for row in rows()), wanted)

    return Source(path, labels, batches, n_rows)


def _check_database(path: Path) -> None:
    """Refuse what is no database of ASE before ASE opens it, which would make one of it."""
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name = 'systems'").fetchone()[0]
    except sqlite3.Error as error:
        raise TableError(f"not an SQLite database ({error})", where=str(path), remedy="write it again") from error
    if not found:
        raise TableError("the database was not written by ASE", where=str(path), remedy="write it with ase.db")


def _values(row: Any) -> dict[str, Any]:
    results = {name: row[name] for name in RESULTS if name in row}
    return {**results, **row.key_value_pairs}


def _record(row: Any, wanted: Sequence[str]) -> Record:
    name, values = str(row.id), _values(row)
    return name, partial(_crystal, row, name), None, [label_text(values.get(label)) for label in wanted]


def _crystal(row: Any, name: str) -> Crystal:
    try:
        atoms = row.toatoms()
    except Exception as error:  # a foreign parser on foreign input
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StructureError(f"the structure cannot be read ({reason})", where=name) from error
    return check(from_object(atoms, name))
