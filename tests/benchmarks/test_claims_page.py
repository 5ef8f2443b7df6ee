"""The page about the papers' claims says what follows from the committed runs."""

from __future__ import annotations

from benchmarks.accuracy.claims import CLAIMS, TABLE, Comparison, errors_table, paired_changes
from benchmarks.harness import recorded
from crystalformers import Recipe


def test_the_table_is_computed_from_the_runs() -> None:
    again = "python -m benchmarks.accuracy.claims --table"
    assert TABLE.read() == errors_table(recorded(CLAIMS.path), CLAIMS), f"run {again}"


def test_every_run_had_the_budget_of_all() -> None:
    data, recipe = CLAIMS.settings["data"], CLAIMS.settings["recipe"]
    for row in recorded(CLAIMS.path):
        assert row["rows"]["train"] == data["training"], row["contender"]
        assert {key: row["settings"][key] for key in recipe} == recipe, row["contender"]


def test_changes_are_paired_by_seed() -> None:
    first = CLAIMS.baseline
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


def test_every_contender_has_a_valid_recipe() -> None:
    for comparison in (CLAIMS, Comparison("settings")):
        for name, changes in comparison.settings["contenders"].items():
            assert Recipe.parse({**comparison.settings["recipe"], **changes}), name
