"""One structure, from whatever holds it: a file of any known format, a pymatgen Structure, ASE Atoms."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io.cif import read_cif_file
from crystalformers.io.objects import from_object
from crystalformers.io.overlap import check
from crystalformers.io.poscar import read_poscar
from crystalformers.io.rejected import Rejected
from crystalformers.io.text import open_text, read_text

FORMATS = "CIF, POSCAR/CONTCAR/.vasp, .xyz/.extxyz with a lattice, pymatgen or ASE .json (each also as .gz)"


def as_crystal(structure: Any, name: str = "") -> Crystal:
    """A crystal from a Crystal, a pymatgen `Structure`, ASE `Atoms` or the path of a structure file.

    Args:
        structure: the object or path.
        name: what to call it in messages and tables; by default its own name or the path.

    Raises:
        StructureError: if it is disordered, not periodic, holds unknown elements or two atoms on one spot...
    """
    if isinstance(structure, str | Path):
        crystal = read_crystal(Path(structure))
        return replace(crystal, name=name) if name else crystal
    if isinstance(structure, Crystal):
        return check(replace(structure, name=name) if name else structure)
    converted = from_object(structure, name)
    if converted is not None:
        return check(converted)
    raise StructureError(
        f"{name or 'structure'}: a {type(structure).__name__} is not a structure; pass a Crystal, a pymatgen "
        "Structure, ASE Atoms or the path of a structure file."
    )


def read_crystal(path: Path | str) -> Crystal:
    """The one structure of a file.

    Raises:
        StructureError: if the file holds none that can be used, or more than one.
    """
    path = Path(path)
    found = list(read_file(path))
    if len(found) > 1:
        raise StructureError(f"{path}: the file holds {len(found)} structures, one is needed; split it.")
    if isinstance(found[0], Rejected):
        raise StructureError(found[0].reason)
    return found[0]


def read_file(path: Path) -> Iterator[Crystal | Rejected]:
    """Every structure of a file, at least one item; what cannot be used comes as `Rejected`, never as an exception."""
    try:
        reader = reader_of(path)
        if reader is None:
            raise StructureError(f"{path}: not a structure file by its name; known are {FORMATS}.")
        yield from reader(path)
    except StructureError as error:
        yield Rejected(str(path), str(error))


def reader_of(path: Path) -> Callable[[Path], Iterator[Crystal | Rejected]] | None:
    """How to read a file, by its name; None if it is no structure file."""
    stem = path.name.lower().removesuffix(".gz")
    if stem.startswith(("poscar", "contcar")) and not stem.endswith((".cif", ".json", ".xyz", ".extxyz")):
        return _poscar
    return next((reader for suffix, reader in READERS.items() if stem.endswith(suffix)), None)


def _poscar(path: Path) -> Iterator[Crystal | Rejected]:
    yield check(read_poscar(read_text(path, errors="replace"), str(path)))


def _xyz(path: Path) -> Iterator[Crystal | Rejected]:
    from_file = _ase_iread(path)
    with open_text(path) as file:
        yield from _frames(from_file(file, index=":", format="extxyz"), path)


def _json(path: Path) -> Iterator[Crystal | Rejected]:
    text = read_text(path)
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise StructureError(f"{path}: not valid JSON ({error}); export the structure again.") from error
    if isinstance(data, dict) and "nextid" in data:
        return _frames(_ase_iread(path)(StringIO(text), index=":", format="json"), path)
    if isinstance(data, dict) and "__ase_objtype__" in data:
        _ase_iread(path)
        from ase.io import jsonio

        return _frames(map(jsonio.decode, [text]), path)
    frames = data if isinstance(data, list) else [data]
    if not all(isinstance(frame, dict) and "sites" in frame for frame in frames):
        raise StructureError(
            f"{path}: the JSON holds neither a pymatgen Structure (Structure.as_dict()) nor ASE Atoms; "
            "write it with one of them."
        )
    return _frames(iter(frames), path)


def _ase_iread(path: Path) -> Callable[..., Iterator[Any]]:
    """ASE's streaming reader, or a sentence that says how to get it."""
    try:
        from ase.io import iread
    except ImportError as error:
        raise StructureError(
            f"{path}: this format is read through ASE; install it with 'pip install crystalformers[ase]'."
        ) from error
    return iread


def _frames(frames: Iterator[Any], path: Path) -> Iterator[Crystal | Rejected]:
    """Crystals of a file with one structure (called like the file) or many (called `file#0`, `file#1`...)."""
    following = _next(frames, path)
    if following is None:
        raise StructureError(f"{path}: the file holds no structure; export it again.")
    for index in count():
        frame, following = following, _next(frames, path)
        name = str(path) if index == 0 and following is None else f"{path}#{index}"
        try:
            yield frame if isinstance(frame, Rejected) else as_crystal(frame, name)
        except StructureError as error:
            yield Rejected(name, str(error))
        if following is None:
            return


def _next(frames: Iterator[Any], path: Path) -> Any:
    """The next frame, None after the last; a `Rejected` where the parser stumbles, which also ends its iteration."""
    try:
        return next(frames, None)
    except Exception as error:  # a foreign parser on foreign input: any exception means "cannot be read"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Rejected(str(path), f"{path}: the file cannot be read ({reason}); export the structure again.")


READERS: dict[str, Callable[[Path], Iterator[Crystal | Rejected]]] = {
    ".cif": read_cif_file,
    ".mcif": read_cif_file,
    ".vasp": _poscar,
    ".poscar": _poscar,
    ".contcar": _poscar,
    ".extxyz": _xyz,
    ".xyz": _xyz,
    ".json": _json,
}
"""Readers by the end of the file name (without `.gz`); POSCAR and CONTCAR are known by its beginning."""
