"""The page about public benchmarks says what follows from the committed predictions."""

from __future__ import annotations

import json

import pytest

from benchmarks.accuracy.matbench import OUT, TARGETS, complete_seeds, computed, results_of, table
from benchmarks.harness import recorded


@pytest.mark.parametrize("task", TARGETS)
def test_the_tables_are_computed_from_the_predictions(task: str) -> None:
    again = "python -m benchmarks.accuracy.matbench table"
    assert computed(task).read() == table(task), f"run {again}"


@pytest.mark.parametrize("task", TARGETS)
def test_the_file_of_matbench_holds_the_same_predictions(task: str) -> None:
    for name, found in results_of(task).items():
        if not (results := complete_seeds(task, found.rows)).rows:
            continue
        content = json.loads((OUT / task / f"{name}.matbench.json").read_text(encoding="utf-8"))
        folds = content["tasks"][task]["results"]
        for fold, rows in results.means().items():
            assert folds[f"fold_{fold}"]["data"] == {row: prediction for row, (_, prediction) in rows.items()}


@pytest.mark.parametrize(("task", "digits"), [("matbench_phonons", 1), ("matbench_perovskites", 4)])
def test_errors_that_chose_recipes_are_those_recorded(task: str, digits: int) -> None:
    page = computed(task).path.read_text(encoding="utf-8")
    for row in recorded(OUT / f"{task}-search.jsonl"):
        frames = row["settings"].get("preset", "crystalformer") != "crystalformer"
        if task == "matbench_phonons" or not frames:  # frames of perovskites are another question, on another page
            assert f"| {row['val_mae']:.{digits}f} |" in page, row["recipe"]
