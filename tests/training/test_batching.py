"""Order of the data, images in memory, and batches that are built ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import table_of

from crystalformers.images import CrystalBatch, with_images
from crystalformers.training.batching import LabelledBatch, evaluation_order, load, training_order
from crystalformers.training.image_store import ImageStore


class TestOrder:
    rows = np.arange(100, 1100)
    n_atoms = np.random.default_rng(0).integers(1, 200, 1000)

    def order(self, epoch: int = 0, max_atoms: int | None = None, seed: int = 1) -> list[np.ndarray]:
        return training_order(self.rows, self.n_atoms, 64, max_atoms, seed, epoch)

    def test_depends_on_seed_and_epoch_alone(self) -> None:
        assert np.array_equal(self.order(), self.order())
        assert not np.array_equal(self.order(), self.order(epoch=1))
        assert not np.array_equal(self.order(), self.order(seed=2))

    def test_no_row_twice_and_full_batches(self) -> None:
        order = self.order()
        assert [len(batch) for batch in order] == [64] * 15
        assert len(np.unique(np.concatenate(order))) == 960

    def test_every_row_has_its_turn(self) -> None:
        left_out = [set(self.rows) - set(np.concatenate(self.order(epoch)).tolist()) for epoch in range(2)]
        assert left_out[0] != left_out[1]

    def test_batches_cost_the_same(self) -> None:
        cost = [self.n_atoms[batch - 100].sum() for batch in self.order()]
        assert max(cost) < 1.05 * min(cost)

    def test_batches_are_mixed_anew_each_epoch(self) -> None:
        first = {frozenset(batch) for batch in self.order()}
        assert not first & {frozenset(batch) for batch in self.order(1)}

    def test_atoms_per_batch_are_bounded(self) -> None:
        cost = [self.n_atoms[batch - 100].sum() for batch in self.order(max_atoms=2000)]
        assert max(cost) <= 2100

    def test_fewer_rows_than_a_batch(self) -> None:
        order = training_order(np.arange(3), np.ones(3, int), 64, None, 0, 0)
        assert [sorted(batch) for batch in order] == [[0, 1, 2]]

    def test_evaluation_covers_all_rows_once(self) -> None:
        order = evaluation_order(self.rows, self.n_atoms, 64, None)
        assert max(map(len, order)) <= 64
        assert sorted(np.concatenate(order)) == sorted(self.rows)


class TestImageStore:
    def test_kept_rebuilt_and_direct_images_are_the_same_bits(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        kept, rebuilt = (ImageStore(table, 6.0, budget, directions=True) for budget in (1e9, 0))
        kept.batch(np.array([3, 4, 5, 6]))  # with other mates
        for rows in (np.array([0, 5, 3]), np.array([5, 0, 3, 7])):
            direct = with_images(CrystalBatch.from_crystals([table[int(row)] for row in rows]), 6.0, directions=True)
            direct = direct.to(torch.float32)
            for batch in (kept.batch(rows), rebuilt.batch(rows)):
                for name in ("numbers", "positions", "lattice", "ptr"):
                    assert torch.equal(getattr(batch, name), getattr(direct, name))
                for name in ("distance", "pair", "ptr", "pair_target", "pair_source", "vectors"):
                    ours, theirs = getattr(batch.images, name), getattr(direct.images, name)
                    assert ours.dtype == theirs.dtype
                    assert torch.equal(ours, theirs)

    def test_budget_is_kept(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        store = ImageStore(table, 6.0, 1e9)
        store.batch(np.arange(10))
        small = ImageStore(table, 6.0, store.used / 2)
        small.batch(np.arange(10))
        assert store.used / 4 < small.used <= store.used / 2


class TestLoader:
    def batches(self, folder: Path, rows: list[np.ndarray]) -> Iterator[LabelledBatch]:
        return load(ImageStore(table_of(folder), 5.0, 1e9), torch.zeros(24, 1), rows)

    def test_order_is_kept(self, tmp_path: Path) -> None:
        batches = self.batches(tmp_path, [np.array([k, k + 1]) for k in range(9)])
        assert [batch.rows.tolist() for batch in batches] == [[k, k + 1] for k in range(9)]

    def test_thread_ends_when_the_loop_is_left(self, tmp_path: Path) -> None:
        others = set(threading.enumerate())  # of tests before, until Python collects them
        for _ in self.batches(tmp_path, [np.array([k, k + 1]) for k in range(9)]):
            break
        assert not [thread.name for thread in set(threading.enumerate()) - others if "batches" in thread.name]

    def test_errors_of_the_thread_arrive(self, tmp_path: Path) -> None:
        with pytest.raises(IndexError):
            list(self.batches(tmp_path, [*(np.array([k, k + 1]) for k in range(5)), np.array([999])]))
