"""Changed weight files and saved states end in finite predictions or in the library's own errors."""

from __future__ import annotations

import sys
import time
from collections import Counter
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("NOT TESTED: the bounds on the child are those of Linux", allow_module_level=True)

import fuzz
from weights import MUTATIONS, judged, mutant, originals, work

INPUTS = 40
"""Of each kind."""


@pytest.mark.parametrize("kind", MUTATIONS)
def test_changed_files_are_handled(kind: str, tmp_path: Path) -> None:
    ended: Counter[str] = Counter()
    for seed in range(INPUTS):
        start = time.process_time()
        text, wrong = judged(kind, mutant(kind, seed), tmp_path)
        assert not wrong, f"{seed}: {text}"
        assert time.process_time() - start < fuzz.SECONDS, seed
        ended[text] += 1
    assert ended["refused"] > INPUTS / 4, f"{ended}, so that the changes are too weak"


def test_a_child_attacks_within_bounds() -> None:
    ended = list(fuzz.attack("lightning", 1000, 10, work))
    assert [seed for seed, _, _ in ended] == list(range(1000, 1010))
    assert [text for _, text, wrong in ended if wrong] == []


@pytest.mark.parametrize("kind", MUTATIONS)
def test_files_that_are_right_are_used(kind: str, tmp_path: Path) -> None:
    for data in originals(kind):
        assert judged(kind, data, tmp_path) == ("resumed" if kind == "resume" else "predicted", False)


@pytest.mark.parametrize("kind", MUTATIONS)
def test_a_seed_is_always_the_same_input(kind: str) -> None:
    # The identifiers that torch.save writes differ between two archives of the same content.
    assert [len(mutant(kind, seed)) for seed in range(10)] == [len(mutant(kind, seed)) for seed in range(10)]


# Seeds that ended in an error of Python or PyTorch before: settings that are no numbers.
@pytest.mark.parametrize("seed", [176, 1509, 1575])
def test_settings_that_are_no_numbers_are_refused(seed: int, tmp_path: Path) -> None:
    assert judged("ours", mutant("ours", seed), tmp_path) == ("refused", False)
