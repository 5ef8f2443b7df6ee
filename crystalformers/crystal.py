"""A crystal, in NumPy: what files are read into and models are asked about.

Shapes: N atoms of the crystal. Lengths in Angstrom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalformers.errors import StructureError
from crystalformers.html import html_crystal, html_table
from crystalformers.periodic import MAX_ATOMIC_NUMBER, SYMBOLS

MIN_SOLIDITY = 1e-6
"""Volume over the product of the three lengths below which a cell counts as flat (a cube has 1)."""

MAX_COORDINATE = 1e9
"""Largest fractional coordinate. Wrapped into the cell, a larger one would keep fewer than six decimals: a floating
point number has 16 digits in all."""

MAX_LENGTH = 1e6
"""Longest lattice vector, Å: a tenth of a millimetre. Far longer ones would overflow in the volume."""


@dataclass(frozen=True, eq=False)
class Crystal:
    """An ordered periodic structure.

    Attributes:
        numbers: atomic numbers, shape (N,), 1 to 98.
        frac_coords: fractional coordinates, shape (N, 3); they need not be wrapped into the cell.
        lattice: lattice vectors as rows, shape (3, 3), Angstrom; right- or left-handed.
        name: what to call the crystal in messages and tables (a file name, an id).

    Raises:
        StructureError: on wrong shapes, numbers that are not finite or too large, unknown elements or a flat cell.
    """

    numbers: NDArray[np.int64]
    frac_coords: NDArray[np.float64]
    lattice: NDArray[np.float64]
    name: str = ""

    def __post_init__(self) -> None:
        label = self.name or "structure"
        numbers = _numbers(self.numbers, label)
        frac_coords = _array(self.frac_coords, "frac_coords", (len(numbers), 3), label)
        check_coordinates(frac_coords, label)
        object.__setattr__(self, "numbers", numbers)
        object.__setattr__(self, "frac_coords", frac_coords)
        object.__setattr__(self, "lattice", _lattice(self.lattice, label))

    @classmethod
    def from_positions(cls, numbers: ArrayLike, positions: ArrayLike, lattice: ArrayLike, name: str = "") -> Crystal:
        """Build from Cartesian positions, shape (N, 3), Angstrom."""
        label = name or "structure"
        numbers, lattice = _numbers(numbers, label), _lattice(lattice, label)
        cartesian = _array(positions, "positions", (len(numbers), 3), label)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused as not finite
            frac_coords = cartesian @ np.linalg.inv(lattice)
        return cls(numbers, frac_coords, lattice, name)

    def __len__(self) -> int:
        return len(self.numbers)

    def _repr_html_(self) -> str:
        """What a notebook shows: the cell, and the crystal in 3D."""
        lengths = np.linalg.norm(self.lattice, axis=1)
        unit = self.lattice / lengths[:, None]
        angles = np.degrees(np.arccos(np.clip([unit[1] @ unit[2], unit[2] @ unit[0], unit[0] @ unit[1]], -1, 1)))
        counts = {symbol: self.symbols.count(symbol) for symbol in dict.fromkeys(self.symbols)}
        about = f"{len(self)} atoms: {', '.join(f'{count} {symbol}' for symbol, count in counts.items())}"
        header = ("a (Å)", "b (Å)", "c (Å)", "α (°)", "β (°)", "γ (°)", "volume (Å³)")
        cells = [*(f"{length:.4f}" for length in lengths), *(f"{angle:.2f}" for angle in angles), f"{self.volume:.2f}"]
        table = html_table(self.name or "Crystal", about, header, [cells])
        return table + html_crystal(self.symbols, self.frac_coords, self.lattice)

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


def check_coordinates(frac_coords: NDArray[np.float64], where: str) -> None:
    """Raise a StructureError if fractional coordinates are larger than `MAX_COORDINATE`."""
    largest = np.abs(frac_coords).max()
    if largest > MAX_COORDINATE:
        problem = f"a fractional coordinate of {largest:.3g} is too large, no decimals would be left within the cell"
        remedy = "correct the coordinates or wrap them into the cell before they are rounded"
        raise StructureError(problem, where=where, remedy=remedy)


def _numbers(values: ArrayLike, label: str) -> NDArray[np.int64]:
    """Atomic numbers, (N,), of elements that the models know; at least one."""
    numbers = np.asarray(values)
    if numbers.ndim != 1 or numbers.size == 0:
        raise StructureError("the structure holds no atoms", where=label)
    if not np.issubdtype(numbers.dtype, np.number) or (numbers != np.round(numbers)).any():
        raise StructureError("atomic numbers must be integers", where=label)
    unknown = numbers[(numbers < 1) | (numbers > MAX_ATOMIC_NUMBER)]
    if unknown.size:
        known = f"H to {SYMBOLS[-1]}, 1 to {MAX_ATOMIC_NUMBER}"
        problem = f"atomic number {unknown.min():g} is not an element the models know ({known})"
        raise StructureError(problem, where=label, remedy="remove or replace the atom")
    return numbers.astype(np.int64)


def _lattice(values: ArrayLike, label: str) -> NDArray[np.float64]:
    """Lattice vectors, (3, 3), that span a volume."""
    lattice = _array(values, "lattice", (3, 3), label)
    longest = np.abs(lattice).max()
    if longest > MAX_LENGTH:
        problem = f"a lattice vector of {longest:.3g} Å is longer than {MAX_LENGTH:g} Å"
        raise StructureError(problem, where=label, remedy="give the lattice vectors in Å")
    volume = abs(np.linalg.det(lattice))
    if volume <= MIN_SOLIDITY * np.prod(np.linalg.norm(lattice, axis=1)):
        problem = f"the cell has no volume ({volume:.3g} Å³)"
        raise StructureError(problem, where=label, remedy="give three independent lattice vectors in Å")
    return lattice


def _array(values: ArrayLike, what: str, shape: tuple[int, ...], label: str) -> NDArray[np.float64]:
    """A copy of finite numbers in the given shape."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise StructureError(f"{what} must hold numbers ({error})", where=label) from error
    if array.shape != shape:
        raise StructureError(f"{what} has shape {array.shape}, expected {shape}", where=label)
    if not np.isfinite(array).all():
        raise StructureError(f"{what} holds NaN or infinite numbers", where=label)
    return array
