"""The documentation points at lines of code, tests and files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EQUATIONS = (ROOT / "docs" / "equations.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (.+?) \| `([\w/.]+)` \| `(.+)` \|$", EQUATIONS, re.MULTILINE)
DIFFERENCES = (ROOT / "docs" / "differences.md").read_text(encoding="utf-8")
TESTS = re.findall(r"`([\w/]*test_\w+\.py)?((?:::\w+)*)`", DIFFERENCES)
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(p for folder in ("docs", "benchmarks", "recipes", "examples") for p in (ROOT / folder).rglob("*.md")),
    ]
)


def test_every_row_of_the_tables_is_checked() -> None:
    rows = [line for line in EQUATIONS.splitlines() if re.match(r"\|(?!---| equation \|)", line)]
    assert len(ROWS) == len(rows) > 40


@pytest.mark.parametrize(("equation", "file", "line"), ROWS)
def test_the_quoted_line_is_in_its_file(equation: str, file: str, line: str) -> None:
    text = (ROOT / "crystalformers" / file).read_text(encoding="utf-8")
    assert line in text, f"{equation}: '{line}' is no longer in {file}; update docs/equations.md"


def test_the_tests_named_in_the_differences_exist() -> None:
    """`file.py::Class::test`; a name without a file belongs to the file named before it."""
    text, checked = "", 0
    for file, names in TESTS:
        if file:
            text = (ROOT / "tests" / file.removeprefix("tests/")).read_text(encoding="utf-8")
        for name in names.split("::")[1:]:
            assert re.search(rf"(class|def) {name}\b", text), f"{name} is in no test; update docs/differences.md"
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []
