"""The page about the papers' claims says what follows from the committed runs."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.accuracy.claims import CLAIMS, QUESTIONS, Comparison, errors_table, paired_changes, write_table
from benchmarks.harness import recorded
from crystalformers import Recipe

COMPARISONS = [one for one in map(Comparison, QUESTIONS) if one.rows()]
"""Those that something is measured of."""


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda one: one.name)
def test_the_table_is_computed_from_the_runs(comparison: Comparison) -> None:
    again = f"python -m benchmarks.accuracy.claims {comparison.name} --table"
    assert comparison.table.read() == errors_table(comparison.rows(), comparison), f"run {again}"


@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda one: one.name)
def test_every_run_had_the_budget_of_all(comparison: Comparison) -> None:
    rows = comparison.rows()
    for row in rows:
        assert row["rows"] == rows[0]["rows"], row["contender"]
        assert row["settings"] == comparison.recipe_of(row["contender"]), row["contender"]
        assert list(row["errors"]) == [target["name"] for target in comparison.targets_of(row["contender"])]
    done = [(row["contender"], row["seed"]) for row in rows]
    assert len(done) == len(set(done))


def test_a_run_counts_for_every_question_that_it_answers() -> None:
    settings, adamw = Comparison("settings"), Comparison("claims-adamw")
    no_frames = [row for row in recorded(adamw.path) if row["contender"] == adamw.contenders[0]]
    shared = [row for row in settings.rows() if row["contender"] == settings.contenders[0]]
    assert [row["errors"] for row in shared] == [row["errors"] for row in no_frames]
    muon = [row["errors"] for row in recorded(settings.path) if row["contender"] == "muon, learning rate 1e-3"]
    assert muon[0] in [row["errors"] for row in CLAIMS.rows() if row["contender"] == CLAIMS.contenders[0]]


@pytest.mark.shared
def test_no_test_row_of_fold_0_is_among_the_perovskites_compared(tmp_path: Path, shared: Path) -> None:
    data = Comparison("claims-perovskites").settings["data"]
    write_table(tmp_path / "rows.parquet", data)
    rows = pq.read_table(tmp_path / "rows.parquet")
    all_rows = pq.read_table(shared / "data" / f"{data['table']}.parquet")
    test = {row["id"] for row in all_rows.select(["id", "matbench_fold"]).to_pylist() if row["matbench_fold"] == 0}
    assert len(rows) == len(all_rows) - len(test)
    assert test.isdisjoint(rows["id"].to_pylist())
    assert {name: rows["split"].to_pylist().count(name) for name in ("val", "test")} == dict.fromkeys(
        ("val", "test"), len(rows) // 10
    )


def test_changes_are_paired_by_seed() -> None:
    first = CLAIMS.contenders[0]
    rows = [
        {"contender": name, "seed": seed, "errors": {"gap": {"averaged": {"test": error}}}}
        for name, seed, error in [
            (first, 0, 0.5),
            (first, 1, 0.4),
            ("max", 1, 0.3),
            ("max", 2, 0.1),
        ]
    ]
    assert paired_changes(rows, "max", "gap") == [100 * (0.3 / 0.4 - 1)]


def test_models_of_several_architectures_are_compared_with_the_first_of_their_own() -> None:
    architectures = Comparison("architectures")
    assert architectures.baseline_of("MEGNet, Muon") == "MEGNet, AdamW"
    assert {CLAIMS.baseline_of(name) for name in CLAIMS.contenders} == {CLAIMS.contenders[0]}


def test_every_contender_has_a_valid_recipe() -> None:
    for comparison in map(Comparison, QUESTIONS):
        for name in comparison.contenders:
            assert Recipe.parse(comparison.recipe_of(name)), name


def test_a_contender_may_learn_a_part_of_the_targets() -> None:
    settings = Comparison("settings")
    both, alone = "muon, learning rate 1e-3", "muon, formation energy alone"
    assert settings.targets_of(alone) == settings.targets[:1]
    assert settings.targets_of(both) == settings.targets
    assert settings.recipe_of(both) == settings.recipe_of(alone)
    assert all(len(row["errors"]) == 2 for row in settings.rows() if row["contender"] == both)
