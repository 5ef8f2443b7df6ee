"""Symmetry operations as structure files write them, and the atoms that they make of a listed site.

Shapes: G symmetry operations, each a rotation and a translation side by side, (3, 4), in fractional coordinates.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import gemmi
import numpy as np
from numpy.typing import NDArray

from crystalformers.errors import StructureError
from crystalformers.io.text import excerpt

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

SPOT_TOLERANCE = 1e-4
"""Difference of each fractional coordinate below which two sites, or two images of one, are on the same spot."""

ROUNDING = 2e-3
"""Difference of fractional coordinates that three decimals explain: 0.333 and 0.667 for thirds, 0.155 and 0.311 for x
and 2x."""

MANY = 1000
"""Atoms from which on those that share a spot are searched with a tree."""

MAX_OPERATIONS = 384
"""Symmetry operations of a file: space groups have up to 192, magnetic ones twice as many."""

MAX_LENGTH = 200
"""Characters of a symmetry operation."""

NUMBERS = frozenset(map(str, range(1, 231)))
"""Space groups of the International Tables."""

_TERM = re.compile(r"([+-]?)(?=.)(?:(\d{1,9}\.?\d*|\.\d+)(?:/([1-9]\d{0,8}))?\*?)?([xyz]?)")


def listed_operations(texts: Sequence[str], centerings: Sequence[str], where: str) -> NDArray[np.float64]:
    """The operations that a file lists, (G, 3, 4), each combined with each centering translation, if there are any.

    Raises:
        StructureError: about `where`, if an operation cannot be read or there are more than `MAX_OPERATIONS`.
    """
    n_operations = len(texts) * max(1, len(centerings))
    if n_operations > MAX_OPERATIONS:
        raise StructureError(
            f"{n_operations} symmetry operations are more than {MAX_OPERATIONS}, twice those of any space group",
            where=where,
            remedy="list each once",
        )
    operations = np.array([parse_operation(text, where) for text in texts])
    translations = [parse_operation(text, where) * [0, 0, 0, 1] for text in centerings]
    return np.concatenate([operations + translation for translation in translations]) if translations else operations


def parse_operation(text: str, where: str) -> NDArray[np.float64]:
    """Rotation and translation, (3, 4), of an operation such as `-y, x-y, z+1/3`; raises StructureError."""
    rows = re.sub(r"\s", "", text.lower()).split(",") if len(text) <= MAX_LENGTH else []
    terms = [[_TERM.fullmatch(term) for term in re.split(r"(?<=.)(?=[+-])", row)] for row in rows[:3]]
    # In magnetic groups a fourth row tells whether time is reversed, which moves no atom.
    if len(rows) not in {3, 4} or any(None in row for row in terms):
        raise StructureError(
            f"the symmetry operation '{excerpt(text)}' cannot be read",
            where=where,
            remedy="correct it, or export the file again",
        )
    operation = np.zeros((3, 4))
    for row, matches in enumerate(terms):
        for sign, number, divisor, axis in (match.groups() for match in matches if match):
            value = float(number or 1) / float(divisor or 1)
            operation[row, "xyz".index(axis) if axis else 3] += -value if sign == "-" else value
    return operation


def space_groups(
    hall: str, names: Sequence[str], numbers: Sequence[str], choice: str, angles: Sequence[float]
) -> list[gemmi.SpaceGroup]:
    """The settings of space groups that the entries of a file may mean; empty if gemmi knows none of them.

    A Hall symbol has one meaning, and so have most Hermann-Mauguin names. Those of 24 groups mean two choices of the
    origin where nothing tells which. Entries that contradict each other have the meanings of both.

    Args:
        hall: Hall symbol, such as `-F 4 2 3`.
        names: Hermann-Mauguin names, such as `F m -3 m`, spaces free.
        numbers: of the International Tables.
        choice: `_space_group_IT_coordinate_system_code`: `1` or `2` for the choice of the origin.
        angles: of the cell, degrees, which tell rhombohedral from hexagonal axes.
    """
    found = [group for group in gemmi.spacegroup_table() if group.hall == hall][:1]
    names = [*names, *(gemmi.find_spacegroup_by_number(int(number)).hm for number in numbers if number in NUMBERS)]
    for name in names:
        group = gemmi.find_spacegroup_by_name(name, angles[0], angles[2])
        if group is None or group.number in {known.number for known in found}:
            continue
        if group.ext in {"1", "2"} and ":" not in name:
            found += [gemmi.find_spacegroup_by_name(f"{group.hm}:{k}") for k in "12" if choice not in {"1", "2"} - {k}]
        else:
            found.append(group)
    return found


def operations_of(group: gemmi.SpaceGroup) -> NDArray[np.float64]:
    """The operations of a space group, (G, 3, 4)."""
    return np.array([np.column_stack([op.rot, op.tran]) for op in group.operations()]) / gemmi.Op.DEN


def count_different(operations: NDArray[np.float64]) -> int:
    """How many operations differ by more than a lattice translation."""
    wrapped = operations.copy()
    wrapped[:, :, 3] = (wrapped[:, :, 3] + SPOT_TOLERANCE) % 1.0
    return len(np.unique(wrapped.reshape(-1, 12).round(3), axis=0))


def is_invariant(numbers_N: NDArray[np.int64], frac_N3: NDArray[np.float64], operations: NDArray[np.float64]) -> bool:
    """Whether each operation moves every atom of a crystal to one of the same element."""
    tree = _tree(frac_N3)
    for operation in operations:
        distance, index = tree.query(_wrapped(frac_N3 @ operation[:, :3].T + operation[:, 3]), p=np.inf)
        if (distance > ROUNDING).any() or (numbers_N[index] != numbers_N).any():
            return False
    return True


def special_position(coordinate: NDArray[np.float64], operations: NDArray[np.float64]) -> NDArray[np.float64]:
    """A site on the symmetry elements that it misses by rounding alone, as 0.333 misses one third; else as it was."""
    delta = operations[:, :, :3] @ coordinate + operations[:, :, 3] - coordinate
    delta -= np.round(delta)
    miss = np.abs(delta).max(axis=1)
    near = miss < ROUNDING
    return coordinate + delta[near].mean(axis=0) if (miss[near] >= SPOT_TOLERANCE).any() else coordinate


def images(coordinate: NDArray[np.float64], operations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Fractional coordinates, within the cell, of all atoms that the operations make of a site, each once."""
    moved = operations[:, :, :3] @ coordinate + operations[:, :, 3]
    moved -= np.floor(moved)
    if len(operations) == 1:
        return moved
    return moved[np.unique([same_spot(moved, image).argmax() for image in moved])]


def same_spot(coordinates: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of some fractional coordinates are the given one, or ones, up to lattice translations."""
    delta = coordinates - others
    return np.asarray((np.abs(delta - np.round(delta)) < SPOT_TOLERANCE).all(axis=1))


def share_a_spot(coordinates_N3: NDArray[np.float64]) -> bool:
    """Whether any two of some fractional coordinates are the same, up to lattice translations."""
    if len(coordinates_N3) < MANY:
        return any(same_spot(coordinates_N3[:k], coordinate).any() for k, coordinate in enumerate(coordinates_N3))
    distance, _ = _tree(coordinates_N3).query(_wrapped(coordinates_N3), k=2, p=np.inf)
    return bool((distance[:, 1] < SPOT_TOLERANCE).any())


def _tree(coordinates_N3: NDArray[np.float64]) -> cKDTree:
    from scipy.spatial import cKDTree

    return cKDTree(_wrapped(coordinates_N3), boxsize=1.0)


def _wrapped(coordinates_N3: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(coordinates_N3 % 1.0 % 1.0)  # a negative number next to zero gives 1 the first time
