"""CrystalBatch: how crystals are packed."""

from __future__ import annotations

import pytest
import torch
from strategies import random_crystals

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
