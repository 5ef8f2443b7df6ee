"""The invariance module finds what is broken: each transformation is caught by a predictor that should fail it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from strategies import crystals, random_crystals

from crystalformers import testing
from crystalformers.crystal import Crystal
from crystalformers.testing import ALL, E3, SE3, Transformation, assert_invariant, invariance_report, table

SAMPLE = random_crystals(14, seed=3)
NAMES = {transformation.name for transformation in E3}

Predict = Callable[[list[Crystal]], list[float]]


def each(function: Callable[[Crystal], float]) -> Predict:
    return lambda given_crystals: [float(function(crystal)) for crystal in given_crystals]


def invariant(crystal: Crystal) -> float:
    """Depends on the composition and the density only."""
    return float(np.mean(crystal.numbers) + 100 * len(crystal) / crystal.volume)


def handedness(crystal: Crystal) -> float:
    """Sign of a triple product of positions: what a chiral property may depend on, a distance may not."""
    a, b, c = crystal.positions[:3] - crystal.positions[3]
    return float(np.sign(np.cross(a, b) @ c)) + 0.01 * float(np.mean(crystal.numbers))


def lengths(crystal: Crystal) -> float:
    return float(np.linalg.norm(crystal.lattice, axis=1).sum())


CELL_CHANGES = {"sheared cell a+3b", "sheared cell a+6b", "random cell", "Niggli cell"}
GROWTH = {"supercell 2x1x1", "supercell 2x2x2"}

BROKEN: dict[str, tuple[Predict, set[str]]] = {
    "volume of the cell": (each(lambda c: c.volume), GROWTH),
    "number of atoms": (each(len), GROWTH),
    "signed volume": (each(lambda c: np.linalg.det(c.lattice) / len(c)), {"reflection", "left-handed cell"}),
    "lengths of the cell": (each(lengths), CELL_CHANGES | GROWTH),
    "raw fractional coordinates": (
        each(lambda c: c.frac_coords.sum() / len(c)),
        {"translation", "other periodic images"} | CELL_CHANGES | GROWTH,
    ),
    "wrapped fractional coordinates": (each(lambda c: (c.frac_coords % 1).sum() / len(c)), {"translation"}),
    "Cartesian coordinates": (each(lambda c: c.positions[:, 0].mean()), {"rotation", "reflection", "translation"}),
    "spread of raw positions": (
        each(lambda c: np.linalg.norm(c.positions - c.positions.mean(0), axis=1).max() if len(c) > 1 else 0),
        {"other periodic images"} | GROWTH,
    ),
    "first atom": (each(lambda c: c.numbers[0]), {"atom order"}),
    "mean of the batch": (lambda cs: [invariant(c) - invariant(cs[0]) for c in cs], {"batch mates"}),
    "order of the batch": (lambda cs: [float(index + invariant(c)) for index, c in enumerate(cs)], {"batch mates"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_model_is_caught(name: str) -> None:
    predict, expected = BROKEN[name]
    changed = {row.transformation for row in invariance_report(predict, SAMPLE) if row.change > 1e-6}
    assert expected <= changed, f"not caught: {expected - changed}"
    with pytest.raises(AssertionError, match="change by more than"):
        assert_invariant(predict, SAMPLE, tolerance=1e-6)


def test_every_transformation_catches_someone() -> None:
    assert set().union(*(expected for _, expected in BROKEN.values())) == NAMES


@pytest.mark.parametrize("name", ["volume of the cell", "signed volume", "first atom"])
def test_what_a_model_does_respect_is_not_held_against_it(name: str) -> None:
    predict, expected = BROKEN[name]
    changed = {row.transformation for row in invariance_report(predict, SAMPLE) if row.change > 1e-6}
    assert changed - {"supercell 2x1x1", "supercell 2x2x2"} <= expected


def test_an_invariant_model_passes() -> None:
    rows = assert_invariant(each(invariant), SAMPLE, tolerance=1e-9)
    assert {row.transformation for row in rows} == NAMES
    assert all(row.crystals == len(SAMPLE) and row.median <= row.change < 1e-9 for row in rows)


def test_se3_leaves_out_the_mirror() -> None:
    assert {t.name for t in E3} - {t.name for t in SE3} == {"reflection"}
    assert ALL == E3
    chiral = [crystal for crystal in SAMPLE if len(crystal) > 3]
    rigid = [t for t in E3 if t.name in ("rotation", "reflection", "translation")]
    assert_invariant(each(handedness), chiral, 1e-9, [t for t in rigid if t in SE3])
    with pytest.raises(AssertionError, match="reflection"):
        assert_invariant(each(handedness), chiral, 1e-9, rigid)


@pytest.mark.parametrize("transformation", E3, ids=lambda transformation: transformation.name)
def test_transformations_are_what_they_say(transformation: Transformation) -> None:
    @settings(max_examples=15, deadline=None)
    @given(crystals())
    def check(crystal: Crystal) -> None:
        changed = transformation.apply(crystal, np.random.default_rng(1))
        times = len(changed) / len(crystal)
        assert changed.volume == pytest.approx(times * crystal.volume, rel=1e-9)
        assert sorted(changed.numbers) == sorted(np.tile(crystal.numbers, int(times)))
        assert changed.name == crystal.name
        gram = changed.lattice @ changed.lattice.T
        if transformation.name in ("rotation", "reflection"):
            turned = np.linalg.inv(crystal.lattice) @ changed.lattice
            assert np.allclose(turned @ turned.T, np.eye(3), atol=1e-9)
            assert np.linalg.det(turned) == pytest.approx(-1 if transformation.name == "reflection" else 1)
            assert np.allclose(gram, crystal.lattice @ crystal.lattice.T)
        elif "cell" in transformation.name:
            basis = changed.lattice @ np.linalg.inv(crystal.lattice)
            assert np.allclose(basis, np.rint(basis), atol=1e-6), "the lattice is one of the same points"
        if transformation.name == "Niggli cell":
            assert np.trace(gram) <= np.trace(crystal.lattice @ crystal.lattice.T) * (1 + 1e-6)
        if transformation.name == "left-handed cell":
            assert np.linalg.det(changed.lattice) == pytest.approx(-np.linalg.det(crystal.lattice))

    check()


def test_the_seed_fixes_every_choice() -> None:
    predict = each(lambda c: c.positions[0, 0])
    once, again, other = (invariance_report(predict, SAMPLE, seed=seed) for seed in (5, 5, 6))
    assert once == again
    assert once != other
    alone = invariance_report(predict, SAMPLE, [t for t in E3 if t.name == "rotation"], seed=5)
    assert alone[0] == next(row for row in once if row.transformation == "rotation")


def test_the_change_is_in_units_of_the_spread_of_each_target() -> None:
    def two(given_crystals: list[Crystal]) -> np.ndarray:
        values = np.array([[crystal.numbers[0], 1e6 * invariant(crystal)] for crystal in given_crystals])
        return values + np.array([0.1 * (len(given_crystals) == 1), 0])

    spread = np.std([crystal.numbers[0] for crystal in SAMPLE])
    (row,) = invariance_report(two, SAMPLE, [t for t in E3 if t.alone])
    assert row.change == pytest.approx(0.1 / spread)
    assert row.crystal in {crystal.name for crystal in SAMPLE}


def test_a_prediction_that_is_no_number_fails() -> None:
    def sometimes(given_crystals: list[Crystal]) -> list[float]:
        return [np.nan if len(c) > 20 else invariant(c) for c in given_crystals]

    small = [crystal for crystal in SAMPLE if len(crystal) <= 6]
    with pytest.raises(AssertionError, match=r"supercell 2x2x2 .* inf"):
        assert_invariant(sometimes, small, 1e-6)


@pytest.mark.parametrize(
    ("predict", "sample", "words"),
    [
        (lambda cs: [1.0 for _ in cs], SAMPLE, "differ"),
        (lambda cs: [1.0 + 1e-15 * k for k, _ in enumerate(cs)], SAMPLE, "differ"),
        (each(invariant), SAMPLE[:1], "two or more"),
        (lambda cs: [np.nan for _ in cs], SAMPLE, "finite"),
        (lambda cs: [1.0], SAMPLE, "shape"),
        (lambda cs: 1.0, SAMPLE, "shape"),
    ],
)
def test_what_cannot_be_measured_is_refused(predict: Predict, sample: list[Crystal], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        invariance_report(predict, sample)


def test_a_change_of_basis_must_keep_the_volume() -> None:
    with pytest.raises(ValueError, match="determinant"):
        testing.rebased(SAMPLE[0], np.diag([2, 1, 1]))


def test_rows_make_a_frame_and_a_table() -> None:
    rows = invariance_report(each(invariant), SAMPLE)
    frame = pd.DataFrame(rows)
    assert list(frame.columns) == ["transformation", "change", "median", "crystal", "crystals"]
    lines = table(rows).splitlines()
    assert len(lines) == len(E3) + 1
    assert lines[1].startswith("rotation")


def test_it_works_without_a_test_framework() -> None:
    script = (
        "import sys; import crystalformers.testing\n"
        "assert not {'pytest', 'hypothesis', 'pymatgen', 'lightning_fabric', 'spglib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
