"""Two atoms on one spot: the mistake that no file format forbids and no model survives.

Shapes: R crystals of N atoms each. Lengths in Angstrom.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError

MIN_DISTANCE = 0.8
"""Distance between two nuclei below which a structure is wrong, Angstrom. Among some 90,000 relaxed structures of the
Materials Project and OQMD none is closer than 0.96 (N2 has 1.10); positions of disordered models are."""

MIN_DISTANCE_OF_HYDROGEN = 0.5
"""The same for a pair with hydrogen, Angstrom (H2 has 0.74; hydrogen refined from X-rays comes as close as 0.6)."""

MIN_VOLUME = MIN_DISTANCE_OF_HYDROGEN**3 / np.sqrt(2)
"""Volume per atom, Å³, below which dense packing proves that two atoms are too close."""

PAIRS_AT_ONCE = 1 << 21
"""Pairs of atoms compared at once; bounds the memory."""

LARGE_CELL = 1500
"""Atoms from which on pairs are searched with a tree, whose memory is linear in atoms."""

ATOMS_AT_ONCE = 1024
"""Atoms looked up in the tree at once; the search ends with the first of these blocks that has a close pair."""


class ClosePair(NamedTuple):
    """Atoms i and j (the same for an atom and its own periodic image) and their distance, Angstrom."""

    i: int
    j: int
    distance: float


def check(crystal: Crystal) -> Crystal:
    """The crystal itself, if no two atoms (periodic images included) are on one spot.

    Raises:
        StructureError: naming two atoms closer than `MIN_DISTANCE` (`MIN_DISTANCE_OF_HYDROGEN` if one is hydrogen).
    """
    where = crystal.name or "structure"
    if not overlapping(crystal.numbers[None], crystal.frac_coords[None], crystal.lattice[None])[0]:
        return crystal
    if crystal.volume < len(crystal) * MIN_VOLUME:
        raise StructureError(
            f"a cell of {crystal.volume:.2g} Å³ cannot hold {len(crystal)} atoms",
            where=where,
            remedy="give the lattice vectors in Å",
        )
    pair = close_pair(crystal.numbers, crystal.frac_coords, crystal.lattice)
    if pair is None:  # at the very limit, where the two ways to measure a distance round differently
        return crystal
    first, second = (f"{crystal.symbols[k]} (atom {k + 1})" for k in (pair.i, pair.j))
    other = "its own periodic image" if pair.i == pair.j else second
    raise StructureError(
        f"{first} and {other} are only {pair.distance:.3f} Å apart",
        where=where,
        remedy="remove the duplicate atom, choose an ordered model, or correct coordinates, symmetry or lattice",
    )


def overlapping(
    numbers_RN: NDArray[np.int64], frac_RN3: NDArray[np.float64], lattice_R33: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which of R crystals of N atoms each hold two atoms (images included) on one spot, (R,).

    With every height h_k of the cell above twice the distance d, a closer pair has |f_k| < d / h_k < 1/2: the wrapped
    difference of the coordinates is the one image that matters, and no atom meets its own image. Flatter cells, a
    handful among thousands, and very large ones are searched with `close_pair`.
    """
    n_atoms = numbers_RN.shape[1]
    heights_R3 = _heights(lattice_R33)
    plain = (heights_R3 > 2 * MIN_DISTANCE).all(axis=1) & (n_atoms < LARGE_CELL)
    result = np.abs(np.linalg.det(lattice_R33)) < n_atoms * MIN_VOLUME
    rows = np.flatnonzero(plain & ~result)
    at_once = max(1, PAIRS_AT_ONCE // n_atoms**2)
    for start in range(0, len(rows), at_once):
        chunk = rows[start : start + at_once]
        result[chunk] = _wrapped(numbers_RN[chunk], frac_RN3[chunk], lattice_R33[chunk], heights_R3[chunk])
    for row in np.flatnonzero(~plain & ~result):
        result[row] = close_pair(numbers_RN[row], frac_RN3[row], lattice_R33[row]) is not None
    return result


def _wrapped(
    numbers_RN: NDArray[np.int64],
    frac_RN3: NDArray[np.float64],
    lattice_R33: NDArray[np.float64],
    heights_R3: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """`overlapping` for cells higher than twice the distance; one axis discards most pairs, the rest are measured."""
    axis = frac_RN3[:, :, 0]
    delta = axis[:, :, None] - axis[:, None, :]
    near = np.abs(delta - np.round(delta)) < (MIN_DISTANCE / heights_R3[:, 0])[:, None, None]
    row, i, j = np.nonzero(near & np.tri(axis.shape[1], k=-1, dtype=bool))
    vector = frac_RN3[row, i] - frac_RN3[row, j]
    vector = np.einsum("pk,pkx->px", vector - np.round(vector), lattice_R33[row])
    heavy = np.minimum(numbers_RN[row, i], numbers_RN[row, j]) > 1
    limit = np.where(heavy, MIN_DISTANCE, MIN_DISTANCE_OF_HYDROGEN)
    result = np.zeros(len(frac_RN3), dtype=bool)
    result[row[(vector**2).sum(-1) < limit**2]] = True
    return result


def close_pair(
    numbers_N: NDArray[np.int64], frac_N3: NDArray[np.float64], lattice_33: NDArray[np.float64]
) -> ClosePair | None:
    """An atom with its nearest neighbour, if they are on one spot; for cells of any shape, in memory linear in N.

    The cell is replaced by an equivalent compact one, and its atoms are joined by their images within `MIN_DISTANCE`
    of its faces. Those are few: a compact cell in which no atom meets its own image is at least 0.35 Å high.
    """
    from scipy.spatial import cKDTree

    basis = _compact(lattice_33)
    shortest = float(np.linalg.norm(basis, axis=1).min())
    if shortest < MIN_DISTANCE_OF_HYDROGEN:
        return ClosePair(0, 0, shortest)
    frac = (frac_N3 % 1.0) @ lattice_33 @ np.linalg.inv(basis)
    frac, atom = _padded(frac % 1.0, MIN_DISTANCE / _heights(basis))
    positions, found = frac @ basis, []
    for limit, lightest in ((MIN_DISTANCE_OF_HYDROGEN, 1), (MIN_DISTANCE, 2)):
        chosen = np.flatnonzero(numbers_N[atom] >= lightest)
        n_own = int(np.searchsorted(chosen, len(frac_N3)))  # the atoms themselves come before their images
        points, tree = positions[chosen], cKDTree(positions[chosen])
        for start in range(0, n_own, ATOMS_AT_ONCE):
            queried = np.arange(start, min(start + ATOMS_AT_ONCE, n_own))
            distance, index = tree.query(points[queried], k=2, distance_upper_bound=limit)
            other = np.where(index[:, 0] == queried, 1, 0)  # of the two nearest points one may be the atom itself
            distance = distance[np.arange(len(queried)), other]
            if np.isfinite(distance).any():
                k = int(np.isfinite(distance).argmax())
                i, j = atom[chosen[[queried[k], index[k, other[k]]]]]
                found.append(ClosePair(int(i), int(j), float(distance[k])))
                break
    return min(found, default=None, key=lambda pair: (pair.i, pair.distance))


def _compact(lattice_33: NDArray[np.float64]) -> NDArray[np.float64]:
    """Another basis of the same lattice, whose vectors cannot be shortened by adding each other; (3, 3), rows.

    Such a basis is reduced in the sense of Minkowski: no height is less than 0.7 times its vector's length.
    """
    basis = lattice_33.copy()
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2)
    shortened = True
    while shortened:
        shortened = False
        for k in range(3):
            others = np.delete(basis, k, axis=0)
            nearest = np.round(np.linalg.lstsq(others.T, basis[k], rcond=None)[0])
            candidates = basis[k] - (nearest + steps) @ others
            lengths = np.linalg.norm(candidates, axis=1)
            if lengths.min() < (1 - 1e-9) * np.linalg.norm(basis[k]):
                basis[k], shortened = candidates[lengths.argmin()], True
    return basis


def _padded(
    frac_N3: NDArray[np.float64], reach_3: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Wrapped coordinates and, after them, those of all images up to `reach` outside the cell; the atom of each."""
    frac, atom = frac_N3, np.arange(len(frac_N3))
    for k, reach in enumerate(reach_3 * (1 + 1e-9)):
        shifts = np.arange(-np.ceil(reach), np.ceil(reach) + 1)
        shifts = shifts[np.argsort(np.abs(shifts), kind="stable")]  # the atoms themselves first
        moved = frac[:, k] + shifts[:, None]
        shift, row = np.nonzero((moved >= -reach) & (moved <= 1 + reach))
        frac, atom = frac[row], atom[row]
        frac[:, k] = moved[shift, row]
    return frac, atom


@np.errstate(over="ignore")  # a lattice vector of next to no length makes the height zero
def _heights(lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances between opposite faces of cells, (..., 3)."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(lattice), axis=-2))
