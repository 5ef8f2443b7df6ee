"""The table of errors of fine-tuned models."""

from typing import Any

import pytest

from benchmarks.accuracy.fine_tuning import COLUMNS, START, TABLE, errors_table, results


def run(contender: str, seed: int, mae: float) -> dict[str, Any]:
    return {"task": "moduli", "size": 300, "unit": "GPa", "contender": contender, "seed": seed, "mae": mae}


def test_the_table_is_computed_from_the_runs() -> None:
    remedy = "run python -m benchmarks.accuracy.fine_tuning test --table"
    assert TABLE.read() == errors_table(results("test")), remedy


def test_errors_are_compared_with_the_same_rows_and_missing_seeds_are_counted() -> None:
    done = [run(START, 0, 10.0), run(START, 1, 40.0), run("tuned", 1, 20.0), run("tuned", 2, 1.0)]
    *_, line = errors_table(done).splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    place = 3 + list(COLUMNS).index("tuned")
    assert cells[:4] == ["moduli (GPa)", "300", "2", "25.0"]
    assert cells[place] == "20.0 (1)"
    assert cells[-1] == "0.50"


@pytest.mark.parametrize("contender", COLUMNS)
def test_no_run_is_there_twice(contender: str) -> None:
    done = [(row["task"], row["size"], row["seed"]) for row in results("test") if row["contender"] == contender]
    assert len(done) == len(set(done))
