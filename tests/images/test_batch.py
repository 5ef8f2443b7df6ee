"""CrystalBatch: how crystals are packed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from strategies import make_crystal, random_crystals

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.images import CrystalBatch, with_images


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


def test_rounded_coordinates_are_found_again_in_float64() -> None:
    crystal = make_crystal("random", 4)
    far = CrystalBatch.from_crystals([Crystal(crystal.numbers, crystal.frac_coords + 1000.1, crystal.lattice)])
    for rounded in (far.to(torch.float32), far.to(torch.float32).to("cpu"), far.to(torch.float32).to(torch.float16)):
        assert torch.equal(rounded.in_float64().positions, far.positions)
        assert torch.equal(rounded.in_float64().lattice, far.lattice)
    assert far.in_float64().positions is far.positions


def test_coordinates_that_were_replaced_are_taken_as_they_are() -> None:
    batch = CrystalBatch.from_crystals([make_crystal("random", 4)], torch.float32)
    moved = replace(batch, positions=batch.positions + torch.eye(len(batch.positions), 3))
    same = moved.positions == batch.positions
    found = moved.in_float64().positions
    assert torch.equal(found[same], batch.in_float64().positions[same])
    assert torch.equal(found[~same], moved.positions.double()[~same])
    fewer = replace(batch, numbers=batch.numbers[:1], positions=batch.positions[:1], ptr=torch.tensor([0, 1]))
    assert torch.equal(fewer.in_float64().positions, batch.positions[:1].double())


def test_gradients_reach_rounded_coordinates() -> None:
    batch = CrystalBatch.from_crystals([make_crystal("random", 4)], torch.float32)
    positions = batch.positions.clone().requires_grad_()
    exact = replace(batch, positions=positions).in_float64()
    assert torch.equal(exact.positions.detach(), batch.in_float64().positions)
    exact.positions.square().sum().backward()
    torch.testing.assert_close(positions.grad, 2 * batch.positions)
