"""Runs joined to one ensemble: what it predicts, what it knows of its doubt, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import invoke, rows_of
from samples import many, write_table

from crystalformers import load_model
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import ConfigError, TableError
from crystalformers.prediction import intervals
from crystalformers.prediction.domain import SPREAD_PERCENTILE
from crystalformers.target import Target
from crystalformers.training import Recipe, calibration, fit, fit_ensemble, join_runs

TINY = {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 16, "radial_functions": 8}
ENERGY = Target("energy", "eV/atom", "per_atom")
GAP = Target("gap", "eV")
ROWS = {"train": 16, "val": 12, "test": 4}


def recipe(**changes: Any) -> Recipe:
    settings = {"epochs": 2, "average_epochs": 1, "batch_size": 4, "lr": 0.01, "tolerance": 1e-3, "accelerator": "cpu"}
    return Recipe.parse({**settings, "model": TINY, **changes})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> CrystalTable:
    crystals = many(sum(ROWS.values()))
    labels: dict[str, Any] = {
        "energy": [float(crystal.numbers[0] % 7) for crystal in crystals],
        "gap": [k / len(crystals) for k in range(len(crystals))],
        "split": [name for name, count in ROWS.items() for _ in range(count)],
    }
    return open_table(write_table(tmp_path_factory.mktemp("table") / "table.parquet", crystals, **labels))


@pytest.fixture(scope="module")
def runs(table: CrystalTable, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two seeds of one recipe, and a larger network of another architecture."""
    folder = tmp_path_factory.mktemp("runs")
    recipes = {
        "one": recipe(),
        "two": recipe(seed=7),
        "other": recipe(architecture="crystaltransformer", model={**TINY, "dim": 16}),
    }
    for name, settings in recipes.items():
        fit(table, [ENERGY, GAP], folder / name, settings)
    return [folder / name for name in recipes]


@pytest.fixture(scope="module")
def ensemble(table: CrystalTable, runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joined") / "run"
    join_runs(table, runs, folder)
    return folder


def test_predicts_the_mean_of_the_runs(table: CrystalTable, runs: list[Path], ensemble: Path) -> None:
    crystals = list(table)
    each = [load_model(run, tolerance=1e-3).values(crystals) for run in runs]
    joined = load_model(ensemble, tolerance=1e-3)
    assert len(joined.network.members) == len(runs)
    np.testing.assert_allclose(joined.values(crystals), np.mean(each, axis=0), rtol=1e-5, atol=1e-5)


def test_intervals_follow_from_the_common_validation_rows(table: CrystalTable, ensemble: Path) -> None:
    joined = load_model(ensemble, tolerance=1e-3)
    rows = np.flatnonzero(np.array(table.split) == "val")
    crystals = [table[row] for row in rows.tolist()]
    estimates = joined.estimates(crystals, coverage=0.9)
    labels = np.stack([table.labels("energy"), table.labels("gap")], axis=1)[rows]
    # Of twelve rows, an interval of 90 % reaches to the farthest: the twelfth of twelve residuals.
    inside = (estimates["low"] - 1e-6 <= labels) & (labels <= estimates["high"] + 1e-6)
    assert inside.all()
    assert (
        np.isclose(np.abs(estimates["high"] - labels), 0, atol=1e-4).any()
        or np.isclose(np.abs(estimates["low"] - labels), 0, atol=1e-4).any()
    )
    assert joined.card["calibrated_on"] == "validation rows"
    assert joined.calibration["gap"].count == ROWS["val"]


def test_flags_crystals_about_which_the_members_disagree(table: CrystalTable, ensemble: Path) -> None:
    joined = load_model(ensemble, tolerance=1e-3)
    crystals = [table[row] for row in np.flatnonzero(np.array(table.split) == "val").tolist()]
    std = joined.estimates(crystals)["std"]
    scale = np.array([target.std for target in joined.targets])
    largest = np.percentile(std / scale, SPREAD_PERCENTILE, axis=0)
    assert joined.domain.spread == pytest.approx(dict(zip(("energy", "gap"), largest.tolist(), strict=True)), rel=1e-4)
    flags = joined.estimates(crystals, flag_percentile=100)["flag"]
    for k, name in enumerate(("energy", "gap")):
        said = np.array([f"members agree less about {name} than for 97 % of held-out crystals" in one for one in flags])
        assert said.tolist() == (np.arange(len(crystals)) == std[:, k].argmax()).tolist()


def test_the_folder_says_what_was_joined_and_measured(runs: list[Path], ensemble: Path, table: CrystalTable) -> None:
    card = load_model(ensemble).card
    assert card["joined"] == [load_model(run).fingerprint for run in runs]
    assert card["members"] == len(runs)
    summary = json.loads((ensemble / "summary.json").read_text())
    assert summary["errors"]["test"]["gap"]["n"] == ROWS["test"]
    assert (ensemble / "coverage.png").exists()
    assert json.loads((ensemble / "splits.json").read_text())["val"] == table.ids[16:28]


def test_seen_rows_are_those_of_all_members(table: CrystalTable, runs: list[Path], ensemble: Path) -> None:
    one, joined = (load_model(path).arrays for path in (runs[0], ensemble))
    for kind in ("training.ids", "training.compositions"):
        assert joined[kind].tolist() == one[kind].tolist()


def test_intervals_that_follow_a_distance(table: CrystalTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intervals, "ENOUGH_TO_CHOOSE", 4)
    monkeypatch.setattr(intervals, "GAIN", -1e9)  # so that the widths follow something
    for module in (intervals, calibration):
        monkeypatch.setattr(module, "COVERAGE", 0.7)
    for seed in (0, 1):
        fit(table, [GAP], tmp_path / f"run-{seed}", recipe(seed=seed))
    runs = [tmp_path / "run-0", tmp_path / "run-1"]
    assert load_model(runs[0]).calibration["gap"].scale == "distance"
    join_runs(table, runs, tmp_path / "joined")
    assert load_model(tmp_path / "joined").calibration["gap"].scale in {"distance", "std"}


class TestRefusals:
    def test_too_few(self, table: CrystalTable, runs: list[Path], tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="at least 2 runs"):
            join_runs(table, runs[:1], tmp_path / "run")

    def test_no_run(self, table: CrystalTable, runs: list[Path], tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"nothing.*no finished run"):
            join_runs(table, [runs[0], tmp_path / "nothing"], tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_an_ensemble(self, table: CrystalTable, runs: list[Path], ensemble: Path, tmp_path: Path) -> None:
        fit_ensemble(table, [ENERGY, GAP], tmp_path / "folds", recipe(), 2)
        with pytest.raises(ConfigError, match="folds: is an ensemble itself"):
            join_runs(table, [runs[0], tmp_path / "folds"], tmp_path / "run")
        with pytest.raises(ConfigError, match="no finished run"):  # it was not trained, and has no recipe
            join_runs(table, [runs[0], ensemble], tmp_path / "run")

    def test_weights_chosen_by_validation(self, table: CrystalTable, runs: list[Path], tmp_path: Path) -> None:
        fit(table, [ENERGY, GAP], tmp_path / "best", recipe(average_epochs=0))
        with pytest.raises(ConfigError, match=r"best: validation errors chose the weights.*average_epochs"):
            join_runs(table, [runs[0], tmp_path / "best"], tmp_path / "run")

    def test_rows_divided_otherwise(self, table: CrystalTable, runs: list[Path], tmp_path: Path) -> None:
        splits = {"train": np.arange(12, 28), "val": np.arange(12), "test": np.arange(28, 32)}
        fit(table, [ENERGY, GAP], tmp_path / "divided", recipe(), splits=splits)
        with pytest.raises(ConfigError, match=r"divided: its rows are divided otherwise than those of .*one"):
            join_runs(table, [runs[0], tmp_path / "divided"], tmp_path / "run")

    def test_other_targets(self, table: CrystalTable, runs: list[Path], tmp_path: Path) -> None:
        fit(table, [ENERGY], tmp_path / "alone", recipe())
        with pytest.raises(ConfigError, match="same targets"):
            join_runs(table, [runs[0], tmp_path / "alone"], tmp_path / "run")

    def test_another_table(self, table: CrystalTable, runs: list[Path], tmp_path: Path) -> None:
        labels: dict[str, Any] = {"energy": table.labels("energy") + 1, "gap": table.labels("gap")}
        other = open_table(write_table(tmp_path / "other.parquet", list(table), **labels))
        with pytest.raises(TableError, match=r"other\.parquet: is not the table that .*one was trained on"):
            join_runs(other, runs[:2], tmp_path / "run")

    def test_a_folder_that_holds_a_run(self, table: CrystalTable, runs: list[Path], ensemble: Path) -> None:
        with pytest.raises(ConfigError, match="holds a finished run"):
            join_runs(table, runs[:2], ensemble)


def test_on_the_command_line(table: CrystalTable, runs: list[Path], tmp_path: Path) -> None:
    said = invoke("join", table.path, runs[0], runs[1], "-o", tmp_path / "run")
    assert "the ensemble: test MAE" in said.stderr
    assert said.stdout.strip() == f"weights: {tmp_path / 'run' / 'model.safetensors'}"
    (row, *_) = rows_of(predict(table.path, tmp_path))
    assert float(row["gap_low (eV)"]) < float(row["gap (eV)"]) < float(row["gap_high (eV)"])


def predict(path: Path, folder: Path) -> Path:
    """The predictions of a run of `crystalformers join`, as CSV."""
    result = invoke("predict", path, "-m", folder / "run", "-o", folder / "out.csv")
    assert result.exit_code == 0, result.stderr
    return folder / "out.csv"
