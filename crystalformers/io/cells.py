"""The structure in a row of a text table: a pymatgen dictionary, the text of a CIF, or numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io.cif import read_cif_text
from crystalformers.io.objects import from_pymatgen_dict
from crystalformers.io.overlap import check
from crystalformers.io.rejected import Rejected
from crystalformers.io.rows import STRUCTURE
from crystalformers.io.source import STRUCTURE_COLUMNS
from crystalformers.io.text import excerpt


def crystal_of_row(row: Mapping[str, Any], name: str) -> Crystal:
    """The crystal of a row of a text table: a column `structure` or `cif`, or the columns of `STRUCTURE`.

    Raises:
        StructureError: if there is none, or it cannot be used.
    """
    for column in STRUCTURE_COLUMNS:
        if isinstance(row.get(column), str):
            return crystal_of_text(row[column], name)
    if "structure" in row:
        return from_pymatgen_dict(row["structure"], name)
    missing = [key for key in STRUCTURE if key not in row]
    if missing:
        raise StructureError(
            f"'{missing[0]}' is missing; a row needs 'structure' (a pymatgen dict) or {', '.join(STRUCTURE)}"
        )
    try:
        numbers, lattice, frac = (np.array(row[key], dtype=np.float64).reshape(-1) for key in STRUCTURE)
        if not ((numbers == np.rint(numbers)) & (np.abs(numbers) < 1e9)).all():
            raise ValueError("atomic numbers must be integers")
        return Crystal(numbers.astype(np.int64), frac.reshape(len(numbers), 3), lattice.reshape(3, 3), name)
    except StructureError:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise StructureError(
            f"{', '.join(STRUCTURE)} must hold N, 9 and 3N numbers ({str(error).splitlines()[0]})"
        ) from error


def is_structure_text(text: str) -> bool:
    """Whether a text is meant to be a structure and not a path."""
    return "\n" in text or text.lstrip().startswith("{")


def crystal_of_text(text: str, name: str) -> Crystal:
    """The one crystal in the text of a CIF, or in a pymatgen dictionary written as JSON.

    Raises:
        StructureError: if the text is neither, or holds several structures.
    """
    if text.lstrip().startswith("{"):
        try:
            return check(from_pymatgen_dict(json.loads(text), name))
        except (json.JSONDecodeError, RecursionError) as error:
            raise StructureError(f"not valid JSON ({error})", where=name, remedy="write it again") from error
    if "_cell_" not in text.lower():
        problem = f"'{excerpt(text, 30)}' is neither the text of a CIF nor a pymatgen dictionary"
        raise StructureError(problem, where=name, remedy="write one of them")
    found = list(read_cif_text(text, name))
    if len(found) > 1:
        raise StructureError(f"the text holds {len(found)} structures, one is needed", where=name, remedy="split it")
    if isinstance(found[0], Rejected):
        raise found[0].error()
    return found[0]
