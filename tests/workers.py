"""Attention in forked, spawned and loader processes, and on one core: run as `python workers.py TASK`.

A process of its own, since the parent's threads must have run before it forks; the test that starts it sets a limit.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from strategies import random_crystals
from torch.utils.data import DataLoader, Dataset

from crystalformers.csrc.kernels import library
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

CRYSTALS = random_crystals(6)


def outputs(threads: int | None = None) -> NDArray[np.float32]:
    """Predictions and one gradient of a model with frames; default: as many threads as there are."""
    torch.set_num_threads(threads or torch.get_num_threads())
    torch.manual_seed(0)
    model = Crystalformer(CrystalformerConfig(blocks=1, dim=32, heads=4, feedforward=32, frame="max"))
    model.backend = "cpu" if library() is not None else "torch"
    batch = with_images(CrystalBatch.from_crystals(CRYSTALS), 6.0, directions=True).to(torch.float32)
    predicted = model(batch)
    predicted.sum().backward()
    gradient = next(block.attention.query.weight.grad for block in model.blocks)
    return np.concatenate([predicted.detach().numpy().ravel(), gradient.numpy().ravel()])


class Rows(Dataset[Any]):
    """Every item is the whole computation, so that each loader process runs it."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        return outputs()


def started(method: str, threads: int | None) -> list[NDArray[np.float32]]:
    """Results of two processes started by a method."""
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(outputs, [threads] * 4)


def loaded() -> list[NDArray[np.float32]]:
    """Results of the two processes of a loader."""
    loader = DataLoader(Rows(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    return [np.asarray(item) for item in loader]


def one_core() -> list[NDArray[np.float32]]:
    """Results with more threads than the one core there is."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return [outputs(threads) for threads in (1, 2, 4)]


TASKS: dict[str, Callable[[], list[NDArray[np.float32]]]] = {
    "fork": lambda: started("fork", None),
    "spawn": lambda: started("spawn", 2),
    "loader-fork": loaded,
    "one-core": one_core,
}

if __name__ == "__main__":
    expected = outputs(2)
    for found in TASKS[sys.argv[1]]():
        assert np.array_equal(found, expected) or np.allclose(found, expected, rtol=1e-5, atol=1e-6), "other values"
    assert np.array_equal(outputs(2), expected), "the parent goes on"
    print("done")
