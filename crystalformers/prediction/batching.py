"""Many structures in bounded memory: windows of a stream, within a window batches of bounded cost, less if need be."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from crystalformers.crystal import Crystal

T = TypeVar("T")

SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
"""Words of the errors, of whatever class, by which PyTorch and its backends tell that memory is exhausted."""


def windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of `size` items, the last one shorter."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def expected_images(crystal: Crystal, radius: float) -> float:
    """Images within `radius` (Angstrom) of all atoms of a crystal: atoms times density times the sphere."""
    return len(crystal) ** 2 / crystal.volume * 4 / 3 * math.pi * radius**3


def batches_by_cost(costs: Sequence[float], budget: float) -> Iterator[list[int]]:
    """Indices grouped so that a group costs at most `budget`, the dearest first, like beside like.

    An item dearer than the budget stands alone.
    """
    batch: list[int] = []
    total = 0.0
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        if batch and total + costs[index] > budget:
            yield batch
            batch, total = [], 0.0
        batch.append(index)
        total += costs[index]
    if batch:
        yield batch


def is_about_memory(error: BaseException) -> bool:
    """Whether an error of Python or PyTorch, on any device, tells that memory is exhausted."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in SIGNS)


class Budget:
    """Batches of bounded cost; where one does not fit into memory, the bound is halved and the work goes on.

    Attributes:
        cost: what a batch may cost, now.
    """

    def __init__(self, cost: float) -> None:
        self.cost = cost

    def results(self, costs: Sequence[float], run: Callable[[list[int]], T]) -> Iterator[tuple[list[int], T | None]]:
        """Items of each batch and what `run` makes of them; None for a single item that does not fit.

        Args:
            costs: of the items.
            run: computes the items whose indices it is given.
        """
        left = list(range(len(costs)))
        while left:
            first = next(batches_by_cost([costs[item] for item in left], self.cost))
            items = [left[k] for k in first]
            result = _unless_memory_is_exhausted(run, items)
            if result is None and len(items) > 1:
                self.cost = sum(costs[item] for item in items) / 2
                warnings.warn(
                    f"Out of memory with a batch of {len(items)} structures; going on with batches half as large.",
                    stacklevel=2,
                )
                continue
            yield items, result
            left = sorted(set(left).difference(items))


def _unless_memory_is_exhausted(run: Callable[[list[int]], T], items: list[int]) -> T | None:
    # The error is dropped here: its traceback would hold on to the tensors of the batch that failed.
    try:
        return run(items)
    except (MemoryError, RuntimeError) as error:
        if not is_about_memory(error):
            raise
        return None


def no_progress(count: int) -> None:
    """Hears of progress where nobody watches."""
