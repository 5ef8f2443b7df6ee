"""Ensembles: folds, held-out predictions, the joined model, and going on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from command import invoke
from samples import many, write_table

from crystalformers import load_model
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import ConfigError
from crystalformers.models import build_model
from crystalformers.models.ensemble import Ensemble
from crystalformers.prediction.evaluation import evaluate_model
from crystalformers.target import Target
from crystalformers.training import Observer, Recipe, fit, fit_ensemble
from crystalformers.training.ensemble import joined
from crystalformers.training.held_out import HELD_OUT
from crystalformers.training.state import Progress

TINY = {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 16, "radial_functions": 8}
ENERGY = Target("energy", "eV/atom", "per_atom")
GAP = Target("gap", "eV")
MEMBERS = 3


def recipe(**changes: Any) -> Recipe:
    settings = {"epochs": 2, "average_epochs": 1, "batch_size": 4, "lr": 0.01, "tolerance": 1e-3, "accelerator": "cpu"}
    return Recipe.parse({**settings, "model": TINY, **changes})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> CrystalTable:
    crystals = many(24)
    labels: dict[str, Any] = {
        "energy": [float(crystal.numbers[0] % 7) for crystal in crystals],
        "gap": [None if k % 5 == 0 else k / 24 for k in range(24)],
        "split": ["train"] * 16 + ["val"] * 4 + ["test"] * 4,
    }
    return open_table(write_table(tmp_path_factory.mktemp("table") / "table.parquet", crystals, **labels))


@pytest.fixture(scope="module")
def run(table: CrystalTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    fit_ensemble(table, [ENERGY, GAP], folder, recipe(), MEMBERS)
    return folder


def test_the_folds_divide_the_rows_that_are_not_for_testing(run: Path, table: CrystalTable) -> None:
    splits = [json.loads((run / f"member-{k + 1}" / "splits.json").read_text()) for k in range(MEMBERS)]
    pool = set(table.ids[:20])
    assert sorted(name for split in splits for name in split["val"]) == sorted(pool)
    for split in splits:
        assert set(split["train"]) == pool - set(split["val"])
        assert split["test"] == table.ids[20:]


def test_every_row_is_predicted_by_the_member_that_had_not_seen_it(run: Path, table: CrystalTable) -> None:
    rows = pq.read_table(run / HELD_OUT).to_pylist()
    assert [row["id"] for row in rows] == table.ids[:20]
    members = [load_model(run / f"member-{k + 1}", tolerance=1e-3) for k in range(MEMBERS)]
    for row in rows:
        assert row["id"] in json.loads((run / f"member-{row['fold'] + 1}" / "splits.json").read_text())["val"]
        crystal = table[table.ids.index(row["id"])]
        values = members[row["fold"]].values([crystal])[0]
        assert np.allclose(values, [row["predicted_energy"], row["predicted_gap"]], rtol=1e-5)
    labels = table.labels("gap")[:20]
    assert np.array_equal([row["gap"] for row in rows], labels, equal_nan=True)


def test_the_ensemble_predicts_the_mean_of_its_members(run: Path, table: CrystalTable) -> None:
    crystals = [table[row] for row in range(6)]
    members = [load_model(run / f"member-{k + 1}") for k in range(MEMBERS)]
    assert len({member.targets[0].mean for member in members}) > 1
    mean = np.mean([member.values(crystals) for member in members], axis=0)
    assert np.allclose(load_model(run).values(crystals), mean, rtol=1e-5, atol=1e-6)


def test_its_errors_are_those_of_its_predictions(run: Path, table: CrystalTable) -> None:
    summary = json.loads((run / "summary.json").read_text())
    rows = pq.read_table(run / HELD_OUT)
    errors = np.abs(rows["predicted_energy"].to_numpy() - rows["energy"].to_numpy())
    assert summary["errors"]["held_out"]["energy"]["mae"] == pytest.approx(errors.mean())
    folds = [errors[rows["fold"].to_numpy() == k].mean() for k in range(MEMBERS)]
    assert summary["mae_over_folds"]["energy"] == pytest.approx({"mean": np.mean(folds), "std": np.std(folds, ddof=1)})
    model = load_model(run, tolerance=1e-3)
    measured = evaluate_model(model, table, "test").scores[0].mae
    assert summary["errors"]["test"]["energy"]["mae"] == pytest.approx(measured)
    assert model.card["errors"] == summary["errors"]
    assert model.card["members"] == MEMBERS


def test_an_interrupted_ensemble_goes_on_to_the_same_bits(run: Path, table: CrystalTable, tmp_path: Path) -> None:
    class Stop(Observer):
        steps = 0

        def step(self, progress: Progress) -> None:
            self.steps += 1
            if self.steps == 9:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit_ensemble(table, [ENERGY, GAP], tmp_path / "run", recipe(), MEMBERS, observer=Stop())
    with pytest.raises(ConfigError, match="--resume"):
        fit_ensemble(table, [ENERGY, GAP], tmp_path / "run", recipe(), MEMBERS)
    for changes, members in (({"lr": 0.02}, MEMBERS), ({}, 4)):
        with pytest.raises(ConfigError, match="cannot resume"):
            fit_ensemble(table, [ENERGY, GAP], tmp_path / "run", recipe(**changes), members, resume=True)
    fit_ensemble(table, [ENERGY, GAP], tmp_path / "run", recipe(), MEMBERS, resume=True)
    for name in ("model.safetensors", HELD_OUT):
        assert (tmp_path / "run" / name).read_bytes() == (run / name).read_bytes(), name
    assert fit_ensemble(table, [ENERGY, GAP], tmp_path / "run", recipe(), MEMBERS, resume=True).is_file()


def test_cross_validation_predicts_the_test_rows_too(table: CrystalTable, tmp_path: Path) -> None:
    command = ["crossval", table.path, "--target", "energy", "--unit", "eV/atom", "-o", tmp_path / "cv", "--folds", 2]
    settings = {"epochs": 1, "average_epochs": 1, "batch_size": 8, "accelerator": "cpu", "tolerance": 1e-3}
    settings |= {f"model.{name}": value for name, value in TINY.items()}
    result = invoke(*command, *(word for name, value in settings.items() for word in ("--set", f"{name}={value}")))
    assert result.exit_code == 0, result.output
    assert "every row by the member that had not seen it: MAE" in result.stderr
    assert pq.read_table(tmp_path / "cv" / HELD_OUT)["id"].to_pylist() == table.ids
    assert (tmp_path / "cv" / "parity.png").is_file()
    assert len(load_model(tmp_path / "cv").network.members) == 2


def test_members_on_the_command_line(table: CrystalTable, tmp_path: Path) -> None:
    config = tmp_path / "recipe.yaml"
    config.write_text(recipe(epochs=1).to_yaml())
    command = ["train", table.path, "--target", "energy", "--unit", "eV/atom", "--config", config, "--members", 2]
    result = invoke(*command, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "energy, the ensemble: test MAE" in result.stderr
    evaluated = invoke("predict", table.path, "-m", tmp_path / "run")
    assert evaluated.exit_code == 0, evaluated.output


def test_a_member_of_an_ensemble_can_be_a_start(run: Path, table: CrystalTable, tmp_path: Path) -> None:
    start = {"init": {"model": str(run), "member": 2, "freeze": 2}, "epochs": 1, "average_epochs": 0}
    settings = {"accelerator": "cpu", "tolerance": 1e-3, **start}
    fit(table, [GAP], tmp_path / "run", Recipe.parse(settings))
    member = load_model(run / "member-3").network.state_dict()
    child = load_model(tmp_path / "run").network.state_dict()
    assert torch.equal(child["embedding.weight"], member["embedding.weight"])
    with pytest.raises(ConfigError, match="no member 3"):
        Recipe.parse({"init": {"model": str(run), "member": 3}})


@pytest.mark.parametrize(
    ("changes", "members", "words"),
    [
        ({}, 1, "at least 2 members"),
        ({}, 12, "too few for 12 folds"),
        ({"average_epochs": 0}, 2, "average_epochs = 0"),
        ({"early_stopping": 3}, 2, "early_stopping"),
        ({"devices": 2}, 2, "one device each"),
    ],
)
def test_what_makes_no_ensemble_is_refused(
    table: CrystalTable, tmp_path: Path, changes: dict[str, Any], members: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        fit_ensemble(table, [ENERGY], tmp_path / "run", recipe(**changes), members)


def test_an_ensemble_is_not_trained_as_one_model() -> None:
    with pytest.raises(ConfigError, match="member by member"):
        Recipe.parse({"architecture": "ensemble"})


def test_members_must_predict_the_same(run: Path) -> None:
    one, other = load_model(run / "member-1"), load_model(run / "member-2")
    other.targets = tuple(replace(target, unit="meV") for target in other.targets)
    with pytest.raises(ConfigError, match="same targets"):
        joined([one, other], ["crystalformer"] * 2)
    with pytest.raises(ConfigError, match="same targets"):
        Ensemble([one.network, build_model("crystalformer", TINY)], ["crystalformer"] * 2)
    published = build_model("crystaltransformer", {"variant": "published"})
    with pytest.raises(ConfigError, match="choice of the cell"):
        Ensemble([published], ["crystaltransformer"])
    with pytest.raises(ConfigError, match="1 to 100 members"):
        Ensemble([], [])


def test_intervals_come_from_the_residuals_of_held_out_rows(run: Path, table: CrystalTable) -> None:
    model, crystals = load_model(run), [table[row] for row in range(6)]
    rows, target = pq.read_table(run / HELD_OUT), model.targets[0]
    error = rows["predicted_energy"].to_numpy() - rows["energy"].to_numpy()
    residuals = np.sort(np.abs(error))
    found = model.estimates(crystals, coverage=0.8)
    assert np.allclose(found["high"][:, 0] - found["values"][:, 0], residuals[int(np.ceil(0.8 * 21)) - 1], rtol=1e-4)
    assert np.allclose(found["values"] - found["low"], found["high"] - found["values"], rtol=1e-6)
    members = [load_model(run / f"member-{k + 1}") for k in range(MEMBERS)]
    spread = np.std([member.values(crystals) for member in members], axis=0, ddof=1)
    assert np.allclose(found["std"], spread, rtol=1e-3, atol=1e-5)
    assert model.doubt() == {name: ["std", "low", "high"] for name in ("energy", "gap")}
    assert target.name == "energy"


def test_intervals_in_predictions(run: Path, table: CrystalTable) -> None:
    (prediction,) = load_model(run).predict(table[0], coverage=0.5)
    wide = load_model(run).predict([table[0]], coverage=0.9, as_frame=True)
    assert prediction.low["energy"] < prediction.values["energy"] < prediction.high["energy"]
    assert wide["energy_low (eV/atom)"][0] < prediction.low["energy"]
    with pytest.raises(ConfigError, match="needs 99 rows that the model had not seen, there are 20"):
        load_model(run).predict(table[0], coverage=0.99)
    with pytest.raises(ConfigError, match="has no intervals"):
        load_model(run / "member-1").predict(table[0], coverage=0.9)
    assert load_model(run / "member-1").predict(table[0])[0].low == {}


def test_intervals_on_the_command_line(run: Path, table: CrystalTable, tmp_path: Path) -> None:
    command = ["predict", table.path, "-m", run]
    printed = invoke(*command)
    assert printed.exit_code == 0, printed.output
    assert printed.stdout.splitlines()[0].split()[3:8] == ["energy", "(eV/atom)", "std", "low", "high"]
    written = invoke(*command, "--coverage", 0.5, "-o", tmp_path / "out.json")
    assert written.exit_code == 0, written.output
    assert json.loads((tmp_path / "out.json").read_text())["coverage"] == 0.5
    refused = invoke(*command, "--coverage", 0.99)
    assert refused.exit_code == 2
    assert "needs 99 rows" in refused.stderr


def test_a_fold_may_hold_no_label_of_a_target(table: CrystalTable, tmp_path: Path) -> None:
    """With three labels of twenty rows in five folds, some fold has none."""
    crystals = [table[row] for row in range(len(table))]
    sparse = [0.1 * k if k < 3 else None for k in range(24)]
    labels: dict[str, Any] = {"energy": table.labels("energy").tolist(), "gap": sparse}
    rare = open_table(write_table(tmp_path / "rare.parquet", crystals, **labels, split=["train"] * 20 + ["test"] * 4))
    fit_ensemble(rare, [ENERGY, GAP], tmp_path / "run", recipe(epochs=1), 5)
    rows = pq.read_table(tmp_path / "run" / HELD_OUT)
    labelled = set(rows["fold"].to_numpy()[~np.isnan(rows["gap"].to_numpy())].tolist())
    assert labelled < set(range(5))
    assert load_model(tmp_path / "run").doubt()["gap"] == ["std"]


@pytest.mark.parametrize("coverage", [0.0, 1.0])
def test_a_coverage_that_is_no_share_is_refused(run: Path, table: CrystalTable, coverage: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        load_model(run).predict(table[0], coverage=coverage)
    assert invoke("predict", table.path, "-m", run, "--coverage", coverage).exit_code == 2
