"""Small files of every kind that a reader once crashed at, misread or refused without need, each with its outcome.

`regressions/expected.json` holds, for each structure of each file, formula and number of atoms, or how the problem
begins. A new finding of the fuzzer becomes a file here, written anew and as small as it shows the problem.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from crystalformers.io import Rejected, formula, read_structures

pytest.importorskip("ase", reason="NOT TESTED: extended XYZ needs ASE")

FOLDER = Path(__file__).parent / "regressions"
EXPECTED: dict[str, list[str]] = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


def test_every_file_has_an_outcome() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {*EXPECTED, "expected.json"}


@pytest.mark.parametrize("name", EXPECTED)
def test_outcome(name: str) -> None:
    found = list(read_structures([FOLDER / name]))
    assert len(found) == len(EXPECTED[name])
    for item, expected in zip(found, EXPECTED[name], strict=True):
        if isinstance(item, Rejected):
            assert item.problem.startswith(expected)
        else:
            assert f"{formula(item)} {len(item)}" == expected
