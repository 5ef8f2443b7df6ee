"""A crystal, in NumPy: what files are read into and models are asked about.

Shapes: N atoms of the crystal. Lengths in Angstrom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalformers.errors import StructureError
from crystalformers.periodic import ELEMENTS

SYMBOLS = ELEMENTS[:98]
"""Chemical symbols of the elements the models know; the atomic number is the index plus one."""

MAX_ATOMIC_NUMBER = len(SYMBOLS)

MIN_SOLIDITY = 1e-6
"""Volume over the product of the three lengths below which a cell counts as flat (a cube has 1)."""


@dataclass(frozen=True, eq=False)
class Crystal:
    """An ordered periodic structure.

    Attributes:
        numbers: atomic numbers, shape (N,), 1 to 98.
        frac_coords: fractional coordinates, shape (N, 3); any real number, they need not be wrapped.
        lattice: lattice vectors as rows, shape (3, 3), Angstrom; right- or left-handed.
        name: what to call the crystal in messages and tables (a file name, an id).

    Raises:
        StructureError: on wrong shapes, numbers that are not finite, unknown elements or a flat cell.
    """

    numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    lattice: NDArray[np.float64]
    name: str = ""

    def __post_init__(self) -> None:
        numbers = np.asarray(self.numbers)
        if numbers.ndim != 1 or numbers.size == 0:
            raise StructureError(f"{self._label}: the structure holds no atoms.")
        if not np.issubdtype(numbers.dtype, np.number) or (numbers != np.round(numbers)).any():
            raise StructureError(f"{self._label}: atomic numbers must be integers.")
        unknown = sorted({int(z) for z in numbers if not 1 <= z <= MAX_ATOMIC_NUMBER})
        if unknown:
            raise StructureError(
                f"{self._label}: atomic number {unknown[0]} is not an element the models know "
                f"(H to {SYMBOLS[-1]}, 1 to {MAX_ATOMIC_NUMBER}); remove or replace the atom."
            )
        object.__setattr__(self, "numbers", numbers.astype(np.int64))
        object.__setattr__(self, "frac_coords", self._array("frac_coords", (len(numbers), 3)))
        object.__setattr__(self, "lattice", self._array("lattice", (3, 3)))
        lengths = np.linalg.norm(self.lattice, axis=1)
        if self.volume <= MIN_SOLIDITY * np.prod(lengths):
            raise StructureError(
                f"{self._label}: the cell has no volume ({self.volume:.3g} Å³); give three independent lattice "
                "vectors in Å."
            )

    def _array(self, field: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
        array = np.array(getattr(self, field), dtype=np.float64)
        if array.shape != shape:
            raise StructureError(f"{self._label}: {field} has shape {array.shape}, expected {shape}.")
        if not np.isfinite(array).all():
            raise StructureError(f"{self._label}: {field} holds NaN or infinite numbers.")
        return array

    @property
    def _label(self) -> str:
        return self.name or "structure"

    @classmethod
    def from_positions(cls, numbers: ArrayLike, positions: ArrayLike, lattice: ArrayLike, name: str = "") -> Crystal:
        """Build from Cartesian positions, shape (N, 3), Angstrom."""
        lattice = np.asarray(lattice, dtype=np.float64)
        try:
            frac_coords = np.asarray(positions, dtype=np.float64) @ np.linalg.inv(lattice)
        except np.linalg.LinAlgError:
            raise StructureError(f"{name or 'structure'}: the cell has no volume.") from None
        return cls(np.asarray(numbers), frac_coords, lattice, name)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def positions(self) -> NDArray[np.float64]:
        """Cartesian positions, shape (N, 3), Angstrom; not wrapped."""
        return self.frac_coords @ self.lattice

    @property
    def volume(self) -> float:
        """Volume of the cell, Å³, positive for either handedness."""
        return float(abs(np.linalg.det(self.lattice)))

    @property
    def symbols(self) -> list[str]:
        """Chemical symbols, one per atom."""
        return [SYMBOLS[z - 1] for z in self.numbers]
