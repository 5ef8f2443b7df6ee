"""A crystal, and many crystals packed along one axis: the two data types that every room shares.

Shapes: A atoms of a batch, C crystals, N atoms of one crystal. Lengths in Angstrom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from crystalformers.errors import StructureError
from crystalformers.periodic import ELEMENTS

if TYPE_CHECKING:
    from crystalformers.images import Images

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


@dataclass(frozen=True)
class CrystalBatch:
    """Crystals packed along one axis, no padding.

    Attributes:
        numbers: atomic numbers, (A,) int64.
        positions: Cartesian positions, (A, 3), Angstrom.
        lattice: lattice vectors as rows, (C, 3, 3), Angstrom.
        ptr: first atom of each crystal and the total, (C + 1,) int64.
        images: the periodic images around each atom, once they are built (`images.with_images`).
    """

    numbers: Tensor
    positions: Tensor
    lattice: Tensor
    ptr: Tensor
    images: Images | None = None

    @classmethod
    def from_crystals(cls, crystals: Sequence[Crystal], dtype: torch.dtype = torch.float64) -> CrystalBatch:
        """Pack crystals; coordinates stand as they are given (not wrapped)."""
        if not crystals:
            raise StructureError("A batch needs at least one crystal.")
        sizes = np.array([len(crystal) for crystal in crystals])
        return cls(
            numbers=torch.from_numpy(np.concatenate([crystal.numbers for crystal in crystals])),
            positions=torch.from_numpy(np.concatenate([crystal.positions for crystal in crystals])).to(dtype),
            lattice=torch.from_numpy(np.stack([crystal.lattice for crystal in crystals])).to(dtype),
            ptr=torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])),
        )

    def __len__(self) -> int:
        return len(self.lattice)

    @property
    def n_atoms(self) -> int:
        """Atoms of the whole batch."""
        return self.numbers.shape[0]

    @cached_property
    def crystal_of_atom(self) -> Tensor:
        """Index of the crystal each atom belongs to, (A,) int64."""
        return torch.repeat_interleave(
            torch.arange(self.lattice.shape[0], device=self.ptr.device), self.ptr.diff(), output_size=self.n_atoms
        )

    def to(self, target: torch.device | torch.dtype | str) -> CrystalBatch:
        """Move to a device, or convert every length to a floating-point type."""
        return replace(
            self,
            numbers=self.numbers if isinstance(target, torch.dtype) else self.numbers.to(target),
            ptr=self.ptr if isinstance(target, torch.dtype) else self.ptr.to(target),
            positions=self.positions.to(target),
            lattice=self.lattice.to(target),
            images=None if self.images is None else self.images.to(target),
        )
