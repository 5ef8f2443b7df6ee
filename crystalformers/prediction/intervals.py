"""Prediction intervals that hold whatever the model: conformal prediction.

Rows that a model had not seen tell how far it is off. With n absolute residuals, the interval of coverage c reaches the
ceil(c (n + 1))-th smallest of them to either side of a prediction (Vovk, Gammerman and Shafer, 2005; Lei et al., JASA
2018). For crystals drawn like those rows it holds the true value with probability c or more.

The residuals of an ensemble are those of each row by the member that had not seen it (cross-conformal: Vovk, Annals of
Mathematics and Artificial Intelligence 2015). Residuals are taken in the standardised units of a target, so that the
interval of a logarithm is not symmetric in physical units, and that of an energy per cell grows with the cell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.errors import ConfigError

COVERAGE = 0.9
"""Coverage of the intervals unless another one is asked for."""

MOST_RESIDUALS = 1000
"""Residuals that are stored; of more rows, so many ranks are chosen, and a rank between two of them is rounded up."""


@dataclass(frozen=True)
class Calibration:
    """How far predictions of one target are off for rows that the model had not seen.

    Attributes:
        ranks: which of the sorted residuals are stored, ascending from 1 to `count`.
        residuals: the absolute residuals of these ranks, in standardised units.
        count: n, rows with a label.
    """

    ranks: tuple[int, ...]
    residuals: tuple[float, ...]
    count: int

    @classmethod
    def of(cls, residuals: NDArray[np.float64]) -> Calibration:
        """From the residuals of all rows, NaN where a label is missing."""
        found = np.sort(np.abs(residuals[~np.isnan(residuals)]))
        ranks = np.unique(np.linspace(1, len(found), min(len(found), MOST_RESIDUALS)).round().astype(int))
        return cls(tuple(ranks.tolist()), tuple(found[ranks - 1].tolist()), len(found))

    def allows(self, coverage: float) -> bool:
        """Whether there are enough residuals for an interval of that coverage."""
        return math.ceil(coverage * (self.count + 1) - 1e-9) <= self.count

    def half_width(self, coverage: float) -> float:
        """Half the width of the interval, in standardised units.

        Args:
            coverage: share of crystals whose value the interval shall hold, between 0 and 1.

        Raises:
            ConfigError: if the coverage is out of range, or there are too few residuals for it.
        """
        if not 0 < coverage < 1:
            raise ConfigError(f"{coverage:g} does not lie between 0 and 1", where="coverage", remedy="use 0.9")
        rank = math.ceil(coverage * (self.count + 1) - 1e-9)
        if not self.allows(coverage):
            needed = math.ceil(coverage / (1 - coverage) - 1e-9)
            raise ConfigError(
                f"an interval of coverage {coverage:g} needs {needed} rows that the model had not seen, "
                f"there are {self.count}",
                where="coverage",
                remedy="ask for less",
            )
        return self.residuals[int(np.searchsorted(self.ranks, rank))]

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the card of a model."""
        return {"ranks": list(self.ranks), "residuals": list(self.residuals), "count": self.count}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Calibration:
        """Inverse of `to_dict`."""
        return cls(tuple(data["ranks"]), tuple(data["residuals"]), int(data["count"]))
