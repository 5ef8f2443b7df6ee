"""Many structures in bounded memory: windows of a stream, and within a window batches of bounded cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

from crystalformers.crystal import Crystal

T = TypeVar("T")


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


def unwatched(count: int) -> None:
    """Hears of progress where nobody watches."""
