"""Crystal and CrystalBatch: what they accept, refuse and keep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from strategies import crystals, make_crystal, random_crystals

from crystalformers.crystal import MAX_ATOMIC_NUMBER, SYMBOLS, Crystal
from crystalformers.errors import CrystalformersError, StructureError
from crystalformers.images import CrystalBatch, with_images

CUBE = 4 * np.eye(3)


def test_elements_are_in_the_order_of_the_periodic_table() -> None:
    assert MAX_ATOMIC_NUMBER == 98
    assert [SYMBOLS[z - 1] for z in (1, 2, 8, 26, 57, 79, 92, 98)] == ["H", "He", "O", "Fe", "La", "Au", "U", "Cf"]
    assert len(set(SYMBOLS)) == 98


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
        ([1, 2], np.zeros((1, 3)), CUBE, "frac_coords has shape"),
        ([1], np.zeros((1, 2)), CUBE, "frac_coords has shape"),
        ([1], np.zeros((1, 3)), np.eye(2), "lattice has shape"),
        ([1], np.array([[0, np.nan, 0]]), CUBE, "NaN"),
        ([1], np.array([[0, np.inf, 0]]), CUBE, "infinite"),
        ([1], np.zeros((1, 3)), CUBE * np.nan, "NaN"),
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


def test_a_batch_packs_crystals_in_order() -> None:
    given_crystals = random_crystals(9)
    batch = CrystalBatch.from_crystals(given_crystals)
    assert len(batch) == 9
    assert batch.n_atoms == sum(map(len, given_crystals)) == int(batch.ptr[-1])
    for index, crystal in enumerate(given_crystals):
        atoms = slice(int(batch.ptr[index]), int(batch.ptr[index + 1]))
        assert batch.numbers[atoms].tolist() == crystal.numbers.tolist()
        assert torch.equal(batch.positions[atoms], torch.from_numpy(crystal.positions))
        assert torch.equal(batch.lattice[index], torch.from_numpy(crystal.lattice))
        assert set(batch.crystal_of_atom[atoms].tolist()) == {index}


def test_an_empty_batch_is_refused() -> None:
    with pytest.raises(StructureError, match="at least one"):
        CrystalBatch.from_crystals([])


def test_to_converts_lengths_and_leaves_integers() -> None:
    batch = with_images(CrystalBatch.from_crystals(random_crystals(3)), 3.0, directions=True)
    single = batch.to(torch.float32)
    assert single.images is not None
    assert {t.dtype for t in (single.positions, single.lattice, single.images.distance)} == {torch.float32}
    assert single.images.vectors is not None
    assert single.images.vectors.dtype == torch.float32
    assert single.numbers.dtype == single.ptr.dtype == torch.int64
    assert single.images.pair.dtype == torch.int32
    assert torch.equal(single.to("cpu").positions, single.positions)
    assert CrystalBatch.from_crystals(random_crystals(2), torch.float32).lattice.dtype == torch.float32
