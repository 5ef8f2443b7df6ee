"""The table of equations in docs/equations.md points at lines that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| `([\w/.]+)` \| `(.+)` \|$", TABLE, re.MULTILINE)


def test_the_table_is_there() -> None:
    assert len(ROWS) > 15


@pytest.mark.parametrize(("equation", "file", "line"), ROWS)
def test_line_stands_in_its_file(equation: str, file: str, line: str) -> None:
    text = (ROOT / "crystalformers" / file).read_text(encoding="utf-8")
    assert line in text, f"{equation}: '{line}' is no longer in {file}; update docs/equations.md"
