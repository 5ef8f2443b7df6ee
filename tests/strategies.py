"""Hypothesis strategies for crystals of every shape, and the crystals themselves for tests that want a list."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from crystalformers.crystal import Crystal

MIN_DISTANCE = 0.9
"""No two images of atoms are closer, Angstrom."""

KINDS = ("random", "tiny", "needle", "sheared", "left-handed", "unwrapped", "symmetric")

SYMMETRIC_CRYSTALS = {
    "simple cubic": Crystal([84], [[0, 0, 0]], 3.3 * np.eye(3)),
    "bcc": Crystal([74], [[0, 0, 0]], 1.58 * (1 - 2 * np.eye(3))),
    "fcc": Crystal([29], [[0, 0, 0]], 1.8 * (1 - np.eye(3))),
    "rock salt": Crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], 2.8 * (1 - np.eye(3))),
    "diamond": Crystal([6, 6], [[0, 0, 0], [0.25, 0.25, 0.25]], 1.78 * (1 - np.eye(3))),
    "perovskite": Crystal(
        [38, 22, 8, 8, 8], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], 4.0 * np.eye(3)
    ),
    "hexagonal": Crystal(
        [12, 12], [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], [[3.2, 0, 0], [-1.6, 2.77, 0], [0, 0, 5.2]]
    ),
    "chain": Crystal([6, 7], [[0, 0, 0], [0.5, 0, 0]], np.diag([2.6, 25.0, 25.0])),
    "alone": Crystal([2], [[0, 0, 0]], 40 * np.eye(3)),
    "low": Crystal(
        [3, 8, 15],
        [[0.1, 0.2, 0.3], [0.6, 0.1, 0.8], [0.35, 0.7, 0.55]],
        [[4.1, 0.2, 0], [-0.7, 4.6, 0.3], [0.4, 1.1, 5.0]],
    ),
}
"""Sites with many tied frames, with few, and with none."""


def make_crystal(kind: str, n_atoms: int = 4, seed: int = 0) -> Crystal:
    """A crystal of one of `KINDS`; `tiny` has one atom, and dense cells may hold fewer than asked for."""
    rng = np.random.default_rng([seed, KINDS.index(kind), n_atoms])
    name = f"{kind}-{n_atoms}-{seed}"
    if kind == "symmetric":
        return _symmetric(rng, name)
    if kind == "tiny":
        n_atoms, lattice = 1, np.eye(3) * rng.uniform(1.6, 2.6, size=(3, 1)) + rng.uniform(-0.3, 0.3, size=(3, 3))
    elif kind == "needle":
        lattice = np.diag([rng.uniform(2.0, 3.0), rng.uniform(2.0, 3.0), rng.uniform(30, 50)])
        lattice += rng.uniform(-0.3, 0.3, size=(3, 3))
    else:
        lattice = (np.eye(3) + rng.uniform(-0.3, 0.3, size=(3, 3))) * 2.3 * max(n_atoms, 2) ** (1 / 3)
    if kind == "sheared":
        lattice = np.array([[1, 5, 0], [0, 1, 0], [-3, 2, 1]]) @ lattice
    if (np.linalg.det(lattice) < 0) != (kind == "left-handed"):
        lattice[[0, 1]] = lattice[[1, 0]]
    frac_coords = _apart(rng, n_atoms, lattice)
    if kind == "unwrapped":
        frac_coords = frac_coords + rng.integers(-4, 5, size=frac_coords.shape)
    return Crystal(rng.integers(1, 99, size=len(frac_coords)), frac_coords, lattice, name)


def random_crystals(count: int, seed: int = 0, most: int = 8) -> list[Crystal]:
    """Crystals of all kinds in turn, up to `most` atoms each."""
    return [make_crystal(KINDS[k % len(KINDS)], 1 + (5 * k) % most, seed + k) for k in range(count)]


@st.composite
def crystals(draw: st.DrawFn, kinds: Sequence[str] = KINDS, most: int = 6) -> Crystal:
    """A crystal of one of the kinds, up to `most` atoms."""
    return make_crystal(draw(st.sampled_from(kinds)), draw(st.integers(1, most)), draw(st.integers(0, 10_000)))


def closest(frac: NDArray[np.float64], others: NDArray[np.float64], lattice: NDArray[np.float64]) -> float:
    """Smallest distance from the point `frac` to an image of `others`, Angstrom; by brute force."""
    spacing = 1 / np.linalg.norm(np.linalg.inv(lattice), axis=0)
    reach = np.ceil(MIN_DISTANCE / spacing).astype(int) + 1
    cells = np.array(list(product(*(range(-r, r + 1) for r in reach))))
    delta = others - frac
    vectors = ((delta - np.round(delta))[:, None] + cells) @ lattice
    return float(np.linalg.norm(vectors, axis=-1).min())


def _apart(rng: np.random.Generator, n_atoms: int, lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    """Random points of the cell, none nearer than MIN_DISTANCE to an image of another."""
    points = [rng.uniform(size=3)]
    for _ in range(50 * (n_atoms - 1)):
        point = rng.uniform(size=3)
        if len(points) < n_atoms and closest(point, np.array(points), lattice) > MIN_DISTANCE:
            points.append(point)
    return np.array(points)


def _symmetric(rng: np.random.Generator, name: str) -> Crystal:
    """Textbook cubic crystals, whose shells of many atoms at one distance are the hard case for a sphere's edge."""
    a = rng.uniform(3.6, 5.6)
    half_face = a / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    prototypes = (
        (half_face, [[0, 0, 0], [0.5, 0.5, 0.5]]),
        (half_face, [[0, 0, 0], [0.25, 0.25, 0.25]]),
        (np.eye(3) * a, [[0, 0, 0], [0.5, 0.5, 0.5]]),
        (np.eye(3) * a, [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]),
    )
    lattice, points = prototypes[rng.integers(len(prototypes))]
    return Crystal(rng.integers(1, 99, size=len(points)), np.array(points), lattice, name)
