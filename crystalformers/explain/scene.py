"""What a picture shows: the atoms and edges of a cell, and for attention the chosen atom and images with enough weight.

Shapes: N atoms drawn. Lengths in Angstrom.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np

from crystalformers.crystal import Crystal
from crystalformers.explain.data import Floats, ImageAttention, Integers

COLOURS = """
#ffffff #d9ffff #cc80ff #c2ff00 #ffb5b5 #909090 #3050f8 #ff0d0d #90e050 #b3e3f5 #ab5cf2 #8aff00 #bfa6a6 #f0c8a0
#ff8000 #ffff30 #1ff01f #80d1e3 #8f40d4 #3dff00 #e6e6e6 #bfc2c7 #a6a6ab #8a99c7 #9c7ac7 #e06633 #f090a0 #50d050
#c88033 #7d80b0 #c28f8f #668f8f #bd80e3 #ffa100 #a62929 #5cb8d1 #702eb0 #00ff00 #94ffff #94e0e0 #73c2c9 #54b5b5
#3b9e9e #248f8f #0a7d8c #006985 #c0c0c0 #ffd98f #a67573 #668080 #9e63b5 #d47a00 #940094 #429eb0 #57178f #00c900
#70d4ff #ffffc7 #d9ffc7 #c7ffc7 #a3ffc7 #8fffc7 #61ffc7 #45ffc7 #30ffc7 #1fffc7 #00ff9c #00e675 #00d452 #00bf38
#00ab24 #4dc2ff #4da6ff #2194d6 #267dab #266696 #175487 #d0d0e0 #ffd123 #b8b8d0 #a6544d #575961 #9e4fb5 #ab5c00
#754f45 #428296 #420066 #007d00 #70abfa #00baff #00a1ff #008fff #0080ff #006bff #545cf2 #785ce3 #8a4fe3 #a136d4
""".split()
"""Colour of each element, hydrogen first (those of Jmol)."""

PERIODS = (2, 10, 18, 36, 54, 86)
"""Last atomic number of each period except the seventh."""

LEAST_SHOWN = 0.03
"""A line is drawn to a neighbour with at least this share of the largest weight of a neighbour."""

CELL_ATOMS = 40
"""In a cell with more atoms, only those with enough weight are drawn."""


@dataclass(frozen=True, eq=False)
class Scene:
    """The atoms that are drawn, relative to the chosen atom, which is the first, or to the corner of the cell.

    Attributes:
        crystal: the structure.
        source: number in the crystal of each atom drawn, (N,).
        points: position of each atom drawn, (N, 3), Angstrom.
        weight: attention weight of each atom drawn, (N,); zeros without attention.
        corner: of the cell with the chosen atom in it, (3,), Angstrom.
    """

    crystal: Crystal
    source: Integers
    points: Floats
    weight: Floats
    corner: Floats

    @classmethod
    def around(cls, crystal: Crystal, atom: int, seen: ImageAttention, weight: Floats) -> Scene:
        """The images with enough weight and, if they are not too many, the atoms of the cell."""
        own = seen.distance == 0
        shown = (weight >= LEAST_SHOWN * weight[~own].max(initial=0)) & ~own
        frac = seen.vector @ np.linalg.inv(crystal.lattice) + crystal.frac_coords[atom] % 1
        in_cell = ((frac > -1e-3) & (frac < 1 + 1e-3)).all(1) & ~own & (len(crystal) <= CELL_ATOMS)
        order = np.concatenate([np.nonzero(own)[0], np.nonzero(shown | in_cell)[0]])
        corner = -(crystal.frac_coords[atom] % 1) @ crystal.lattice
        return cls(crystal, seen.source[order], seen.vector[order], np.where(shown | own, weight, 0)[order], corner)

    @classmethod
    def of(cls, crystal: Crystal) -> Scene:
        """The atoms of a cell, with their images on its faces."""
        frac = crystal.frac_coords % 1
        shifted = [(k, frac[k] + shift) for shift in product((0, 1), repeat=3) for k in range(len(crystal))]
        inside = [(k, place) for k, place in shifted if (place < 1 + 1e-3).all()]
        source, places = (np.array(column) for column in zip(*inside, strict=True))
        return cls(crystal, source, places @ crystal.lattice, np.zeros(len(source)), np.zeros(3))

    @property
    def radii(self) -> Floats:
        """Radius of each atom drawn, (N,), Angstrom; it grows with the period of the element."""
        period = np.searchsorted(PERIODS, self.crystal.numbers[self.source])
        return np.asarray(0.26 + 0.06 * period, dtype=np.float64)

    @property
    def edges(self) -> Iterator[tuple[Floats, Floats]]:
        """Both ends of the twelve edges of the cell."""
        corners = np.array(list(product((0, 1), repeat=3)))
        for a, b in combinations(corners, 2):
            if np.abs(a - b).sum() == 1:
                yield self.corner + a @ self.crystal.lattice, self.corner + b @ self.crystal.lattice
