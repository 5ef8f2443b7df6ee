"""Symmetry operations as structure files write them, and the atoms that they make of a listed site.

Shapes: G symmetry operations, each a rotation and a translation side by side, (3, 4), in fractional coordinates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import gemmi
import numpy as np
from numpy.typing import NDArray

from crystalformers.errors import StructureError

SPOT_TOLERANCE = 1e-4
"""Difference of each fractional coordinate below which two sites, or two images of one, are on the same spot."""

NUMBERS = frozenset(map(str, range(1, 231)))
"""Space groups of the International Tables."""

_TERM = re.compile(r"([+-]?)(?=.)(?:(\d{1,9}\.?\d*|\.\d+)(?:/([1-9]\d{0,8}))?\*?)?([xyz]?)")


def listed_operations(texts: Sequence[str], centerings: Sequence[str], where: str) -> NDArray[np.float64]:
    """The operations that a file lists, (G, 3, 4), each combined with each centering translation, if there are any.

    Raises:
        StructureError: about `where`, if an operation cannot be read.
    """
    operations = np.array([parse_operation(text, where) for text in texts])
    translations = [parse_operation(text, where) * [0, 0, 0, 1] for text in centerings]
    return np.concatenate([operations + translation for translation in translations]) if translations else operations


def parse_operation(text: str, where: str) -> NDArray[np.float64]:
    """Rotation and translation, (3, 4), of an operation such as `-y, x-y, z+1/3`; raises StructureError."""
    rows = re.sub(r"\s", "", text.lower()).split(",")
    terms = [[_TERM.fullmatch(term) for term in re.split(r"(?<=.)(?=[+-])", row)] for row in rows[:3]]
    # In magnetic groups a fourth row tells whether time is reversed, which moves no atom.
    if len(rows) not in {3, 4} or any(None in row for row in terms):
        raise StructureError(
            f"the symmetry operation '{text}' cannot be read",
            where=where,
            remedy="correct it, or export the file again",
        )
    operation = np.zeros((3, 4))
    for row, matches in enumerate(terms):
        for sign, number, divisor, axis in (match.groups() for match in matches if match):
            value = float(number or 1) / float(divisor or 1)
            operation[row, "xyz".index(axis) if axis else 3] += -value if sign == "-" else value
    return operation


def space_group_operations(
    names: Sequence[str], numbers: Sequence[str], angles: Sequence[float]
) -> NDArray[np.float64] | None:
    """Operations, (G, 3, 4), of the first Hermann-Mauguin name, else the first number, that gemmi knows; None if none.

    Args:
        names: such as `F m -3 m`, spaces free.
        numbers: of the International Tables.
        angles: of the cell, degrees, which tell rhombohedral from hexagonal axes.
    """
    groups = [gemmi.find_spacegroup_by_name(name, angles[0], angles[2]) for name in names]
    groups += [gemmi.find_spacegroup_by_number(int(number)) for number in numbers if number in NUMBERS]
    group = next((group for group in groups if group), None)
    if group is None:
        return None
    return np.array([np.column_stack([op.rot, op.tran]) for op in group.operations()]) / gemmi.Op.DEN


def images(coordinate: NDArray[np.float64], operations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fractional coordinates, within the cell, of all atoms that the operations make of a site, each once."""
    moved = operations[:, :, :3] @ coordinate + operations[:, :, 3]
    moved -= np.floor(moved)
    return moved[np.unique([same_spot(moved, image).argmax() for image in moved])]


def same_spot(coordinates: NDArray[np.float64], coordinate: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of some fractional coordinates are the given one, up to lattice translations."""
    delta = coordinates - coordinate
    return np.asarray((np.abs(delta - np.round(delta)) < SPOT_TOLERANCE).all(axis=1))
