"""One structure, from whatever holds it: a file of any known format, a pymatgen Structure, ASE Atoms."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io.ase_files import ASE_FORMATS, read_ase_file
from crystalformers.io.cif import read_cif_file
from crystalformers.io.frames import read_json_file, read_xyz_file
from crystalformers.io.objects import from_object
from crystalformers.io.overlap import check
from crystalformers.io.poscar import read_poscar_file
from crystalformers.io.rejected import Rejected
from crystalformers.io.text import excerpt, plain_name, printable

MAX_PATH = 4096
"""Longest path, characters; no usual system has longer ones."""


@dataclass(frozen=True)
class Format:
    """A kind of structure file.

    Attributes:
        label: what users call it.
        patterns: names of its files, in lower case and without `.gz`, with `*` for any letters.
        read: yields every structure of such a file, `Rejected` for one that cannot be used; may raise StructureError.
        many: whether a file usually holds many structures.
        nameless: whether a file may name no elements, so that `read` takes chemical symbols for it as well.
    """

    label: str
    patterns: tuple[str, ...]
    read: Callable[..., Iterator[Crystal | Rejected]]
    many: bool = False
    nameless: bool = False


FORMATS = (
    Format("CIF", ("*.cif", "*.mcif"), read_cif_file),
    Format("extended XYZ with a lattice", ("*.extxyz", "*.xyz"), read_xyz_file, many=True),
    Format("pymatgen or ASE JSON", ("*.json",), read_json_file, many=True),
    Format("formats of ASE", tuple(ASE_FORMATS), read_ase_file, many=True),
    Format("POSCAR", ("*.vasp", "*.poscar", "*.contcar", "poscar*", "contcar*"), read_poscar_file, nameless=True),
)
"""The structure files that can be read; the first whose pattern fits the name is taken."""


def known_formats() -> str:
    """The formats and the names of their files, for messages."""
    formats = (f"{known.label} ({', '.join(known.patterns)})" for known in FORMATS)
    return f"{', '.join(formats)}, each also as .gz"


def known_endings() -> list[str]:
    """How names of structure files may end: `.cif`, `.mcif`..."""
    patterns = (pattern for known in FORMATS for pattern in known.patterns)
    return [pattern.removeprefix("*") for pattern in patterns if pattern.startswith("*.")]


def format_of(path: Path) -> Format | None:
    """The format of a file, by its name; None if it is not a structure file."""
    name = plain_name(path)
    return next((known for known in FORMATS if any(fnmatchcase(name, pattern) for pattern in known.patterns)), None)


def read_file(path: Path, species: Sequence[str] = ()) -> Iterator[Crystal | Rejected]:
    """Every structure of a file, at least one item; what cannot be used comes as `Rejected`, never as an exception."""
    try:
        checked_path(path)
        known = format_of(path)
        if known is None:
            raise StructureError(f"not a structure file by its name; known are {known_formats()}", where=str(path))
        yield from known.read(path, species) if known.nameless else known.read(path)
    except StructureError as error:
        yield Rejected.of(printable(str(path)), error)


def read_crystal(path: Path | str, species: Sequence[str] = ()) -> Crystal:
    """The one structure of a file.

    Args:
        path: the file.
        species: chemical symbols for a POSCAR that names no elements (VASP 4), one for each of its counts.

    Raises:
        StructureError: if the file holds none that can be used, or more than one.
    """
    found = list(read_file(checked_path(path), species))
    if len(found) > 1:
        raise StructureError(
            f"the file holds {len(found)} structures, one is needed", where=str(path), remedy="split it"
        )
    if isinstance(found[0], Rejected):
        raise found[0].error()
    return found[0]


def checked_path(path: Path | str) -> Path:
    """A path; raises StructureError if it is the text of a structure, or a name that no table can hold."""
    text = os.fspath(path)
    if "\n" in text or "\0" in text or len(text) > MAX_PATH:
        raise StructureError(
            f"'{excerpt(text, 30)}' is no path",
            where="structure",
            remedy="give the path of a structure file; write the text of a structure to one first",
        )
    if text != printable(text):
        raise StructureError("the name is not UTF-8", where=printable(text), remedy="rename the file")
    return Path(path)


def as_crystal(structure: Any, name: str = "") -> Crystal:
    """A crystal from a Crystal, a pymatgen `Structure`, ASE `Atoms` or the path of a structure file.

    Args:
        structure: the object or path.
        name: what to call it in messages and tables; by default its own name or the path.

    Raises:
        StructureError: if it is disordered, not periodic, holds unknown elements or two atoms on one spot...
    """
    if isinstance(structure, str | Path):
        crystal = read_crystal(structure)
        return replace(crystal, name=name) if name else crystal
    if isinstance(structure, Crystal):
        return check(replace(structure, name=name) if name else structure)
    return check(from_object(structure, name))
