"""Learning curves: nested parts, the same test rows, and going on after an interruption."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import invoke
from runs import ENERGY, GAP, Listener, recipe, table_of

from crystalformers import load_model
from crystalformers.errors import ConfigError
from crystalformers.prediction.evaluation import evaluate_model
from crystalformers.training import fit_learning_curve
from crystalformers.training.dataset import Dataset
from crystalformers.training.learning_curve import CURVE, PICTURE, nested_parts, read_curve

SIZES = [4, 8, 16]


@pytest.fixture(scope="module")
def curve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curve")
    fit_learning_curve(table_of(folder), [ENERGY, GAP], folder / "out", SIZES, recipe(epochs=2), seeds=2)
    return folder / "out"


def splits_of(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads((folder / "splits.json").read_text())
    return found


def test_parts_are_nested_and_the_other_rows_the_same(curve: Path) -> None:
    seeds = {int(folder.name.rpartition("-")[2]) for folder in curve.glob("rows-*")}
    assert seeds == {recipe().seed, recipe().seed + 1}
    parts = {seed: [splits_of(curve / f"rows-{size}-seed-{seed}") for size in SIZES] for seed in seeds}
    for of_seed in parts.values():
        assert [len(part["train"]) for part in of_seed] == SIZES
        for smaller, larger in pairwise(of_seed):
            assert set(smaller["train"]) < set(larger["train"])
    (first, second) = parts.values()
    assert set(first[0]["train"]) != set(second[0]["train"])
    everywhere = [part for of_seed in parts.values() for part in of_seed]
    for name in ("val", "test"):
        assert all(part[name] == everywhere[0][name] for part in everywhere)
        assert not any(set(part["train"]) & set(part[name]) for part in everywhere)


def test_the_errors_are_those_of_the_models_on_the_test_rows(curve: Path, tmp_path: Path) -> None:
    points = read_curve(curve / CURVE)
    assert [(p.target, p.rows) for p in points] == [(t, s) for t in ("energy", "gap") for s in SIZES for _ in range(2)]
    point = points[0]
    model = load_model(curve / f"rows-{point.rows}-seed-{point.seed}", tolerance=1e-3)
    score, *_ = evaluate_model(model, table_of(tmp_path), "test").scores
    assert (point.mae, point.rmse, point.n) == (
        pytest.approx(score.mae, rel=1e-4),
        pytest.approx(score.rmse, rel=1e-4),
        score.n,
    )
    assert point.unit == ENERGY.unit


def test_the_summary_has_means_and_exponents(curve: Path) -> None:
    summary = json.loads((curve / "summary.json").read_text())
    points = read_curve(curve / CURVE)
    for name, one in summary.items():
        own = [p for p in points if p.target == name]
        for size in SIZES:
            assert one["mean_mae"][str(size)] == pytest.approx(np.mean([p.mae for p in own if p.rows == size]))
        slope, _ = np.polyfit(np.log([p.rows for p in own]), np.log([p.mae for p in own]), 1)
        assert one["exponent"] == pytest.approx(-slope)
    assert (curve / PICTURE).read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_curve_goes_on_to_the_same_bits(curve: Path, tmp_path: Path) -> None:
    table = table_of(tmp_path)

    def begin(**options: Any) -> None:
        fit_learning_curve(table, [ENERGY, GAP], tmp_path / "out", SIZES, recipe(epochs=2), seeds=2, **options)

    with pytest.raises(ZeroDivisionError):
        begin(observer=Listener(fail_after=3))
    assert not (tmp_path / "out" / CURVE).exists()
    with pytest.raises(ConfigError, match="--resume"):
        begin()
    begin(resume=True)
    assert (tmp_path / "out" / CURVE).read_bytes() == (curve / CURVE).read_bytes()


def test_a_finished_curve_is_only_read(curve: Path, tmp_path: Path) -> None:
    listener, table = Listener(), table_of(tmp_path)
    again = fit_learning_curve(
        table, [ENERGY, GAP], curve, SIZES, recipe(epochs=2), seeds=2, resume=True, observer=listener
    )
    assert again == read_curve(curve / CURVE)
    assert listener.calls == []
    with pytest.raises(ConfigError, match="seeds"):
        fit_learning_curve(table, [ENERGY, GAP], curve, SIZES, recipe(epochs=2), seeds=3, resume=True)


@pytest.mark.parametrize(
    ("sizes", "seeds", "said"),
    [
        ([], 1, "at least 1"),
        ([0, 4], 1, "at least 1"),
        ([4], 0, "at least 1"),
        ([17], 1, "17 rows are more than the 16"),
    ],
)
def test_impossible_sizes_are_refused_before_anything_is_written(
    sizes: list[int], seeds: int, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        fit_learning_curve(table_of(tmp_path), [ENERGY], tmp_path / "out", sizes, recipe(), seeds)
    assert not (tmp_path / "out").exists()


def test_a_table_without_test_rows_is_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path, split=["train"] * 20 + ["val"] * 4)
    with pytest.raises(ConfigError, match="no test row"):
        fit_learning_curve(table, [ENERGY], tmp_path / "out", [4], recipe(), 1)


def test_the_order_of_the_rows_follows_from_the_seed_alone(tmp_path: Path) -> None:
    dataset = Dataset.of(table_of(tmp_path), [ENERGY], recipe())
    few, more = nested_parts(dataset, [4], 7), nested_parts(dataset, [4, 12], 7)
    assert np.array_equal(few[4]["train"], more[4]["train"])


def test_the_command_writes_the_curve(tmp_path: Path) -> None:
    table_of(tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe(epochs=1).to_yaml())
    words = ["learning-curve", tmp_path / "table.parquet", "--target", "energy", "--unit", "eV/atom"]
    words += ["--config", tmp_path / "recipe.yaml", "--seeds", 1, "-o", tmp_path / "out"]
    wrong = invoke(*words, "--sizes", "4;8")
    assert wrong.exit_code == 2
    assert "--sizes: '4;8' is no list of numbers; write 30,100,300" in wrong.stderr
    result = invoke(*words, "--sizes", "4,8")
    assert result.exit_code == 0, result.output
    with (tmp_path / "out" / CURVE).open(newline="") as file:
        assert [row["rows"] for row in csv.DictReader(file)] == ["4", "8"]
    assert "energy, test MAE (eV/atom): 4 rows" in result.stderr
