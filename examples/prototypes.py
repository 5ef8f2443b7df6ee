"""Structure prototypes: from a space group and a few free parameters to every atom of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import spglib
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

PRIMITIVE_VECTORS = {
    "P": np.eye(3),
    "F": np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
    "I": np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]) / 2,
}
"""Rows: primitive vectors in units of the conventional ones, by the centring letter of the space group."""


@dataclass(frozen=True)
class Prototype:
    """A structure type.

    Attributes:
        name: its usual name.
        space_group: short Hermann-Mauguin symbol.
        hall_number: entry of the spglib database, which also fixes the choice of origin.
        sites: one (element, "x y z") per occupied Wyckoff position. The element counts the elements of the
            formula from 0; x, y, z are fractions or the names of free parameters.
    """

    name: str
    space_group: str
    hall_number: int
    sites: tuple[tuple[int, str], ...]

    @property
    def hexagonal(self) -> bool:
        """Whether a and b enclose 120 degrees: the first axis of the symbol is then a 3 or a 6."""
        return self.space_group.lstrip("PR-")[0] in "36"

    def lattice(self, a: float, c: float) -> FloatArray:
        """Conventional lattice vectors as rows, shape (3, 3), Angstrom; b equals a in every type here."""
        if self.hexagonal:
            return np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])
        return np.diag([a, a, c])

    def atoms(self, parameters: Mapping[str, float]) -> tuple[list[int], FloatArray]:
        """Elements (index in the formula) and fractional coordinates (N, 3) of the conventional cell."""
        elements: list[int] = []
        coords: list[FloatArray] = []
        for element, site in self.sites:
            point = np.array([_coordinate(word, parameters) for word in site.split()])
            orbit = _orbit(self.hall_number, point)
            elements += [element] * len(orbit)
            coords.append(orbit)
        return elements, np.concatenate(coords)

    def primitive(
        self, a: float, c: float, parameters: Mapping[str, float]
    ) -> tuple[list[int], FloatArray, FloatArray]:
        """Elements, fractional coordinates (N, 3), lattice vectors (3, 3) in Angstrom of a primitive cell."""
        vectors = PRIMITIVE_VECTORS[self.space_group[0]]
        elements, coords = self.atoms(parameters)
        rows = np.column_stack([elements, _wrap(coords @ np.linalg.inv(vectors))])
        rows = np.unique(rows, axis=0)
        return [int(element) for element in rows[:, 0]], rows[:, 1:], vectors @ self.lattice(a, c)


def _coordinate(word: str, parameters: Mapping[str, float]) -> float:
    return parameters[word] if word in parameters else float(Fraction(word))


def _orbit(hall_number: int, point: FloatArray) -> FloatArray:
    """Every position that the space group generates from one point, wrapped into the cell and sorted."""
    symmetry = spglib.get_symmetry_from_database(hall_number)
    if symmetry is None:
        raise ValueError(f"{hall_number} is not a Hall number; spglib counts them from 1 to 530.")
    return np.unique(_wrap(symmetry["rotations"] @ point + symmetry["translations"]), axis=0)


def _wrap(coords: FloatArray) -> FloatArray:
    return np.round(np.round(coords, 8) % 1, 8) % 1


PROTOTYPES = {
    "fcc": Prototype("face-centred cubic (copper)", "Fm-3m", 523, ((0, "0 0 0"),)),
    "bcc": Prototype("body-centred cubic (tungsten)", "Im-3m", 529, ((0, "0 0 0"),)),
    "hcp": Prototype("hexagonal close-packed (magnesium)", "P6_3/mmc", 488, ((0, "1/3 2/3 1/4"),)),
    "diamond": Prototype("diamond", "Fd-3m", 525, ((0, "0 0 0"),)),
    "rocksalt": Prototype("rock salt", "Fm-3m", 523, ((0, "0 0 0"), (1, "1/2 1/2 1/2"))),
    "cscl": Prototype("caesium chloride", "Pm-3m", 517, ((0, "0 0 0"), (1, "1/2 1/2 1/2"))),
    "zincblende": Prototype("zinc blende", "F-43m", 512, ((0, "0 0 0"), (1, "1/4 1/4 1/4"))),
    "wurtzite": Prototype("wurtzite", "P6_3mc", 480, ((0, "1/3 2/3 0"), (1, "1/3 2/3 u"))),
    "fluorite": Prototype("fluorite", "Fm-3m", 523, ((0, "0 0 0"), (1, "1/4 1/4 1/4"))),
    "antifluorite": Prototype("antifluorite", "Fm-3m", 523, ((0, "1/4 1/4 1/4"), (1, "0 0 0"))),
    "rutile": Prototype("rutile", "P4_2/mnm", 419, ((0, "0 0 0"), (1, "u u 0"))),
    "perovskite": Prototype("cubic perovskite", "Pm-3m", 517, ((0, "1/2 1/2 1/2"), (1, "0 0 0"), (2, "1/2 0 0"))),
    "quartz": Prototype("low quartz", "P3_221", 443, ((0, "x_Si 0 2/3"), (1, "x y z"))),
    "molybdenite": Prototype("2H molybdenite", "P6_3/mmc", 488, ((0, "1/3 2/3 1/4"), (1, "1/3 2/3 z"))),
    "corundum": Prototype("corundum", "R-3c", 460, ((0, "0 0 z"), (1, "x 0 1/4"))),
    "spinel": Prototype("spinel", "Fd-3m", 526, ((0, "1/8 1/8 1/8"), (1, "1/2 1/2 1/2"), (2, "u u u"))),
}
