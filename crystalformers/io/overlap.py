"""Two atoms on one spot: the mistake that no file format forbids and no model survives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.images import CrystalBatch, build_images

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
"""Atoms from which on pairs are searched through `images`, whose memory is linear in atoms."""


def check(crystal: Crystal) -> Crystal:
    """The crystal itself, if no two atoms (periodic images included) are on one spot.

    Raises:
        StructureError: naming two atoms closer than `MIN_DISTANCE` (`MIN_DISTANCE_OF_HYDROGEN` if one is hydrogen).
    """
    label = crystal.name or "structure"
    if not overlapping(crystal.numbers[None], crystal.frac_coords[None], crystal.lattice[None])[0]:
        return crystal
    if crystal.volume < len(crystal) * MIN_VOLUME:
        raise StructureError(
            f"{label}: a cell of {crystal.volume:.2g} Å³ cannot hold {len(crystal)} atoms; "
            "give the lattice vectors in Å."
        )
    pairs = _close_pairs(crystal)
    if not pairs:  # at the very limit, where the two ways to measure a distance round differently
        return crystal
    i, j, distance = pairs[0]
    first, second = (f"{crystal.symbols[k]} (atom {k + 1})" for k in (i, j))
    other = "its own periodic image" if i == j else second
    raise StructureError(
        f"{label}: {first} and {other} are only {distance:.3f} Å apart; "
        "remove the duplicate atom, choose an ordered model, or correct coordinates, symmetry or lattice."
    )


def overlapping(
    numbers_RN: NDArray[np.int64], frac_RN3: NDArray[np.float64], lattice_R33: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Which of R crystals of N atoms each hold two atoms (images included) on one spot, (R,).

    With every height h_k of the cell above twice the distance d, a closer pair has |f_k| < d / h_k < 1/2: the wrapped
    difference of the coordinates is the one image that matters, and no atom meets its own image. Flatter cells, a
    handful among thousands, and very large ones go through the exact enumeration of `images`.
    """
    heights = 1 / np.linalg.norm(np.linalg.inv(lattice_R33), axis=1)
    plain = (heights > 2 * MIN_DISTANCE).all(axis=1) & (numbers_RN.shape[1] < LARGE_CELL)
    result = np.zeros(len(lattice_R33), dtype=bool)
    rows = np.flatnonzero(plain)
    for chunk in np.array_split(rows, len(rows) * numbers_RN.shape[1] ** 2 // PAIRS_AT_ONCE + 1):
        result[chunk] = _wrapped(numbers_RN[chunk], frac_RN3[chunk], lattice_R33[chunk], heights[chunk])
    for row in np.flatnonzero(~plain):
        crystal = Crystal(numbers_RN[row], frac_RN3[row], lattice_R33[row])
        result[row] = crystal.volume < len(crystal) * MIN_VOLUME or bool(_close_pairs(crystal))
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
    limit = _limit(numbers_RN[row, i], numbers_RN[row, j])
    result = np.zeros(len(frac_RN3), dtype=bool)
    result[row[(vector**2).sum(-1) < limit**2]] = True
    return result


def _close_pairs(crystal: Crystal) -> list[tuple[int, int, float]]:
    """Atoms i and j and distance (Angstrom) of every pair on one spot, in a cell of any shape that is not too dense."""
    images = build_images(CrystalBatch.from_crystals([crystal]), MIN_DISTANCE)
    i, j, distance = images.target.numpy(), images.source.numpy(), images.distance.numpy()
    itself = (i == j) & (distance == 0)
    close = np.flatnonzero((distance < _limit(crystal.numbers[i], crystal.numbers[j])) & ~itself)
    return [(int(i[k]), int(j[k]), float(distance[k])) for k in close]


def _limit(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.float64]:
    """Smallest distance allowed between atoms of these atomic numbers, Angstrom."""
    return np.where(np.minimum(first, second) > 1, MIN_DISTANCE, MIN_DISTANCE_OF_HYDROGEN)
