"""Random valid arguments give the same in every backend; random invalid ones are refused; nothing crashes."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

if sys.platform != "linux":
    pytest.skip("NOT TESTED: the child is bounded on Linux only", allow_module_level=True)

from kernels import GOOD, IMPOSSIBLE, INVALID, STRANGE, agree, changed, findings, valid

SEEDS = st.integers(0, 2**32)


@settings(max_examples=15, deadline=None)
@given(SEEDS)
def test_valid_arguments_give_the_same_values_and_gradients(seed: int) -> None:
    agree(valid(np.random.default_rng(seed)), reference=False)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from([("invalid", name) for name in INVALID] + [("images", name) for name in IMPOSSIBLE]))
def test_invalid_arguments_are_refused(seed: int, case: tuple[str, str]) -> None:
    assert changed(*case, np.random.default_rng(seed)) == "refused"


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.sampled_from(list(STRANGE)))
def test_strange_arguments_are_computed_or_refused(seed: int, name: str) -> None:
    assert changed("strange", name, np.random.default_rng(seed)) in GOOD


def test_a_child_makes_the_calls_and_the_summary_counts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.SHARES", {"strange": 1.0})
    ended = list(findings(10, 5))
    assert [(seed, wrong) for _, seed, _, wrong in ended] == [(seed, False) for seed in range(5, 15)]


def test_what_is_not_refused_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INVALID, "cut", lambda call, _: call)
    with pytest.raises(AssertionError, match="'cut' was not refused"):
        changed("invalid", "cut", np.random.default_rng(0))
