"""Benchmarks by folds: nothing of a fold reaches the models that predict it; results, resuming, what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from command import invoke
from runs import ENERGY, SETTINGS, recipe
from samples import many, write_table

from crystalformers.benchmark import Folds, run_folds, write_matbench
from crystalformers.benchmark.folds import PREDICTIONS, RESULT
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import ConfigError, TableError

COUNT = 15
FOLD = [k % 3 for k in range(COUNT)]


def table_of(folder: Path, name: str = "table.parquet", **columns: Any) -> CrystalTable:
    crystals = many(COUNT)
    labels: dict[str, Any] = {
        "energy": [float(crystal.numbers[0] % 7) for crystal in crystals],
        "fold": FOLD,
        **columns,
    }
    return open_table(write_table(folder / name, crystals, **{k: v for k, v in labels.items() if v is not None}))


def predictions(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / PREDICTIONS).to_pylist()


class TestFolds:
    def test_every_row_is_for_test_once_and_then_for_nothing_else(self, tmp_path: Path) -> None:
        folds = Folds.of(table_of(tmp_path))
        assert len(folds) == 3
        seen = []
        for fold in range(3):
            parts = folds.splits(fold, 0.2, seed=1)
            rows = np.concatenate(list(parts.values()))
            assert sorted(rows.tolist()) == list(range(COUNT))
            assert [len(parts[name]) for name in ("train", "val", "test")] == [8, 2, 5]
            seen += parts["test"].tolist()
        assert sorted(seen) == list(range(COUNT))

    def test_columns_of_splits_name_them_too(self, tmp_path: Path) -> None:
        splits = {f"split_fold_{k}": ["test" if fold == k else "train" for fold in FOLD] for k in range(3)}
        assert Folds.of(table_of(tmp_path, fold=None, **splits)).of_row.tolist() == FOLD

    @pytest.mark.parametrize(
        ("fold", "problem"),
        [
            (None, "the table names no folds.*crystalformers crossval"),
            ([0.5, *FOLD[1:]], r"column 'fold': row 0 \(.*\) is in no fold"),
            ([None, *map(float, FOLD[1:])], r"column 'fold': row 0 \(.*\) is in no fold"),
            ([-1, *FOLD[1:]], r"column 'fold': row 0 \(.*\) is in no fold"),
            ([2 * fold for fold in FOLD], "fold 1 has no rows"),
            ([0] * COUNT, "there is only one fold"),
        ],
    )
    def test_what_is_no_division_is_refused(self, fold: Any, problem: str, tmp_path: Path) -> None:
        with pytest.raises(TableError, match=problem):
            Folds.of(table_of(tmp_path, fold=fold))


class TestRun:
    def test_labels_of_a_fold_change_nothing_that_predicts_it(self, tmp_path: Path) -> None:
        """No test row takes part in training, in the choice of weights, or in the scale of the target."""
        first = run_folds(table_of(tmp_path), ENERGY, tmp_path / "a", recipe(), folds=[1])
        energy = [float(crystal.numbers[0] % 7) for crystal in many(COUNT)]
        wrong = [1e6 if fold == 1 else value for fold, value in zip(FOLD, energy, strict=True)]
        other = run_folds(table_of(tmp_path, "b.parquet", energy=wrong), ENERGY, tmp_path / "b", recipe(), folds=[1])
        assert [row["prediction"] for row in first.rows] == [row["prediction"] for row in other.rows]
        assert {row["label"] for row in other.rows} == {1e6}
        assert [row["fold"] for row in first.rows] == [1] * 5

    def test_results_follow_from_the_predictions(self, tmp_path: Path) -> None:
        told: list[tuple[int, int, float]] = []
        run_folds(table_of(tmp_path), ENERGY, tmp_path / "out", recipe(), seeds=2, done=lambda *d: told.append(d))
        rows = predictions(tmp_path / "out")
        result = json.loads((tmp_path / "out" / RESULT).read_text())
        assert len(rows) == 2 * COUNT
        first = recipe().seed
        for fold, seed, error in told:
            off = [abs(r["prediction"] - r["label"]) for r in rows if (r["fold"], r["member"]) == (fold, seed)]
            assert error == pytest.approx(np.mean(off))
            assert result["mae"][str(fold)][str(seed)] == pytest.approx(error)
        over_folds = np.mean([error for _, seed, error in told if seed == first])
        assert result["mean_over_folds"][str(first)] == pytest.approx(over_folds)
        by_id: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_id.setdefault(row["id"], []).append(row)
        of_mean = [
            np.mean(
                [
                    abs(np.mean([r["prediction"] for r in pair]) - pair[0]["label"])
                    for pair in by_id.values()
                    if pair[0]["fold"] == fold
                ]
            )
            for fold in range(3)
        ]
        assert result["mean_over_folds_of_mean"] == pytest.approx(np.mean(of_mean))
        assert result["unit"] == "eV/atom"

    def test_an_interrupted_benchmark_goes_on_to_the_same_numbers(self, tmp_path: Path) -> None:
        whole = run_folds(table_of(tmp_path), ENERGY, tmp_path / "whole", recipe())

        def stop(fold: int, seed: int, error: float) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run_folds(table_of(tmp_path), ENERGY, tmp_path / "out", recipe(), done=stop)
        assert {row["fold"] for row in predictions(tmp_path / "out")} == {0}
        with pytest.raises(ConfigError, match="holds a run; go on with --resume"):
            run_folds(table_of(tmp_path), ENERGY, tmp_path / "out", recipe())
        with pytest.raises(ConfigError, match="lr"):
            run_folds(table_of(tmp_path), ENERGY, tmp_path / "out", recipe(lr=0.1), resume=True)
        again = run_folds(table_of(tmp_path), ENERGY, tmp_path / "out", recipe(), resume=True)
        assert again.rows == whole.rows

    def test_a_row_that_cannot_be_predicted_is_refused(self, tmp_path: Path) -> None:
        energy = [None, *(float(k) for k in range(1, COUNT))]
        with pytest.raises(TableError, match=r"row 0 \(.*\) cannot be used \(it has no energy\)"):
            run_folds(table_of(tmp_path, energy=energy), ENERGY, tmp_path / "out", recipe())
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(("given", "problem"), [({"folds": [3]}, "no fold 3"), ({"seeds": 0}, "no fold or seed")])
    def test_what_is_not_there_is_refused(self, given: dict[str, Any], problem: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=problem):
            run_folds(table_of(tmp_path), ENERGY, tmp_path / "out", recipe(), **given)


class TestMatbench:
    def test_the_command_writes_what_the_package_of_matbench_reads(self, tmp_path: Path) -> None:
        table_of(tmp_path, "matbench_toys.parquet", fold=None, matbench_fold=[k % 5 for k in range(COUNT)])
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(SETTINGS))
        options = [
            "--target",
            "energy",
            "--unit",
            "eV/atom",
            "--recipe",
            tmp_path / "recipe.yaml",
            "-o",
            tmp_path / "out",
        ]
        done = invoke("benchmark", tmp_path / "matbench_toys.parquet", *options)
        assert done.exit_code == 0, done.output
        assert "mean" in done.stdout
        content = json.loads((tmp_path / "out" / "matbench.json").read_text())
        keys = {"@module", "@class", "version", "benchmark_name", "tasks", "user_metadata", "datestamp", "hash"}
        assert set(content) == keys
        task = content["tasks"]["matbench_toys"]
        assert set(task) == {"@module", "@class", "dataset_name", "results", "benchmark_name"}
        assert list(task["results"]) == [f"fold_{k}" for k in range(5)]
        rows = {row["id"]: row for row in predictions(tmp_path / "out")}
        for fold in task["results"].values():
            assert set(fold) == {"scores", "data", "parameters"}
            off = np.array([p - rows[name]["label"] for name, p in fold["data"].items()])
            labels = np.array([rows[name]["label"] for name in fold["data"]])
            assert fold["scores"]["mae"] == pytest.approx(np.abs(off).mean())
            assert fold["scores"]["rmse"] == pytest.approx(np.sqrt((off**2).mean()))
            assert fold["scores"]["max_error"] == pytest.approx(np.abs(off).max())
            large = labels != 0
            assert fold["scores"]["mape"] == pytest.approx((np.abs(off[large]) / labels[large]).mean())
        digest = content.pop("hash")
        assert digest == hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        assert sorted(name for fold in task["results"].values() for name in fold["data"]) == sorted(rows)

    def test_all_folds_are_needed(self, tmp_path: Path) -> None:
        results = run_folds(table_of(tmp_path), ENERGY, tmp_path / "out", recipe(), folds=[0])
        with pytest.raises(ConfigError, match="matbench_x: fold 1 is missing"):
            write_matbench(tmp_path / "x.json", "matbench_x", results, {})
        assert not (tmp_path / "x.json").exists()
