"""Any number of structures in bounded memory: a stream in windows, and a window in batches of bounded cost."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from crystalformers.crystal import Crystal
from crystalformers.errors import BatchMemoryError

T = TypeVar("T")

Advance = Callable[[int], object]
"""Called with the number of structures in each batch that is done."""

OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")
"""Phrases in the messages of PyTorch and its backends, whatever the class of the error, when memory is exhausted."""


def no_progress(count: int) -> None:
    """Report no progress: the default of every `advance`."""


def windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of `size` items; the last one may be shorter."""
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


def expected_images(crystal: Crystal, radius: float) -> float:
    """Images within `radius` (Angstrom) of all atoms of a crystal: atoms times density times volume of the sphere."""
    return len(crystal) ** 2 / crystal.volume * 4 / 3 * math.pi * radius**3


def batches_by_cost(costs: Sequence[float], budget: float) -> Iterator[list[int]]:
    """Indices of the items of each batch, the most expensive first, so that a batch holds items of similar cost.

    A batch costs at most `budget`, unless it is a single item.
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
    """Whether an error of this library, Python or PyTorch, on any device, says that memory does not suffice."""
    return isinstance(error, (MemoryError, BatchMemoryError)) or any(
        phrase in str(error).lower() for phrase in OUT_OF_MEMORY
    )


class Budget:
    """The cost of a batch, which is halved each time a batch does not fit into memory.

    Attributes:
        cost: upper bound for a batch, at present.
    """

    def __init__(self, cost: float) -> None:
        self.cost = cost

    def results(self, costs: Sequence[float], run: Callable[[list[int]], T]) -> Iterator[tuple[list[int], T | None]]:
        """Indices of the items of each batch and their result; None for a single item that does not fit into memory.

        Args:
            costs: of the items.
            run: computes the result of the items with the indices that it is given.
        """
        left = list(range(len(costs)))
        while left:
            first = next(batches_by_cost([costs[item] for item in left], self.cost))
            items = [left[k] for k in first]
            result = _none_if_out_of_memory(run, items)
            if result is None and len(items) > 1:
                self.cost = sum(costs[item] for item in items) / 2
                warnings.warn(
                    f"Out of memory with a batch of {len(items)} structures; going on with batches half as large.",
                    stacklevel=2,
                )
                continue
            yield items, result
            left = sorted(set(left).difference(items))


def _none_if_out_of_memory(run: Callable[[list[int]], T], items: list[int]) -> T | None:
    # The error ends here: its traceback would hold on to the tensors of the batch that failed.
    try:
        return run(items)
    except (MemoryError, RuntimeError, BatchMemoryError) as error:
        if not is_about_memory(error):
            raise
        return None
