"""The page about the papers' claims says what follows from the committed runs."""

from __future__ import annotations

import yaml

from benchmarks.accuracy.claims import BASELINE, SETTINGS, TABLE, errors_table, paired_changes, results

SETTINGS_NOW = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))


def test_the_table_is_computed_from_the_runs() -> None:
    again = "python -m benchmarks.accuracy.claims --table"
    assert TABLE.read() == errors_table(results(), SETTINGS_NOW), f"run {again}"


def test_every_run_had_the_budget_of_all() -> None:
    data, recipe = SETTINGS_NOW["data"], SETTINGS_NOW["recipe"]
    for row in results():
        assert row["rows"]["train"] == data["training"], row["contender"]
        assert {key: row["settings"][key] for key in recipe} == recipe, row["contender"]


def test_changes_are_paired_by_seed() -> None:
    rows = [
        {"contender": name, "seed": seed, "errors": {"gap": {"averaged": {"test": error}}}}
        for name, seed, error in [(BASELINE, 0, 0.5), (BASELINE, 1, 0.4), ("max", 1, 0.3), ("max", 2, 0.1)]
    ]
    assert paired_changes(rows, "max", "gap") == [100 * (0.3 / 0.4 - 1)]
