"""Files of one structure or many: extended XYZ, read by ASE, and JSON of pymatgen or ASE."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from io import StringIO
from itertools import count, islice
from pathlib import Path
from typing import Any

from crystalformers.crystal import Crystal
from crystalformers.errors import CrystalformersError, StructureError
from crystalformers.extras import optional
from crystalformers.io.json_tables import json_rows
from crystalformers.io.objects import from_object
from crystalformers.io.overlap import check
from crystalformers.io.rejected import Rejected
from crystalformers.io.text import check_length, excerpt, read_lines, read_text

MOST_DIGITS = 12
"""Digits of a number of atoms; longer ones are nonsense."""

TOO_MANY_COLUMNS = re.compile(r":\d{5,}")
"""A number of columns in the comment of a frame that would keep a parser busy for ever."""


def read_xyz_file(path: Path) -> Iterator[Crystal | Rejected]:
    """Every frame of an extended XYZ file, one at a time."""
    yield from crystals_of_frames(xyz_frames(path), path)


def xyz_frames(path: Path) -> Iterator[Any]:
    """ASE Atoms for each frame of an extended XYZ file, an error for one that ASE cannot read."""
    iread = with_ase(path, "ase.io").iread
    return (next_frame(iread(StringIO(text), index=":", format="extxyz"), path) for text in _xyz_texts(path))


def _xyz_texts(path: Path) -> Iterator[str]:
    """The text of each frame: the number of atoms, a comment, and as many lines; never more than the file holds."""
    lines = read_lines(path)
    for first in lines:
        if not first.strip():
            continue
        if not (first.strip().isascii() and first.strip().isdigit()) or len(first.strip()) > MOST_DIGITS:
            raise StructureError(
                f"'{excerpt(first, 20)}' is not a number of atoms", where=str(path), remedy="export the structure again"
            )
        frame, length = [first], 0
        for line in islice(lines, int(first) + 1):
            frame.append(line)
            length += len(line)
            check_length(length, "a frame", path)
        if len(frame) < int(first) + 2:
            raise StructureError(
                f"a frame should have {int(first)} atoms, but the file ends after {len(frame) - 2}",
                where=str(path),
                remedy="export the structure again",
            )
        if TOO_MANY_COLUMNS.search(frame[1]):
            raise StructureError(
                "a property has more than 9999 columns", where=str(path), remedy="export the structure again"
            )
        yield "".join(frame)


def read_json_file(path: Path) -> Iterator[Crystal | Rejected]:
    """The structures of a JSON file: one pymatgen dictionary or a list, an ASE database or ASE Atoms, a table.

    The tables are those of `json_tables`: a file of Matbench, an answer of an OPTIMADE server.
    """
    text = read_text(path)
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:  # not JSON, a number too long or lists too deep
        raise StructureError(
            f"not valid JSON ({error})", where=str(path), remedy="export the structure again"
        ) from error
    if isinstance(data, dict) and "nextid" in data:
        return crystals_of_frames(with_ase(path, "ase.io").iread(StringIO(text), index=":", format="json"), path)
    if isinstance(data, dict) and "__ase_objtype__" in data:
        return crystals_of_frames(map(with_ase(path, "ase.io.jsonio").decode, [text]), path)
    if isinstance(data, dict) and isinstance(data.get("data"), list):
        return _table_crystals(data, path)
    frames = data if isinstance(data, list) else [data]
    if not all(isinstance(frame, dict) and "sites" in frame for frame in frames):
        raise StructureError(
            "the JSON holds neither a pymatgen Structure (Structure.as_dict()) nor ASE Atoms",
            where=str(path),
            remedy="write it with one of them",
        )
    return crystals_of_frames(iter(frames), path)


def _table_crystals(data: dict[str, Any], path: Path) -> Iterator[Crystal | Rejected]:
    pairs = ((key, one) for key, value in data.items() if isinstance(value, list) for one in value)
    try:
        for name, crystal, _ in json_rows(pairs):
            try:
                yield check(crystal())
            except StructureError as error:
                yield Rejected.of(name, error)
    except ValueError as error:
        problem = f"neither a file of Matbench nor an answer of an OPTIMADE server ({error})"
        raise StructureError(problem, where=str(path), remedy="write it again") from error


def with_ase(path: Path, module: str, error: type[CrystalformersError] = StructureError) -> Any:
    """A module of ASE, or a sentence that says how to get it."""
    with optional("ase", "this format", error, str(path)):
        return import_module(module)


def crystals_of_frames(frames: Iterator[Any], path: Path) -> Iterator[Crystal | Rejected]:
    """Crystals of a file with one structure (called like the file) or many (called `file#0`, `file#1`...)."""
    following = next_frame(frames, path)
    if following is None:
        raise StructureError("the file holds no structure", where=str(path), remedy="export it again")
    for index in count():
        frame, following = following, next_frame(frames, path)
        name = str(path) if index == 0 and following is None else f"{path}#{index}"
        try:
            if isinstance(frame, StructureError):
                raise frame
            yield check(from_object(frame, name))
        except StructureError as error:
            yield Rejected.of(name, error)
        if following is None:
            return


def next_frame(frames: Iterator[Any], path: Path) -> Any:
    """The next frame, None after the last; an error where the parser fails, which also ends its iteration."""
    try:
        return next(frames, None)
    except StructureError as error:
        return error
    except Exception as error:  # a foreign parser on foreign input: any exception means "cannot be read"
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return StructureError(
            f"the file cannot be read ({reason})", where=str(path), remedy="export the structure again"
        )
