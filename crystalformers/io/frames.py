"""Files of one structure or many: extended XYZ, read by ASE, and JSON of pymatgen or ASE."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import count
from pathlib import Path
from typing import Any

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io.objects import from_object
from crystalformers.io.overlap import check
from crystalformers.io.rejected import Rejected
from crystalformers.io.text import open_text, read_text


def read_xyz_file(path: Path) -> Iterator[Crystal | Rejected]:
    """Every frame of an extended XYZ file, one at a time."""
    iread = _ase_iread(path)
    with open_text(path) as file:
        yield from _crystals(iread(file, index=":", format="extxyz"), path)


def read_json_file(path: Path) -> Iterator[Crystal | Rejected]:
    """The structures of a JSON file: one pymatgen dictionary, a list of them, an ASE database or ASE Atoms."""
    text = read_text(path)
    try:
        data = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise StructureError(
            f"not valid JSON ({error})", where=str(path), remedy="export the structure again"
        ) from error
    if isinstance(data, dict) and "nextid" in data:
        return _crystals(_ase_iread(path)(StringIO(text), index=":", format="json"), path)
    if isinstance(data, dict) and "__ase_objtype__" in data:
        _ase_iread(path)
        from ase.io import jsonio

        return _crystals(map(jsonio.decode, [text]), path)
    frames = data if isinstance(data, list) else [data]
    if not all(isinstance(frame, dict) and "sites" in frame for frame in frames):
        raise StructureError(
            "the JSON holds neither a pymatgen Structure (Structure.as_dict()) nor ASE Atoms",
            where=str(path),
            remedy="write it with one of them",
        )
    return _crystals(iter(frames), path)


def _ase_iread(path: Path) -> Callable[..., Iterator[Any]]:
    """ASE's streaming reader, or a sentence that says how to get it."""
    try:
        from ase.io import iread
    except ImportError as error:
        raise StructureError(
            "this format is read through ASE",
            where=str(path),
            remedy="install it with 'pip install crystalformers[ase]'",
        ) from error
    return iread


def _crystals(frames: Iterator[Any], path: Path) -> Iterator[Crystal | Rejected]:
    """Crystals of a file with one structure (called like the file) or many (called `file#0`, `file#1`...)."""
    following = _next(frames, path)
    if following is None:
        raise StructureError("the file holds no structure", where=str(path), remedy="export it again")
    for index in count():
        frame, following = following, _next(frames, path)
        name = str(path) if index == 0 and following is None else f"{path}#{index}"
        try:
            if isinstance(frame, StructureError):
                raise frame
            yield check(from_object(frame, name))
        except StructureError as error:
            yield Rejected.of(name, error)
        if following is None:
            return


def _next(frames: Iterator[Any], path: Path) -> Any:
    """The next frame, None after the last; an error where the parser fails, which also ends its iteration."""
    try:
        return next(frames, None)
    except Exception as error:  # a foreign parser on foreign input: any exception means "cannot be read"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return StructureError(
            f"the file cannot be read ({reason})", where=str(path), remedy="export the structure again"
        )
