"""Prediction intervals that hold whatever the model: conformal prediction.

Rows that a model had not seen tell how far it is off. Let the score of a row be |y - prediction| / s, with a scale s
that is 1 or depends on the crystal. With n scores, the interval of coverage c reaches s times the ceil(c (n + 1))-th
smallest of them to either side of a prediction. Residuals are taken in the standardised units of a target, so that the
interval of a logarithm is not symmetric in physical units, and that of an energy per cell grows with the cell.

What is promised depends on the rows:

* Rows that no part of the predictor was trained or selected on (split conformal). If a new crystal is exchangeable
  with them, the interval holds its value with probability c at least, and below c + 1 / (n + 1) if no two scores are
  equal, for every n (Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005; Lei et al., JASA 113,
  2018). A scale that does not depend on these rows changes nothing in this, and the unit of a distance cancels.
* Rows of a cross-validation, each predicted by the member of an ensemble that had not seen it. For intervals around the
  predictions of the single members (CV+) the probability is at least 2 c - 1 - sqrt(2 / n) (Barber et al., Annals of
  Statistics 49, 2021; cross-conformal: Vovk, Annals of Mathematics and Artificial Intelligence 74, 2015). These are
  around their mean, for which we know of no theorem; the mean does not err more than its members do on average, and
  the measured coverage is stated.

The scale is the standard deviation over the members of an ensemble, or the distance to the training crystals
(`reference`), plus a constant (Papadopoulos, Gammerman and Vovk, 2008). It is chosen on one half of the rows, as what
gives the narrowest intervals, and the scores are those of the other half, which had no part in the choice. With fewer
than `ENOUGH_TO_CHOOSE` rows it is 1, and all rows count. The standard deviation is not used with rows of a
cross-validation: all members but one were trained on such a row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from crystalformers.errors import CheckpointError, ConfigError
from crystalformers.prediction.card import read_card

COVERAGE = 0.9
"""Coverage of the intervals unless another one is asked for."""

COVERAGES = (0.5, 0.8, 0.9, 0.95, 0.99)
"""Coverages that are measured on test rows."""

MOST_RESIDUALS = 1000
"""Residuals that are stored; of more rows, so many ranks are chosen, and a rank between two of them is rounded up."""

ENOUGH_TO_CHOOSE = 400
"""Rows with which a scale may be chosen."""

CONSTANTS = (0.1, 0.3, 1.0, 3.0)
"""What is tried as constant part of a scale, in units of the median of its other part."""

GAIN = 0.02
"""By which share intervals must become narrower for a scale to be chosen."""

Scale = Literal["", "std", "distance"]
"""What the width of an interval follows: nothing, the standard deviation over the members, the distance to the training
crystals."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """How far predictions of one target are off for rows that the model had not seen.

    Attributes:
        ranks: which of the sorted scores are stored, ascending from 1 to `count`.
        residuals: the scores of these ranks: absolute residuals in standardised units, divided by the scale.
        count: n, rows with a label.
        scale: what the width of an interval follows.
        constant: what is added to it.
    """

    ranks: tuple[int, ...]
    residuals: tuple[float, ...]
    count: int
    scale: Scale = ""
    constant: float = 1.0

    @classmethod
    def of(cls, residuals: FloatArray, scales: Mapping[Scale, FloatArray] | None = None, seed: int = 0) -> Calibration:
        """From the residuals of all rows.

        Args:
            residuals: in standardised units, NaN where a label is missing, (n,).
            scales: what the width may follow, of each row, (n,).
            seed: of the halves.
        """
        present = ~np.isnan(residuals)
        found, known = np.abs(residuals[present]), {name: one[present] for name, one in (scales or {}).items()}
        if len(found) < ENOUGH_TO_CHOOSE or not known:
            return cls._from_scores(found)
        choosing, calibrating = np.array_split(np.random.default_rng(seed).permutation(len(found)), 2)
        scale, constant = _narrowest(found[choosing], {name: one[choosing] for name, one in known.items()})
        width = known[scale][calibrating] + constant if scale else np.ones(len(calibrating))
        return cls._from_scores(found[calibrating] / width, scale, constant)

    @classmethod
    def _from_scores(cls, scores: FloatArray, scale: Scale = "", constant: float = 1.0) -> Calibration:
        found = np.sort(scores)
        ranks = np.unique(np.linspace(1, len(found), min(len(found), MOST_RESIDUALS)).round().astype(int))
        return cls(tuple(ranks.tolist()), tuple(found[ranks - 1].tolist()), len(found), scale, constant)

    def allows(self, coverage: float) -> bool:
        """Whether there are enough residuals for an interval of that coverage."""
        return _rank(coverage, self.count) <= self.count

    def half_width(self, coverage: float) -> float:
        """Half the width of the interval, in standardised units, where the scale is 1.

        Args:
            coverage: share of crystals whose value the interval shall hold, between 0 and 1.

        Raises:
            ConfigError: if the coverage is out of range, or there are too few residuals for it.
        """
        check_coverage(coverage)
        if not self.allows(coverage):
            needed = math.ceil(coverage / (1 - coverage) - 1e-9)
            raise ConfigError(
                f"an interval of coverage {coverage:g} needs {needed} rows that the model had not seen, "
                f"there are {self.count}",
                where="coverage",
                remedy="ask for less",
            )
        return self.residuals[int(np.searchsorted(self.ranks, _rank(coverage, self.count)))]

    def half_widths(self, coverage: float, scales: Mapping[Scale, FloatArray]) -> FloatArray | float:
        """Half the widths of the intervals of crystals, in standardised units, (C,) or one for all.

        Args:
            coverage: as of `half_width`.
            scales: what the width may follow, of each crystal, (C,).

        Raises:
            ConfigError: as `half_width`.
        """
        width = self.half_width(coverage)
        return width * (scales[self.scale] + self.constant) if self.scale else width

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the card of a model."""
        return {**asdict(self), "ranks": list(self.ranks), "residuals": list(self.residuals)}

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> dict[str, Calibration]:
        """Those of all targets on the card of a model, by name; an older card knows no scale, or has none.

        Raises:
            CheckpointError: if the card holds something else than it must.
        """
        found: dict[str, Calibration] = read_card(card, "calibration", dict[str, Calibration] | None) or {}
        for name, one in found.items():
            if not one._fits_together:
                raise CheckpointError(f"the intervals of {name} do not fit together")
        return found

    @property
    def _fits_together(self) -> bool:
        """Whether ranks ascend from 1 or more to `count`, and finite residuals with them."""
        ranks, residuals = np.array((0, *self.ranks)), np.array((0.0, *self.residuals))
        return bool(
            len(ranks) == len(residuals)
            and ranks[-1] == self.count
            and (np.diff(ranks) > 0).all()
            and (np.diff(residuals) >= 0).all()
            and np.isfinite(residuals).all()
            and 0 <= self.constant < math.inf
        )


def check_coverage(coverage: float) -> None:
    """Refuse a coverage that is no share; raises ConfigError."""
    if not 0 < coverage < 1:
        raise ConfigError(f"{coverage:g} does not lie between 0 and 1", where="coverage", remedy="use 0.9")


def _rank(coverage: float, count: int) -> int:
    return math.ceil(coverage * (count + 1) - 1e-9)


def _narrowest(residuals: FloatArray, scales: Mapping[Scale, FloatArray]) -> tuple[Scale, float]:
    """The scale and constant with the smallest mean width; none unless it gains `GAIN` over equal widths."""
    rank = _rank(COVERAGE, len(residuals))
    best: tuple[Scale, float] = ("", 1.0)
    smallest = (1 - GAIN) * float(np.sort(residuals)[rank - 1])
    for name, scale in scales.items():
        for constant in CONSTANTS:
            widths = scale + constant * float(np.median(scale))
            if not (widths > 0).all():
                continue
            mean_width = float(np.sort(residuals / widths)[rank - 1] * widths.mean())
            if mean_width < smallest:
                best, smallest = (name, constant * float(np.median(scale))), mean_width
    return best


def measure(labels: FloatArray, low: FloatArray, high: FloatArray) -> dict[str, float | int]:
    """Share of labels within their intervals, mean width of these and number of labels.

    Args:
        labels: true values, (C,), NaN where missing; at least one is not.
        low: lower ends, (C,).
        high: upper ends, (C,).
    """
    present = ~np.isnan(labels)
    inside = (low <= labels) & (labels <= high)
    return {
        "measured": float(inside[present].mean()),
        "mean_width": float((high - low)[present].mean()),
        "n": int(present.sum()),
    }


def union_level(coverage: float, count: int) -> float:
    """The coverage of each of several intervals with which all hold at once with the given one (union bound).

    Then their mean holds the value too: for intervals of probability 1 - (1 - c) / K, all K of them contain it with
    probability c or more, however they depend on each other, and so do the means of their ends.
    """
    return coverage if count == 1 else 1 - (1 - coverage) / count
