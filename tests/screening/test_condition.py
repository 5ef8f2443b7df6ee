"""Conditions: what they select, and that nothing but a condition is one."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crystalformers.errors import ConfigError
from crystalformers.screening.condition import MOST_CHARACTERS, condition

TABLE = pa.table({"a": [0.0, 1.0, 2.0, None], "b": [5, -1, 3, 2]})


def selected(text: str) -> list[int]:
    return TABLE.append_column("k", pa.array(range(4))).filter(condition(text, ["a", "b"]))["k"].to_pylist()


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a > 0", [1, 2]),
        ("a >= 0 and b > 0", [0, 2]),
        ("a == 0 or b < 0", [0, 1]),
        ("not a > 0", [0]),
        ("not (a > 0 and b > 0)", [0, 1]),
        ("0 < a <= 2 != b", [1, 2]),
        ("a < b", [0, 2]),
        ("b > -2.5e0", [0, 1, 2, 3]),
        ("  b != 3 ", [0, 1, 3]),
    ],
)
def test_rows_that_are_selected(text: str, rows: list[int]) -> None:
    assert selected(text) == rows


COMPARISONS = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}


@given(st.sampled_from(sorted(COMPARISONS)), st.integers(-3, 6), st.booleans())
def test_a_comparison_is_that_of_numpy(sign: str, number: int, negated: bool) -> None:
    found = COMPARISONS[sign](np.array([5, -1, 3, 2]), number)
    expected = np.flatnonzero(~found if negated else found).tolist()
    assert selected(f"{'not ' if negated else ''}b {sign} {number}") == expected


def test_an_unknown_column_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="there is no column 'c'; the columns are a, b"):
        condition("a > 1 and c < 2", ["a", "b"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "1",
        "a >",
        "a + 1 > 2",
        "a > 'x'",
        "a > True",
        "a in (1, 2)",
        "a is 1",
        "f(a) > 1",
        "__import__('os').system('true') > 0",
        "a.b > 1",
        "a[0] > 1",
        "(lambda: 1)() > 0",
        "[x for x in a] > 1",
        "a > 1; b > 2",
        "a > 1\nb > 2",
        "a := 1",
        "a if b else a",
        "a > 1j",
        "a > b'x'",
        "f'{a}' > 1",
        "(" * 5000 + "a > 1" + ")" * 5000,
        "not " * 2000 + "a > 1",
        "a > 1\0",
        "a > 1 or " * MOST_CHARACTERS + "b > 1",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no condition"):
        condition(text, ["a", "b"])
