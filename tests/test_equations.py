"""The tables of docs/equations.md quote lines of code that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| `([\w/.]+)` \| `(.+)` \|$", PAGE, re.MULTILINE)


def test_every_row_of_the_tables_is_checked() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and not re.match(r"\|(---| equation \|)", line)]
    assert len(ROWS) == len(rows) > 40


@pytest.mark.parametrize(("equation", "file", "line"), ROWS)
def test_the_quoted_line_is_in_its_file(equation: str, file: str, line: str) -> None:
    text = (ROOT / "crystalformers" / file).read_text(encoding="utf-8")
    assert line in text, f"{equation}: '{line}' is no longer in {file}; update docs/equations.md"
