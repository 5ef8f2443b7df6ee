"""Batches of bounded cost, and what happens where one does not fit into memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from samples import ENERGY, many, tiny_model
from torch import Tensor

from crystalformers.crystal import Crystal
from crystalformers.errors import BatchMemoryError, StructureError
from crystalformers.images import CrystalBatch
from crystalformers.io import Rejected
from crystalformers.prediction.batching import Budget, is_about_memory
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import Model

pytestmark = pytest.mark.filterwarnings("ignore:Out of memory with a batch")

ERRORS = [
    MemoryError("image_sum_forward failed with status 1 (1: out of memory); use smaller batches."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:115] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.72 GiB"),
    RuntimeError("CUDA error: out of memory"),
]
if hasattr(torch, "OutOfMemoryError"):
    ERRORS.append(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."))


def limited(
    most: float, costs: Sequence[float], error: Exception
) -> tuple[Callable[[list[int]], list[int]], list[int]]:
    """A computation that fails where its items cost more than `most`, and the sizes of all batches it was given."""
    sizes: list[int] = []

    def run(items: list[int]) -> list[int]:
        sizes.append(len(items))
        if sum(costs[item] for item in items) > most:
            raise error
        return items

    return run, sizes


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
def test_batches_shrink_until_they_fit(error: Exception) -> None:
    costs = [float(cost) for cost in np.random.default_rng(0).integers(1, 10, size=60)]
    run, sizes = limited(40, costs, error)
    budget = Budget(1000)
    with pytest.warns(UserWarning, match=r"Out of memory with a batch of 60 structures; going on with batches half"):
        results = list(budget.results(costs, run))
    assert sorted(item for items, _ in results for item in items) == list(range(60))
    assert all(items == result for items, result in results)
    assert sizes[0] == 60
    assert budget.cost <= 40 * 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = list(budget.results(costs[:10], run))
    assert sorted(item for items, _ in again for item in items) == list(range(10)), "what was learned is kept"


def test_an_item_too_large_for_itself_does_not_stop_the_others() -> None:
    costs = [1.0, 50.0, 2.0, 3.0, 60.0]
    run, _ = limited(40, costs, MemoryError())
    with pytest.warns(UserWarning, match="Out of memory"):
        results = {tuple(items): result for items, result in Budget(1000).results(costs, run)}
    assert results[1,] is None
    assert results[4,] is None
    assert sorted(item for items, result in results.items() if result for item in items) == [0, 2, 3]


def test_other_errors_pass_through() -> None:
    run, sizes = limited(0, [1.0, 1.0], RuntimeError("expected scalar type Float but found Double"))
    with pytest.raises(RuntimeError, match="scalar type"):
        list(Budget(10).results([1.0, 1.0], run))
    assert sizes == [2]
    assert not is_about_memory(RuntimeError("shape mismatch"))


# --- the same through a model, whose network fails from a certain number of atoms on ---


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "one.safetensors", (ENERGY,))


@pytest.fixture
def cramped(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], Model]:
    def make(most_atoms: int, error: Exception) -> Model:
        model = load_model(weights)
        forward = model.network.forward

        def fail(batch: CrystalBatch) -> Tensor:
            if batch.n_atoms > most_atoms:
                raise error
            result: Tensor = forward(batch)
            return result

        monkeypatch.setattr(model.network, "forward", fail)
        return model

    return make


def numbers(rows: Sequence[object]) -> NDArray[np.float64]:
    return np.array([row.values["energy"] for row in rows])  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
def test_predictions_go_on_with_smaller_batches(
    weights: Path, cramped: Callable[[int, Exception], Model], error: Exception
) -> None:
    crystals = many(24)
    expected = numbers(load_model(weights).predict(crystals))
    largest = max(map(len, crystals))
    with pytest.warns(UserWarning, match="Out of memory with a batch of 24"):
        found = numbers(cramped(2 * largest, error).predict(crystals))
    assert np.allclose(found, expected, atol=1e-5)


def test_a_crystal_that_does_not_fit_is_named_and_the_others_are_kept(
    weights: Path, cramped: Callable[[int, Exception], Model]
) -> None:
    crystals = many(12)
    giant = max(crystals, key=len)
    most = max(len(crystal) for crystal in crystals if len(crystal) < len(giant))
    model = cramped(most, MemoryError())
    with pytest.warns(UserWarning, match="Out of memory"):
        rows = model.predict(crystals, errors="report")
    for row, crystal in zip(rows, crystals, strict=True):
        assert isinstance(row, Rejected) == (len(crystal) == len(giant))
    reason = next(row.reason for row in rows if isinstance(row, Rejected))
    assert reason.startswith(f"out of memory with this structure alone ({len(giant)} atoms")
    with pytest.raises(StructureError, match=r"structure \d+: out of memory with this structure alone"):
        model.predict(crystals)
    with pytest.raises(BatchMemoryError, match="out of memory with this structure alone"):
        model.values([giant])


def test_a_kernel_that_cannot_allocate_says_so(weights: Path) -> None:
    """Not an injected error: a crystal of more images than any memory holds."""
    model = load_model(weights)
    dense = Crystal(np.array([26]), np.zeros((1, 3)), 1e-4 * np.eye(3), "grain of a neutron star")
    with pytest.raises(BatchMemoryError, match="grain of a neutron star: out of memory with this structure alone"):
        model.values([dense])
