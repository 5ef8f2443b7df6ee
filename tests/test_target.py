"""Targets: physical values to standardised ones and back, and what cannot be learned."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalformers.errors import TargetError
from crystalformers.target import Target


@settings(max_examples=60, deadline=None)
@given(
    basis=st.sampled_from(["intensive", "per_atom", "per_cell"]),
    transform=st.sampled_from(["none", "log10"]),
    values=st.lists(st.floats(0.01, 1e4), min_size=3, max_size=20, unique=True),
    seed=st.integers(0, 100),
)
def test_round_trip_and_standardisation(basis: str, transform: str, values: list[float], seed: int) -> None:
    n_atoms = np.random.default_rng(seed).integers(1, 50, size=len(values))
    plain = Target("x", "eV", basis, transform)  # type: ignore[arg-type]
    try:
        target = plain.fitted(values, n_atoms)
    except TargetError:
        assert plain.standardise(values, n_atoms).std() < 1e-9 * 1e4
        return
    z = target.standardise(values, n_atoms)
    assert z.mean() == pytest.approx(0, abs=1e-6)
    assert z.std() == pytest.approx(1, abs=1e-6)
    assert np.allclose(target.physical(z, n_atoms), values, rtol=1e-9)
    assert Target.from_dict(json.loads(json.dumps(target.to_dict()))) == target


def test_what_the_bases_mean() -> None:
    z = [0.0, 0.0]
    assert Target("e", "eV", "per_cell", mean=-2.0, std=1.0).physical(z, [1, 10]).tolist() == [-2, -20]
    assert Target("e", "eV/atom", "per_atom", mean=-2.0, std=1.0).physical(z, [1, 10]).tolist() == [-2, -2]
    assert Target("g", "eV", "intensive", mean=-2.0, std=1.0).physical(z, [1, 10]).tolist() == [-2, -2]
    assert Target("k", "GPa", transform="log10", mean=2.0, std=0.3).physical([0.0, 1.0], [1, 1]) == pytest.approx(
        [100, 10**2.3]
    )


def test_the_deviation_is_that_of_the_population_and_missing_labels_do_not_count() -> None:
    target = Target("x", "eV").fitted([1.0, np.nan, 3.0], [1, 1, 1])
    assert (target.mean, target.std) == (2.0, 1.0)
    assert np.isnan(target.standardise([np.nan], [1])).all()


def test_fitting_starts_from_the_plain_scale() -> None:
    values, n_atoms = [1.0, 2.0, 5.0], [1, 2, 3]
    once = Target("x", "eV", "per_cell").fitted(values, n_atoms)
    assert once.fitted(values, n_atoms) == once


@pytest.mark.parametrize(
    ("target", "values", "words"),
    [
        (Target("x", "eV"), [np.nan, np.nan], "not one label"),
        (Target("x", "eV"), [], "not one label"),
        (Target("x", "eV"), [2.0, 2.0, 2.0], "nothing to learn"),
        (Target("x", "eV"), [0.1 + 0.2, 0.3], "nothing to learn"),
        (Target("x", "eV"), [1.0, np.inf], "infinite"),
        (Target("x", "eV", transform="log10"), [1.0, 0.0], "positive"),
        (Target("x", "eV", transform="log10"), [1.0, -3.0, 2.0], "positive"),
    ],
)
def test_labels_that_cannot_be_learned_are_refused(target: Target, values: list[float], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        target.fitted(values, np.ones(len(values)))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "name and a unit"),
        ({"unit": ""}, "name and a unit"),
        ({"name": ["x"]}, "must be texts"),
        ({"unit": 1}, "must be texts"),
        ({"basis": "per_mole"}, "per_mole"),
        ({"transform": "sqrt"}, "sqrt"),
        ({"std": 0.0}, "std positive"),
        ({"std": -1.0}, "std positive"),
        ({"std": float("nan")}, "finite"),
        ({"mean": float("inf")}, "finite"),
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(TargetError, match=words):
        Target(**{"name": "x", "unit": "eV", **fields})  # type: ignore[arg-type]
