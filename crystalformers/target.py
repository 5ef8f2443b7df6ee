"""What a model predicts: name, unit, basis, transform and scale, stored with its weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalformers.errors import TargetError

Basis = Literal["intensive", "per_atom", "per_cell"]
Transform = Literal["none", "log10"]


@dataclass(frozen=True)
class Target:
    """A property in physical units and its map to the standardised numbers that a model is trained on.

    z = (transform(y / divisor) - mean) / std. The divisor is the number of atoms for a target given per cell, since a
    model averages over atoms and predicts quantities that do not depend on the choice of cell; otherwise it is 1.

    Attributes:
        name: column or property name, e.g. ``formation_energy_per_atom``.
        unit: unit of the physical values, e.g. ``eV/atom``.
        basis: ``intensive`` (band gap, modulus), ``per_atom`` (already divided by the number of atoms) or
            ``per_cell`` (grows with the cell).
        transform: ``none`` or ``log10``.
        mean: mean of the transformed training values.
        std: their population standard deviation.

    Raises:
        TargetError: if name or unit is empty, basis or transform is unknown, or mean and std are not finite with a
            positive std.
    """

    name: str
    unit: str
    basis: Basis = "intensive"
    transform: Transform = "none"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and isinstance(self.unit, str)):
            raise TargetError(f"name {self.name!r:.40} and unit {self.unit!r:.40} must be texts")
        if not self.name or not self.unit:
            raise TargetError("A target needs a name and a unit (use 'dimensionless' where there is none)")
        if self.basis not in get_args(Basis):
            raise TargetError(f"basis '{self.basis}' is not one of {', '.join(get_args(Basis))}", where=self.name)
        if self.transform not in get_args(Transform):
            problem = f"transform '{self.transform}' is not one of {', '.join(get_args(Transform))}"
            raise TargetError(problem, where=self.name)
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise TargetError(f"mean {self.mean} and std {self.std} must be finite, std positive", where=self.name)

    def fitted(self, values: ArrayLike, n_atoms: ArrayLike) -> Target:
        """The same target with mean and std from the training split.

        Args:
            values: physical values, NaN where a label is missing, shape (rows,).
            n_atoms: atoms per cell, shape (rows,).

        Raises:
            TargetError: if no label is present, all are equal, one is infinite, or a transform cannot be applied.
        """
        labels = np.asarray(values, dtype=np.float64)
        if np.isinf(labels).any():
            raise TargetError(f"{int(np.isinf(labels).sum())} labels are infinite", where=self.name)
        present = ~np.isnan(labels)
        if not present.any():
            raise TargetError("not one label is present in the training split", where=self.name)
        plain = Target(self.name, self.unit, self.basis, self.transform)
        scaled = plain.standardise(labels[present], np.asarray(n_atoms)[present])
        mean, std = float(scaled.mean()), float(scaled.std())
        if std <= 1e-12 * max(1.0, abs(mean)):
            problem = f"all {present.sum()} training labels equal {labels[present][0]:g}; there is nothing to learn"
            raise TargetError(problem, where=self.name)
        return Target(self.name, self.unit, self.basis, self.transform, mean, std)

    def standardise(self, values: ArrayLike, n_atoms: ArrayLike) -> NDArray[np.float64]:
        """Standardised values, shape (rows,), from physical ones; NaN stays NaN.

        Raises:
            TargetError: if a value has no logarithm.
        """
        scaled = np.asarray(values, dtype=np.float64)
        if self.basis == "per_cell":
            scaled = scaled / np.asarray(n_atoms)
        if self.transform == "log10":
            if (scaled <= 0).any():
                problem = f"log10 needs positive labels, {int((scaled <= 0).sum())} are not"
                raise TargetError(problem, where=self.name, remedy="drop those rows or use transform 'none'")
            scaled = np.log10(scaled)
        return (scaled - self.mean) / self.std

    def physical(self, standardised: ArrayLike, n_atoms: ArrayLike) -> NDArray[np.float64]:
        """Physical values in `unit`, shape (rows,), from standardised ones; inverse of `standardise`."""
        values = np.asarray(standardised, dtype=np.float64) * self.std + self.mean
        if self.transform == "log10":
            values = 10.0**values
        if self.basis == "per_cell":
            values = values * np.asarray(n_atoms)
        return values

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Target:
        """Inverse of `to_dict`."""
        return cls(**data)
