"""Changed files of every kind end in predictions or in the library's own errors, in bounded time and memory."""

from __future__ import annotations

import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("NOT TESTED: the bounds on the child are those of Linux", allow_module_level=True)
pytest.importorskip("ase", reason="NOT TESTED: extended XYZ needs ASE")

from fuzz import attack, judged
from mutations import MUTATIONS, mutant
from originals import originals

INPUTS = 154
"""Of each kind; 2,002 in all."""


@pytest.mark.slow
def test_changed_files_of_every_kind_are_handled() -> None:
    with ThreadPoolExecutor(2) as pool:
        results = dict(zip(MUTATIONS, pool.map(lambda kind: list(attack(kind, 0, INPUTS)), MUTATIONS), strict=True))
    assert [(kind, seed, text) for kind, ended in results.items() for seed, text, wrong in ended if wrong] == []
    for kind, ended in results.items():
        assert [seed for seed, _, _ in ended] == list(range(INPUTS)), kind
        counted = Counter(text for _, text, _ in ended)
        assert len(counted) > 1, f"{kind}: {counted}, so that the changes are too weak or too strong"


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_seed_is_always_the_same_input(kind: str) -> None:
    assert [mutant(kind, seed) for seed in range(20)] == [mutant(kind, seed) for seed in range(20)]


@pytest.mark.parametrize("kind", MUTATIONS)
def test_files_that_are_right_are_used(kind: str, tmp_path: Path) -> None:
    for data in originals(kind):
        assert judged(kind, data, tmp_path) == ("read", False)


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError(), MemoryError(), SystemExit(0)])
def test_an_error_that_is_not_of_the_library_is_a_finding(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr("crystalformers.io.read_structures", fail)
    text, wrong = judged("cif", originals("cif")[0], tmp_path)
    assert wrong
    assert text.startswith(type(error).__name__)


def test_neither_structure_nor_reason_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crystalformers.io.read_structures", lambda paths: iter(()))
    assert judged("cif", originals("cif")[0], tmp_path)[1]
