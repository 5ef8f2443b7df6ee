"""What a run leaves behind of its doubt: reference, intervals, measured coverage, picture."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import ENERGY, GAP, SETTINGS, recipe, table_of

from crystalformers import load_model
from crystalformers.checkpoint import load_checkpoint
from crystalformers.data.table import CrystalTable
from crystalformers.errors import ConfigError
from crystalformers.prediction import intervals
from crystalformers.prediction.evaluation import evaluate_model
from crystalformers.prediction.intervals import COVERAGES, Calibration
from crystalformers.prediction.model import Model, network_outputs
from crystalformers.target import Target
from crystalformers.training import Recipe, calibration, fit, fit_ensemble
from crystalformers.training.dataset import Dataset
from crystalformers.training.folder import COVERAGE_PLOT

ROWS = 60
SPLIT = ["train"] * 24 + ["val"] * 24 + ["test"] * 12


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> CrystalTable:
    return table_of(tmp_path_factory.mktemp("table"), ROWS, split=SPLIT)


@pytest.fixture(scope="module")
def run(table: CrystalTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("single") / "run"
    fit(table, [ENERGY, GAP], folder, recipe())
    return folder


def residuals_of(model: Model, table: CrystalTable, rows: range, target: Target) -> np.ndarray:
    crystals, k = [table[row] for row in rows], model.targets.index(target)
    return np.abs(model.values(crystals)[:, k] - table.labels(target.name)[list(rows)])


def test_the_validation_rows_calibrate_averaged_weights(run: Path, table: CrystalTable) -> None:
    model = load_model(run, tolerance=1e-3)
    target = model.targets[0]
    residuals = np.sort(residuals_of(model, table, range(24, 48), target))
    found = model.estimates([table[50]], coverage=0.8)
    half = (found["high"] - found["low"])[0, 0] / 2
    assert half == pytest.approx(residuals[20 - 1], rel=1e-4)  # ceil(0.8 x 25) = 20
    assert model.card["calibrated_on"] == "validation rows"
    assert model.doubt() == {"energy": ["low", "high"], "gap": ["low", "high"]}


def test_rows_that_chose_the_weights_calibrate_nothing(run: Path, table: CrystalTable, tmp_path: Path) -> None:
    best = load_model(run / "model-best.safetensors")
    assert best.calibration == {}
    assert best.reference is not None
    fit(table, [ENERGY], tmp_path / "run", recipe(early_stopping=9))
    with pytest.raises(ConfigError, match="has no intervals"):
        load_model(tmp_path / "run").predict(table[0], coverage=0.5)


def test_the_card_states_what_was_measured_on_test_rows(run: Path, table: CrystalTable) -> None:
    model = load_model(run, tolerance=1e-3)
    crystals, labels = [table[row] for row in range(48, 60)], table.labels("energy")[48:]
    stated = model.card["coverage"]["energy"]
    assert [one["coverage"] for one in stated] == [
        c for c in COVERAGES if c <= 0.95
    ]  # 24 rows: 23 for 0.95, 0.99 needs 99
    for one in stated:
        found = model.estimates(crystals, coverage=one["coverage"])
        low, high = found["low"][:, 0], found["high"][:, 0]
        assert one["measured"] == np.mean((low <= labels) & (labels <= high))
        assert one["mean_width"] == pytest.approx(np.mean(high - low))
        assert one["n"] == 12
    assert model.card["coverage"]["gap"][0]["n"] == 10  # every fifth label is missing
    assert (run / COVERAGE_PLOT).read_bytes().startswith(b"\x89PNG")


def test_no_test_rows_no_measured_coverage(tmp_path: Path) -> None:
    rows = table_of(tmp_path, 36, split=["train"] * 24 + ["val"] * 12)
    fit(rows, [ENERGY], tmp_path / "run", recipe())
    model = load_model(tmp_path / "run")
    assert model.card["coverage"] == {}
    assert "low" in model.doubt()["energy"]
    assert not (tmp_path / "run" / COVERAGE_PLOT).exists()


def test_the_reference_is_of_training_crystals_and_validation_crystals_are_held_out(
    run: Path, table: CrystalTable
) -> None:
    model = load_model(run, tolerance=1e-3)
    assert model.reference is not None
    train, val = (network_outputs([model], [table[row] for row in rows])[0] for rows in (range(24), range(24, 48)))
    np.testing.assert_allclose(model.reference.distances(train.vectors), 0, atol=1e-2)  # coordinates of 16 bits
    distances = model.reference.distances(val.vectors)
    assert np.median(distances) == pytest.approx(1, abs=5e-3)
    np.testing.assert_allclose(model.reference.percentiles, np.percentile(distances, np.arange(101)), atol=1e-4)


def test_an_ensemble_with_enough_validation_rows_is_calibrated_on_them(
    table: CrystalTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crystalformers.training.ensemble.ENOUGH_TO_CHOOSE", 24)
    fit_ensemble(table, [ENERGY], tmp_path / "run", recipe(), 2)
    ensemble = load_model(tmp_path / "run", tolerance=1e-3)
    for k in (1, 2):
        ids = load_checkpoint(tmp_path / "run" / f"member-{k}" / "model.safetensors").card["data"]["rows"]
        assert ids == {"train": 12, "val": 12, "test": 12}
    target = ensemble.targets[0]
    residuals = np.sort(residuals_of(ensemble, table, range(24, 48), target))
    found = ensemble.estimates([table[50]], coverage=0.8)
    assert (found["high"] - found["low"])[0, 0] / 2 == pytest.approx(residuals[20 - 1], rel=1e-4)
    assert ensemble.card["calibrated_on"] == "validation rows"
    assert ensemble.card["coverage"]["energy"][0]["n"] == 12
    assert (tmp_path / "run" / COVERAGE_PLOT).is_file()


def test_an_ensemble_with_few_is_calibrated_on_held_out_rows(table: CrystalTable, tmp_path: Path) -> None:
    fit_ensemble(table, [ENERGY], tmp_path / "run", recipe(epochs=1), 2)
    ensemble = load_model(tmp_path / "run")
    assert ensemble.card["calibrated_on"].startswith("held-out rows")
    assert ensemble.calibration["energy"].count == 48
    assert ensemble.card["data"]["rows"] == {"train": 48, "val": 0, "test": 12}
    held = [set(table[row].symbols) for row in range(48)]
    assert ensemble.card["element_counts"]["Mg"] == sum("Mg" in symbols for symbols in held)
    assert ensemble.reference is not None
    assert len(ensemble.reference.members) == 2


@pytest.mark.parametrize("name", ["std", "distance"])
def test_intervals_of_a_model_follow_their_scale(
    table: CrystalTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any
) -> None:
    """From a calibration with a scale: every half width is that scale plus the constant, times the score."""
    fit_ensemble(table, [ENERGY], tmp_path / "run", recipe(epochs=1), 2)
    model, crystals = load_model(tmp_path / "run"), [table[row] for row in range(8)]
    model.calibration = {"energy": replace(Calibration.of(np.full(9, 2.0)), scale=name, constant=0.5)}
    found = model.estimates(crystals)
    std = model.targets[0].std
    assert model.reference is not None
    scale = (
        found["std"][:, 0] / std
        if name == "std"
        else model.reference.distances(network_outputs([model], crystals)[0].vectors)
    )
    np.testing.assert_allclose((found["high"] - found["values"])[:, 0], 2 * (scale + 0.5) * std, rtol=1e-4)
    assert len(set(scale.round(6))) > 1


def test_a_scale_is_chosen_from_what_the_rows_say(
    table: CrystalTable, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels whose errors grow with the distance give intervals that do."""
    monkeypatch.setattr(intervals, "ENOUGH_TO_CHOOSE", 20)
    model, rows = load_model(run, tolerance=1e-3), np.arange(60)
    (found,) = network_outputs([model], calibration.crystals_of(table, rows))
    assert model.reference is not None
    scale = model.reference.distances(found.vectors)
    assert scale.max() > 3 * scale.min()
    values = np.array(model.values(calibration.crystals_of(table, rows)))
    values[:, 0] += scale * np.random.default_rng(0).choice([-1, 1], 60) * 0.1
    values[:, 1] += np.random.default_rng(0).choice([-1, 1], 60) * 0.1
    dataset = replace(Dataset.of(table, [ENERGY, GAP], Recipe.parse(SETTINGS)), values=values)
    calibration.calibrate(model, dataset, rows, found, 0)
    assert {name: one.scale for name, one in model.calibration.items()} == {"energy": "distance", "gap": ""}


def test_the_same_run_gives_the_same_file(run: Path, table: CrystalTable, tmp_path: Path) -> None:
    fit(table, [ENERGY, GAP], tmp_path / "run", recipe())
    for name in ("model.safetensors", "model-best.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes()


def test_flags_of_a_run_are_few_on_its_own_kind(run: Path, table: CrystalTable) -> None:
    result = evaluate_model(load_model(run, tolerance=1e-3), table, "val")
    assert sum("farther" in flag for flag in result.flags) <= 3  # a tenth of 24, rounded up
