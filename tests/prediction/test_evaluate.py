"""Errors of a model on a table, checked against numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command import invoke
from samples import CELL_ENERGY, ENERGY, MODULUS, many, rock_salt, tiny_model, write_table

from crystalformers.checkpoint import save_model
from crystalformers.crystal import Crystal
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import TableError
from crystalformers.prediction.evaluation import evaluate_model, score, select_rows
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import Model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(tiny_model(tmp_path_factory.mktemp("model") / "two.safetensors", (ENERGY, CELL_ENERGY)))


def table_of(folder: Path, crystals: list[Crystal], **columns: list[object]) -> CrystalTable:
    return open_table(write_table(folder / "table.parquet", crystals, **columns))


def test_errors_by_hand() -> None:
    labels = np.array([1.0, 2.0, np.nan, 6.0])
    result = score("gap", "eV", labels, np.array([2.0, 2.0, 99.0, 4.0]), np.array([3.0, 3.0, 99.0, 3.0]))
    assert (result.n, result.unit) == (3, "eV")
    assert result.mae == pytest.approx(1.0)
    assert result.rmse == pytest.approx((5 / 3) ** 0.5)
    assert result.r2 == pytest.approx(1 - 5 / 14)
    assert result.baseline_mae == pytest.approx(2.0)
    assert result.baseline_rmse == pytest.approx((14 / 3) ** 0.5)
    assert score("gap", "eV", np.array([1.0]), np.array([2.0]), np.array([0.0])).r2 is None
    with pytest.raises(TableError, match="gap: no evaluated row carries a label"):
        score("gap", "eV", np.array([np.nan]), np.array([2.0]), np.array([0.0]))


def test_labels_and_predictions_are_physical(model: Model, tmp_path: Path) -> None:
    crystals = many(9)
    predicted = [p.values for p in model.predict(crystals)]
    energies = [p["energy"] + 0.25 for p in predicted]
    totals: list[object] = [p["cell_energy"] - 0.5 for p in predicted]
    totals[4] = None
    table = table_of(tmp_path, crystals, energy=energies, cell_energy=totals)
    result = evaluate_model(model, table)
    assert result.split == "all"
    assert result.ids == [crystal.name for crystal in crystals]
    energy, total = result.scores
    assert (energy.target, energy.unit, energy.n) == ("energy", "eV/atom", 9)
    assert (total.target, total.unit, total.n) == ("cell_energy", "eV", 8)
    assert energy.mae == pytest.approx(0.25, rel=1e-4)
    assert total.rmse == pytest.approx(0.5, rel=1e-4)
    # The baseline predicts the training mean: -1.5 eV/atom, and -2 eV per atom of the cell.
    assert energy.baseline_mae == pytest.approx(np.abs(np.array(energies) + 1.5).mean())
    kept = [k for k in range(9) if k != 4]
    baseline = [abs(totals[k] + 2.0 * len(crystals[k])) for k in kept]
    assert total.baseline_mae == pytest.approx(np.mean(baseline))


def test_targets_without_a_column_are_passed_over_but_not_all(model: Model, tmp_path: Path) -> None:
    crystals = many(3)
    result = evaluate_model(model, table_of(tmp_path, crystals, energy=[1.0, 2.0, 3.0]))
    assert [entry.target for entry in result.scores] == ["energy"]
    assert result.predictions.shape == result.labels.shape == (3, 1)
    with pytest.raises(TableError, match="no column energy, cell_energy"):
        evaluate_model(model, table_of(tmp_path, crystals, other=[1.0, 2.0, 3.0]))


def test_the_baseline_of_a_logarithmic_target_is_positive(tmp_path: Path) -> None:
    model = load_model(tiny_model(tmp_path / "log.safetensors", (MODULUS,)))
    result = evaluate_model(model, table_of(tmp_path, many(2), modulus=[100.0, 50.0]))
    assert result.scores[0].baseline_mae == pytest.approx(25.0)


def test_splits(model: Model, tmp_path: Path) -> None:
    crystals = many(4)
    plain = table_of(tmp_path, crystals, energy=[1.0, 2.0, 3.0, 4.0])
    assert select_rows(plain, None, None) == ("all", [0, 1, 2, 3])
    with pytest.raises(TableError, match="no column 'split'"):
        select_rows(plain, "test", None)

    table = table_of(tmp_path, crystals, energy=[1.0, 2.0, 3.0, 4.0], split=["train", "test", "train", "test"])
    assert select_rows(table, None, None) == ("test", [1, 3])
    assert select_rows(table, "train", None) == ("train", [0, 2])
    assert select_rows(table, "all", None) == ("all", [0, 1, 2, 3])
    with pytest.raises(TableError, match=r"Not one row is in split 'val'; there are rows in test, train"):
        select_rows(table, "val", None)
    with pytest.raises(TableError, match="tset"):
        select_rows(table, "tset", None)
    assert evaluate_model(model, table).scores[0].n == 2


def test_the_split_of_the_run_comes_first_where_it_fits(tmp_path: Path) -> None:
    table = table_of(tmp_path, many(4), split=["train", "test", "train", "test"])
    splits = tmp_path / "splits.json"
    splits.write_text(json.dumps({"train": ["x1", "x3"], "val": [], "test": ["x0"]}), encoding="utf-8")
    assert select_rows(table, None, tmp_path) == ("test", [0])
    splits.write_text(json.dumps({"train": ["other"], "val": [], "test": ["x0"]}), encoding="utf-8")
    assert select_rows(table, None, tmp_path) == ("test", [1, 3])


def test_bad_rows_are_reported_and_count_nowhere(model: Model, tmp_path: Path) -> None:
    crystals = many(3)
    numbers = [crystal.numbers.tolist() for crystal in crystals]
    numbers[1] = [120] * len(numbers[1])
    table = table_of(tmp_path, crystals, atomic_numbers=numbers, energy=[1.0, 2.0, 3.0])
    result = evaluate_model(model, table)
    assert result.ids == ["x0", "x2"]
    assert result.scores[0].n == 2
    assert [row.name for row in result.rejected] == ["x1"]
    assert "120" in result.rejected[0].reason
    np.testing.assert_array_equal(result.labels[:, 0], [1.0, 3.0])


def test_errors_inside_and_outside_the_domain_by_hand(tmp_path: Path) -> None:
    """Rock salts of sodium are known, those of potassium not; the latter err three times as much."""
    path = tiny_model(tmp_path / "m.safetensors", (ENERGY, CELL_ENERGY))
    network = load_model(path).network
    save_model(path, network, [ENERGY, CELL_ENERGY], {"element_counts": {"Na": 9, "Cl": 9}})
    known = load_model(path)
    crystals = [rock_salt(cation, a=5.6 + 0.1 * k, name=f"{k}") for k, cation in enumerate(["Na", "K", "Na", "K", "K"])]
    predicted = known.values(crystals)
    labels = predicted[:, 0] + np.array([0.1, -0.6, 0.3, 0.6, np.nan])
    table = table_of(tmp_path, crystals, energy=list(labels), cell_energy=list(predicted[:, 1]))
    result = evaluate_model(known, table)
    first, second = result.domain_scores
    assert (first.n_inside, first.n_outside, first.unit) == (2, 2, "eV/atom")
    assert (first.mae_inside, first.mae_outside) == pytest.approx((0.2, 0.6), rel=1e-4)
    assert first.ratio == pytest.approx(3.0, rel=1e-3)
    assert (second.n_inside, second.n_outside) == (2, 3)
    assert [bool(flag) for flag in result.flags] == [False, True, False, True, True]

    done = invoke(
        "evaluate", table.path, "-m", path, "-o", tmp_path / "r.json", "--predictions", tmp_path / "p.parquet"
    )
    assert done.exit_code == 0, done.stderr
    assert "inside and outside the domain of the training data" in done.stdout
    (line, *_) = [line for line in done.stdout.splitlines() if line.startswith("energy")][1:]
    assert line.split()[1:4] == ["eV/atom", "2", "2"]
    written = json.loads((tmp_path / "r.json").read_text())["domain"][0]
    assert written == asdict(first)
    assert pq.read_table(tmp_path / "p.parquet")["flag"].to_pylist() == result.flags


def test_a_part_without_rows_has_no_error(model: Model, tmp_path: Path) -> None:
    result = evaluate_model(model, table_of(tmp_path, many(3), energy=[1.0, 2.0, 3.0]))
    (part,) = result.domain_scores
    assert (part.n_inside, part.n_outside, part.mae_outside, part.ratio) == (3, 0, None, None)
    assert part.mae_inside == pytest.approx(result.scores[0].mae)


def test_several_models_are_measured_as_their_mean(tmp_path: Path) -> None:
    """The constant prediction that they are compared with is that of the first."""
    scaled = replace(ENERGY, mean=-1.0, std=0.5)
    paths = [tiny_model(tmp_path / "a.safetensors", (ENERGY,)), tiny_model(tmp_path / "b.safetensors", (scaled,))]
    table = table_of(tmp_path, many(4), energy=[1.0, 2.0, 3.0, 4.0])
    single = [evaluate_model(load_model(path), table) for path in paths]
    result = evaluate_model(load_model(paths), table)
    np.testing.assert_allclose(result.predictions, np.mean([one.predictions for one in single], axis=0), rtol=1e-12)
    assert result.scores[0].baseline_mae == single[0].scores[0].baseline_mae != single[1].scores[0].baseline_mae

    done = invoke("evaluate", table.path, "-m", paths[0], "-m", paths[1], "-o", tmp_path / "r.json")
    assert done.exit_code == 0, done.stderr
    report = json.loads((tmp_path / "r.json").read_text())
    assert [model["name"] for model in report["models"]] == [str(path) for path in paths]
    assert report["scores"][0]["mae"] == pytest.approx(result.scores[0].mae)


def test_run_folders_that_divided_the_table_differently_are_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path, many(4), energy=[1.0, 2.0, 3.0, 4.0])
    runs = [tmp_path / "one", tmp_path / "two"]
    for k, run in enumerate(runs):
        run.mkdir()
        tiny_model(run / "model.safetensors", (replace(ENERGY, mean=float(k)),))
        write_splits(run, test=["x0"])
    given = ("evaluate", table.path, "-m", runs[0], "-m", runs[1])
    assert invoke(*given).exit_code == 0
    write_splits(runs[1], test=["x1"])
    done = invoke(*given)
    assert done.exit_code == 2
    assert "divided the table in different ways" in done.stderr
    assert invoke(*given, "--split", "all").exit_code == 0


def write_splits(run: Path, test: list[str]) -> None:
    """What a run folder tells of its split."""
    text = json.dumps({"train": ["x2", "x3"], "val": [], "test": test})
    (run / "splits.json").write_text(text, encoding="utf-8")
