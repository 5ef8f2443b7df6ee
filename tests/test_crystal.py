"""Crystal: what it accepts and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from strategies import crystals, make_crystal

from crystalformers.crystal import MAX_COORDINATE, MAX_LENGTH, Crystal
from crystalformers.errors import CrystalformersError, StructureError
from crystalformers.periodic import ATOMIC_NUMBERS, ELEMENTS, MAX_ATOMIC_NUMBER, NUMBER_OF, SYMBOLS

CUBE = 4 * np.eye(3)


def test_elements_are_in_the_order_of_the_periodic_table() -> None:
    assert MAX_ATOMIC_NUMBER == 98
    assert [SYMBOLS[z - 1] for z in (1, 2, 8, 26, 57, 79, 92, 98)] == ["H", "He", "O", "Fe", "La", "Au", "U", "Cf"]
    assert len(set(SYMBOLS)) == 98
    assert len(set(ELEMENTS)) == 118
    assert ELEMENTS[:98] == SYMBOLS
    assert {symbol: NUMBER_OF[symbol] for symbol in SYMBOLS} | {"D": 1, "T": 1} == ATOMIC_NUMBERS


@settings(max_examples=40, deadline=None)
@given(crystals())
def test_positions_and_fractional_coordinates_agree(crystal: Crystal) -> None:
    again = Crystal.from_positions(crystal.numbers, crystal.positions, crystal.lattice, crystal.name)
    assert np.allclose(again.frac_coords, crystal.frac_coords, atol=1e-9)
    assert crystal.volume == pytest.approx(abs(np.linalg.det(crystal.lattice)))
    assert crystal.volume > 0
    assert len(crystal.symbols) == len(crystal) == len(crystal.numbers)


def test_left_handed_cells_and_unwrapped_atoms_are_kept_as_given() -> None:
    left = make_crystal("left-handed", 3)
    assert np.linalg.det(left.lattice) < 0 < left.volume
    away = Crystal(np.array([1]), np.array([[5.25, -3.0, 0.5]]), CUBE)
    assert away.frac_coords.tolist() == [[5.25, -3.0, 0.5]]
    assert away.positions.tolist() == [[21.0, -12.0, 2.0]]


@pytest.mark.parametrize(
    ("numbers", "frac_coords", "lattice", "words"),
    [
        ([], np.zeros((0, 3)), CUBE, "no atoms"),
        ([0], np.zeros((1, 3)), CUBE, "atomic number 0"),
        ([1, 99], np.zeros((2, 3)), CUBE, "atomic number 99"),
        ([-1], np.zeros((1, 3)), CUBE, "atomic number -1"),
        ([1.5], np.zeros((1, 3)), CUBE, "integers"),
        ([np.nan], np.zeros((1, 3)), CUBE, "integers"),
        ([np.inf], np.zeros((1, 3)), CUBE, "atomic number inf"),
        ([1, 2], np.zeros((1, 3)), CUBE, "frac_coords has shape"),
        ([1], np.zeros((1, 2)), CUBE, "frac_coords has shape"),
        ([1], np.zeros((1, 3)), np.eye(2), "lattice has shape"),
        ([1], np.array([[0, np.nan, 0]]), CUBE, "NaN"),
        ([1], np.array([[0, np.inf, 0]]), CUBE, "infinite"),
        ([1], np.zeros((1, 3)), CUBE * np.nan, "NaN"),
        ([1], np.zeros((1, 3)), np.diag([np.inf, 4, 4]), "NaN or infinite"),
        ([1], np.full((1, 3), "a"), CUBE, "frac_coords must hold numbers"),
        ([1], np.zeros((1, 3)), np.zeros((3, 3)), "no volume"),
        ([1], np.zeros((1, 3)), np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]]), "no volume"),
        ([1], np.zeros((1, 3)), np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1e-9]]), "no volume"),
    ],
)
def test_what_cannot_be_a_crystal_is_refused_in_a_sentence_with_its_name(
    numbers: list[float], frac_coords: np.ndarray, lattice: np.ndarray, words: str
) -> None:
    with pytest.raises(StructureError, match=words) as caught:
        Crystal(np.array(numbers), frac_coords, lattice, "row 17")
    assert "row 17" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, CrystalformersError)


def test_from_positions_refuses_a_flat_cell() -> None:
    with pytest.raises(StructureError, match="no volume"):
        Crystal.from_positions([1], [[0, 0, 0]], np.ones((3, 3)))


def test_thin_but_real_cells_are_accepted() -> None:
    assert len(Crystal(np.array([6]), np.zeros((1, 3)), np.diag([2.5, 2.5, 400.0]))) == 1
    sheared = np.array([[1, 0, 0], [30, 1, 0], [0, 30, 1.0]]) * 3
    assert Crystal(np.array([6]), np.zeros((1, 3)), sheared).volume == pytest.approx(27)


@pytest.mark.parametrize("coordinate", [1e15, -1e15, 1e300, 1e308, -1e308])
def test_coordinates_without_decimals_are_refused(coordinate: float) -> None:
    with pytest.raises(StructureError, match=r"no decimals would be left within the cell; correct the coordinates"):
        Crystal(np.array([1]), np.array([[0.5, coordinate, 0.5]]), CUBE)
    assert len(Crystal(np.array([1]), np.array([[0.5, MAX_COORDINATE, 0.5]]), CUBE)) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("lattice", [CUBE, CUBE / 8, np.diag([1e-3, 1e3, 1e3])])
@pytest.mark.parametrize("position", [1e16, 1e308, -1e308])
def test_positions_that_overflow_are_refused(position: float, lattice: np.ndarray) -> None:
    with pytest.raises(StructureError, match=r"too large|NaN or infinite"):
        Crystal.from_positions([1], [[position, position, 0.5]], lattice)


@pytest.mark.parametrize("position", [np.nan, np.inf])
def test_positions_that_are_not_finite_are_refused(position: float) -> None:
    with pytest.raises(StructureError, match="positions holds NaN or infinite"):
        Crystal.from_positions([1], [[position, 0, 0]], CUBE)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("length", [2e6, 1e100, 1e200, 1e308])
def test_lattices_that_overflow_are_refused(length: float) -> None:
    for lattice in (length * np.eye(3), np.diag([4, 4, length])):
        for build in (Crystal, Crystal.from_positions):
            with pytest.raises(StructureError, match=r"longer than 1e\+06 Å; give the lattice vectors in Å\."):
                build(np.array([1]), np.zeros((1, 3)), lattice)
    assert Crystal(np.array([1]), np.zeros((1, 3)), MAX_LENGTH * np.eye(3)).volume == pytest.approx(1e18)


@pytest.mark.filterwarnings("error")
def test_lattices_that_underflow_are_refused() -> None:
    for length in (1e-200, 1e-320):
        with pytest.raises(StructureError, match="no volume"):
            Crystal(np.array([1]), np.zeros((1, 3)), length * np.eye(3))
    for lattice in (np.full((3, 3), np.nan), np.diag([np.inf, 1, 1])):
        with pytest.raises(StructureError, match="NaN or infinite"):
            Crystal.from_positions([1], [[0, 0, 0]], lattice)
