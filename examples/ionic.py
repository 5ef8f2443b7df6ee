"""Hypothetical ionic crystals with lattice energies by a formula: a table of 300 rows and a test to practise on.

The labels are computed, not measured: the electrostatic energy of point charges with a repulsion (Born and Landé),

    U = -(M z^2 e^2 / 4 pi eps_0 d) (1 - 1/n) / N

per atom, with N atoms in the formula unit, the charges z of Madelung's constant M, and a distance d that is the sum of
the ionic radii, corrected for the coordination. They depend on elements and structure as real energies do, and cost
nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from prototypes import PROTOTYPES

from crystalformers.periodic import SYMBOLS

COULOMB = 14.399645
"""e^2 / (4 pi eps_0), eV Angstrom."""

BORN_EXPONENT = 9
"""n of the repulsion, a value in the middle of those that Born and Landé used."""

RADII = {
    +1: "Li 0.76  Na 1.02  K 1.38  Rb 1.52  Cs 1.67  Ag 1.15  Cu 0.77  Tl 1.50",
    +2: "Be 0.45  Mg 0.72  Ca 1.00  Sr 1.18  Ba 1.35  Zn 0.74  Cd 0.95  Hg 1.02  Pb 1.19  Mn 0.83  Fe 0.78  Co 0.745 "
    "Ni 0.69  Cu 0.73",
    -1: "F 1.33  Cl 1.81  Br 1.96  I 2.20",
    -2: "O 1.40  S 1.84  Se 1.98  Te 2.21",
}
"""Radii of six-coordinated ions by charge, Angstrom: R. D. Shannon, Acta Cryst. A32, 751 (1976)."""


@dataclass(frozen=True)
class Type:
    """A structure type of ionic crystals.

    Attributes:
        charges: of cation and anion.
        counts: of cation and anion in the formula unit.
        madelung: Madelung's constant per formula unit and product of the charges, relative to the distance d.
        edge: lattice constant in units of the distance d.
        radius_factor: distance relative to the sum of the radii of six-coordinated ions (Pauling's corrections).
    """

    charges: tuple[int, int]
    counts: tuple[int, int]
    madelung: float
    edge: float
    radius_factor: float


TYPES = {
    (name, charge): Type((charge, charge), (1, 1), *numbers)
    for charge in (1, 2)
    for name, numbers in {
        "rocksalt": (1.74756, 2.0, 1.0),
        "cscl": (1.76267, 2 / np.sqrt(3), 1.036),
        "zincblende": (1.63806, 4 / np.sqrt(3), 0.95),
    }.items()
} | {
    ("fluorite", 2): Type((2, 1), (1, 2), 2.51939, 4 / np.sqrt(3), 1.0),
    ("antifluorite", 1): Type((1, 2), (2, 1), 2.51939, 4 / np.sqrt(3), 1.0),
}


def ions(charge: int) -> list[tuple[str, float]]:
    """Symbols and radii (Angstrom) of the ions of a charge."""
    words = RADII[charge].split()
    return [(symbol, float(radius)) for symbol, radius in zip(words[::2], words[1::2], strict=True)]


def records() -> list[dict[str, object]]:
    """The rows: id, structure, `lattice_energy` (eV/atom), and a split with 300 rows for training and validation."""
    rows = sorted(_rows(), key=lambda row: hashlib.sha256(f"ionic-1 {row['id']}".encode()).hexdigest())
    for k, row in enumerate(rows):
        row["split"] = "train" if k < 240 else "val" if k < 300 else "test"
    return rows


def _rows() -> Iterator[dict[str, object]]:
    for (name, _), kind in TYPES.items():
        for (cation, of_cation), (anion, of_anion) in product(ions(kind.charges[0]), ions(-kind.charges[1])):
            distance = kind.radius_factor * (of_cation + of_anion)
            elements, coords, lattice = PROTOTYPES[name].primitive(kind.edge * distance, kind.edge * distance, {})
            energy = -kind.madelung * np.prod(kind.charges) * COULOMB / distance * (1 - 1 / BORN_EXPONENT)
            formula = "".join(
                symbol + (str(count) if count > 1 else "")
                for symbol, count in zip((cation, anion), kind.counts, strict=True)
            )
            yield {
                "id": f"{formula}-{name}",
                "formula": formula,
                "atomic_numbers": [SYMBOLS.index((cation, anion)[element]) + 1 for element in elements],
                "lattice": (lattice.round(6) + 0.0).ravel().tolist(),
                "frac_coords": coords.ravel().tolist(),
                "lattice_energy": round(float(energy) / sum(kind.counts), 4),
            }
