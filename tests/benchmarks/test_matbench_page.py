"""The page about public benchmarks says what follows from the committed predictions."""

from __future__ import annotations

import json

import pytest

from benchmarks.accuracy.matbench import OUT, TARGETS, complete_seeds, computed, recipes, results_of, table, tables
from benchmarks.harness import recorded


def test_the_tables_are_computed_from_the_predictions() -> None:
    for place, text in tables().items():
        assert place.read() == text, "run python -m benchmarks.accuracy.matbench table"


@pytest.mark.parametrize("task", TARGETS)
def test_models_that_have_seen_other_data_stand_apart(task: str) -> None:
    for name in results_of(task):
        pretrained = "init" in recipes(task)[name]
        assert (f"`{name}`" in table(task)) is not pretrained
        assert (f"`{name}`" in table(task, other_data=True)) is pretrained


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
