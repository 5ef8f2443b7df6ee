"""The published splits: which rows of a set are for training, validation and test, and their fingerprints.

R rows of a source, in the order of its files; a split is made of row numbers counted from 0.
"""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crystalformers.data.split import SPLITS
from crystalformers.errors import TableError

IntArray = NDArray[np.int64]
Parts = dict[str, IntArray]
"""train, val and test -> row numbers, in the order in which the rule draws them."""

SHUFFLE_SEED = 123
"""Seed of the rule of jarvis-tools, ALIGNN and both papers."""

MATBENCH_SEED = 18012019
MATBENCH_FOLDS = 5


@dataclass(frozen=True)
class SourceRows:
    """What a split needs to know of the rows.

    Attributes:
        n: number of rows R.
        labelled: label -> whether each row has a finite value, (R,).
        part: train, val or test of each row where the source comes divided, else empty, (R,).
    """

    n: int
    labelled: Mapping[str, NDArray[np.bool_]]
    part: NDArray[np.str_]


@dataclass(frozen=True, kw_only=True)
class Split(ABC):
    """A way to divide a set.

    Attributes:
        name: empty for the split that a set is trained with unless another is asked for.
        published: part -> published SHA-256 of its row numbers, as far as known.
    """

    name: str = ""
    published: Mapping[str, str] = field(default_factory=dict)

    @abstractmethod
    def parts(self, rows: SourceRows) -> Parts:
        """The rows of each part; raises TableError if the split does not fit the rows."""


@dataclass(frozen=True)
class ShuffledSplit(Split):
    """The rule of jarvis-tools: Python's `random` shuffles the rows; train is the head, test the tail, val before it.

    With the name of a label the split belongs to it: rows without a finite value of it are dropped before the shuffle.

    Attributes:
        sizes: rows of train, val and test; by default 0.8, 0.1 and 0.1 of them, rounded down.
    """

    sizes: tuple[int, int, int] | None = None

    def parts(self, rows: SourceRows) -> Parts:
        """The rows of each part; raises TableError if there are too few rows."""
        usable = np.flatnonzero(rows.labelled[self.name]) if self.name else np.arange(rows.n)
        return {part: usable[drawn] for part, drawn in shuffled(len(usable), self.sizes).items()}


def shuffled(n: int, sizes: tuple[int, int, int] | None = None) -> Parts:
    """Draw train, val and test from n rows by the rule of jarvis-tools.

    Raises:
        TableError: if the parts do not fit into the rows, or one would be empty.
    """
    n_train, n_val, n_test = sizes or (int(0.8 * n), int(0.1 * n), int(0.1 * n))
    if min(n_train, n_val, n_test) < 1 or n_train + n_val + n_test > n:
        raise TableError(f"{n} rows cannot be split into {n_train} for train, {n_val} for val and {n_test} for test")
    order = _shuffle(n)
    return {"train": order[:n_train], "val": order[n - n_val - n_test : n - n_test], "test": order[n - n_test :]}


def _shuffle(n: int) -> IntArray:
    order = list(range(n))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return np.array(order, dtype=np.int64)


@dataclass(frozen=True)
class DividedSource(Split):
    """The split of a source that comes in files for training, validation and test.

    Attributes:
        sizes: published rows of train, val and test.
    """

    sizes: tuple[int, int, int] | None = None

    def parts(self, rows: SourceRows) -> Parts:
        """The rows of each part; raises TableError if their numbers are not the published ones."""
        parts = {name: np.flatnonzero(rows.part == name) for name in SPLITS}
        found = tuple(len(part) for part in parts.values())
        if self.sizes is not None and found != self.sizes:
            raise TableError(f"train, val and test hold {found} rows, published are {self.sizes}")
        return parts


@dataclass(frozen=True)
class MatbenchFold(Split):
    """One of the five folds of Matbench: scikit-learn's `KFold(5, shuffle=True, random_state=18012019)`.

    Matbench leaves validation to the user. Here a tenth of the other four folds, drawn by the rule of `shuffled`,
    is for validation.

    Attributes:
        fold: 0 to 4.
    """

    fold: int

    def parts(self, rows: SourceRows) -> Parts:
        """The rows of each part; raises TableError if there are too few rows."""
        if rows.n < 2 * MATBENCH_FOLDS:
            raise TableError(f"{rows.n} rows are too few for {MATBENCH_FOLDS} folds")
        fold = matbench_folds(rows.n)
        rest = np.flatnonzero(fold != self.fold)
        n_val = max(1, len(rest) // 10)
        order = rest[_shuffle(len(rest))]
        return {"train": order[n_val:], "val": order[:n_val], "test": np.flatnonzero(fold == self.fold)}


def matbench_folds(n: int) -> IntArray:
    """The fold in which each of n rows is for test, (n,), as scikit-learn's shuffled `KFold` assigns it."""
    order = np.arange(n)
    np.random.RandomState(MATBENCH_SEED).shuffle(order)  # the published folds come from this generator
    fold = np.empty(n, dtype=np.int64)
    for number, members in enumerate(np.array_split(order, MATBENCH_FOLDS)):
        fold[members] = number
    return fold


def check_parts(parts: Parts, n: int) -> None:
    """Refuse parts that do not fit n rows.

    Raises:
        TableError: if a row number is out of range, or is named twice.
    """
    drawn = np.concatenate(list(parts.values()))
    outside = drawn[(drawn < 0) | (drawn >= n)]
    if len(outside):
        raise TableError(f"the split names row {outside[0]}, there are {n} rows")
    numbers, counts = np.unique(drawn, return_counts=True)
    if (counts > 1).any():
        raise TableError(f"the split names row {numbers[counts > 1][0]} more than once")


def fingerprint(rows: IntArray) -> str:
    """SHA-256 of row numbers as little-endian 64-bit integers, in their order."""
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()
