"""Intervals: their rank, their coverage, and the number of rows that they need."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from crystalformers.errors import CheckpointError, ConfigError
from crystalformers.prediction.intervals import (
    COVERAGES,
    ENOUGH_TO_CHOOSE,
    MOST_RESIDUALS,
    Calibration,
    measure,
    union_level,
)


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
    assert Calibration.from_card({"calibration": {"x": json.loads(json.dumps(calibration.to_dict()))}}) == {
        "x": calibration
    }


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_new_values_are_covered_as_often_as_promised(coverage: float) -> None:
    """Over many draws of 99 rows and one new one, from a distribution with long tails."""
    rng = np.random.default_rng(7)
    draws = rng.standard_t(2, size=(4000, 100))
    covered = [abs(row[-1]) <= Calibration.of(row[:-1]).half_width(coverage) for row in draws]
    assert np.mean(covered) == pytest.approx(coverage, abs=0.02)


def synthetic(rng: np.random.Generator, rows: int, *, follows: bool) -> tuple[np.ndarray, np.ndarray]:
    """Residuals and a scale of each row; with `follows` the residuals grow with the scale."""
    scale = rng.lognormal(sigma=0.7, size=rows)
    return rng.normal(size=rows) * (scale if follows else 1.0), scale


def widths_of(calibration: Calibration, coverage: float, scale: np.ndarray) -> np.ndarray:
    return np.broadcast_to(calibration.half_widths(coverage, {"std": scale}), scale.shape)


@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("coverage", COVERAGES)
def test_normalised_intervals_cover_as_often_as_promised(coverage: float, *, follows: bool) -> None:
    """Over draws of 400 rows and 50 new ones: the choice of a scale costs no coverage, within three standard errors."""
    rng, shares = np.random.default_rng(11), []
    for seed in range(300):
        residuals, scale = synthetic(rng, 450, follows=follows)
        calibration = Calibration.of(residuals[:400], {"std": scale[:400]}, seed)
        shares.append((np.abs(residuals[400:]) <= widths_of(calibration, coverage, scale[400:])).mean())
    error = 3 * np.std(shares, ddof=1) / np.sqrt(len(shares))
    assert coverage - error <= np.mean(shares) <= coverage + 1 / 201 + error


def test_a_scale_that_residuals_follow_sharpens_the_intervals() -> None:
    residuals, scale = synthetic(np.random.default_rng(0), 2000, follows=True)
    calibration = Calibration.of(residuals, {"std": scale})
    assert (calibration.scale, calibration.count) == ("std", 1000)
    new = synthetic(np.random.default_rng(1), 5000, follows=True)[1]
    assert widths_of(calibration, 0.9, new).mean() < 0.95 * Calibration.of(residuals).half_width(0.9)


def test_a_scale_that_would_widen_the_intervals_is_not_used() -> None:
    chosen = []
    for seed in range(100):
        residuals, scale = synthetic(np.random.default_rng(seed), 1000, follows=False)
        chosen.append(Calibration.of(residuals, {"std": scale}, seed).scale)
    assert chosen == [""] * 100


def test_of_two_scales_the_better_one_is_used() -> None:
    residuals, scale = synthetic(np.random.default_rng(0), 1000, follows=True)
    noise = np.random.default_rng(1).lognormal(size=1000)
    assert Calibration.of(residuals, {"std": noise, "distance": scale}).scale == "distance"


def test_the_choice_knows_nothing_of_the_rows_that_calibrate() -> None:
    """Whatever is done to the calibrating half, the scale and its constant stay."""
    residuals, scale = synthetic(np.random.default_rng(0), 800, follows=True)
    first = Calibration.of(residuals, {"std": scale})
    calibrating = np.array_split(np.random.default_rng(0).permutation(800), 2)[1]
    residuals[calibrating] = np.random.default_rng(5).normal(size=400)
    second = Calibration.of(residuals, {"std": scale})
    assert (first.scale, first.constant) == (second.scale, second.constant)
    assert first.residuals != second.residuals


@pytest.mark.parametrize("rows", [ENOUGH_TO_CHOOSE - 1, ENOUGH_TO_CHOOSE])
def test_few_rows_are_not_divided(rows: int) -> None:
    residuals, scale = synthetic(np.random.default_rng(0), rows, follows=True)
    calibration = Calibration.of(residuals, {"std": scale})
    assert (calibration.scale == "") == (rows < ENOUGH_TO_CHOOSE)
    assert calibration.count == (rows if rows < ENOUGH_TO_CHOOSE else rows // 2)
    assert Calibration.from_card({"calibration": {"x": json.loads(json.dumps(calibration.to_dict()))}}) == {
        "x": calibration
    }


def test_a_scale_of_zeros_is_not_used() -> None:
    assert Calibration.of(np.random.default_rng(0).normal(size=500), {"std": np.zeros(500)}).scale == ""


def test_a_card_without_scale_is_read() -> None:
    old = {"ranks": [1, 2], "residuals": [0.5, 1.0], "count": 2}
    assert Calibration.from_card({"calibration": {"x": old}})["x"].half_widths(0.5, {}) == 1.0


@pytest.mark.parametrize(
    "entry",
    [
        [1],
        {"x": 3},
        {"x": {"ranks": [1, 2], "residuals": [0.5], "count": 2}},
        {"x": {"ranks": [2, 1], "residuals": [0.5, 1.0], "count": 2}},
        {"x": {"ranks": [1, 2], "residuals": [1.0, 0.5], "count": 2}},
        {"x": {"ranks": [1, 2], "residuals": [-0.5, 1.0], "count": 2}},
        {"x": {"ranks": [1, 2], "residuals": [0.5, math.inf], "count": 2}},
        {"x": {"ranks": [1, 2], "residuals": [0.5, 1.0], "count": 3}},
        {"x": {"ranks": [1, 2], "residuals": [0.5, 1.0], "count": 2, "scale": "size"}},
        {"x": {"ranks": [1, 2], "residuals": [0.5, 1.0], "count": 2, "constant": math.nan}},
    ],
)
def test_a_card_that_cannot_be_used_is_refused(entry: Any) -> None:
    with pytest.raises(CheckpointError, match=r"calibration|intervals of x"):
        Calibration.from_card({"calibration": entry})


def test_coverage_by_hand() -> None:
    labels, low, high = np.array([1.0, 2.0, np.nan, 4.0]), np.array([0.0, 3, 0, 4]), np.array([2.0, 5, 0, 5])
    assert measure(labels, low, high) == {"measured": pytest.approx(2 / 3), "mean_width": pytest.approx(5 / 3), "n": 3}
    assert union_level(0.9, 1) == 0.9
    assert union_level(0.9, 5) == pytest.approx(0.98)
