"""The page about a billion structures says what follows from the measured files."""

from __future__ import annotations

from benchmarks.billion import TABLE, table


def test_the_table_of_the_page_is_computed_from_the_results() -> None:
    again = "python -m benchmarks.billion table"
    assert TABLE.read() == table(), f"run {again}"
