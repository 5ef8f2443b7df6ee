"""Intervals: their rank, their coverage, and the number of rows that they need."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from crystalformers.errors import ConfigError
from crystalformers.prediction.intervals import MOST_RESIDUALS, Calibration


@pytest.mark.parametrize("count", [9, 10, 99, 1000, 12345])
@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9])
def test_the_half_width_is_the_conformal_rank_rounded_up(count: int, coverage: float) -> None:
    residuals = np.random.default_rng(count).permutation(np.arange(1.0, count + 1)) * np.array([1, -1] * count)[:count]
    width = Calibration.of(residuals).half_width(coverage)
    rank = math.ceil(coverage * (count + 1) - 1e-9)
    assert rank <= width <= rank + count / MOST_RESIDUALS


@pytest.mark.parametrize(("coverage", "needed"), [(0.9, 9), (0.99, 99), (0.5, 1)])
def test_too_few_rows_are_refused_with_the_number_needed(coverage: float, needed: int) -> None:
    Calibration.of(np.arange(float(needed))).half_width(coverage)
    with pytest.raises(ConfigError, match=f"needs {needed} rows"):
        Calibration.of(np.arange(float(needed - 1))).half_width(coverage)


@pytest.mark.parametrize("coverage", [0.0, 1.0, -1.0, math.nan])
def test_a_coverage_that_is_no_share_is_refused(coverage: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Calibration.of(np.arange(100.0)).half_width(coverage)


def test_missing_labels_do_not_count() -> None:
    with_gaps = Calibration.of(np.array([1.0, np.nan, -3.0, 2.0, np.nan]))
    assert (with_gaps.residuals, with_gaps.count) == ((1.0, 2.0, 3.0), 3)


def test_it_survives_json() -> None:
    calibration = Calibration.of(np.random.default_rng(0).normal(size=3000))
    assert Calibration.from_dict(json.loads(json.dumps(calibration.to_dict()))) == calibration


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_new_values_are_covered_as_often_as_promised(coverage: float) -> None:
    """Over many draws of 99 rows and one new one, from a distribution with long tails."""
    rng = np.random.default_rng(7)
    draws = rng.standard_t(2, size=(4000, 100))
    covered = [abs(row[-1]) <= Calibration.of(row[:-1]).half_width(coverage) for row in draws]
    assert np.mean(covered) == pytest.approx(coverage, abs=0.02)
