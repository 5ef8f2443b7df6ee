"""Which rows the weights of a model have learned from, directly or through its parents, as hashes in its weight file.

A test row that a parent has learned from is no test. Hashes tell without the parent's table; of more than `MOST_HASHES`
rows the smallest hashes are stored, a random sample, and only test rows whose hash is in their range are looked up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.data.split import IntArray
from crystalformers.data.table import CrystalTable
from crystalformers.training.exclusion import composition

MOST_HASHES = 10_000
"""Hashes of ids, and of compositions, that are stored: 80 kB each."""

KINDS = ("ids", "compositions")
"""What is compared: ids, and reduced formulas."""

UNKNOWN = "unknown"
"""The overlap with a parent whose file does not say what it learned from."""


@dataclass(frozen=True)
class Overlap:
    """How many rows of a table are among those that a model has learned from.

    Attributes:
        shared: rows that are.
        checked: rows of which it is known.
        rows: all rows.
    """

    shared: int
    checked: int
    rows: int


def hashes(table: CrystalTable, rows: IntArray) -> dict[str, NDArray[np.uint64]]:
    """64-bit hashes of the ids and reduced formulas of rows, (rows,) each."""
    texts: dict[str, Iterable[str]] = {
        "ids": (table.ids[row] for row in rows.tolist()),
        "compositions": (str(composition(table.numbers(row))) for row in rows.tolist()),
    }
    return {kind: np.array([_hash(text) for text in found], np.uint64) for kind, found in texts.items()}


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def rows_seen(
    table: CrystalTable, rows: IntArray, parent: Mapping[str, NDArray[Any]] | None = None
) -> dict[str, NDArray[np.int64]]:
    """The arrays for a weight file: hashes of the rows and of those that the parent has learned from.

    Args:
        table: that is learned from.
        rows: of it.
        parent: arrays of the parent's weight file.
    """
    seen = {}
    for kind, found in hashes(table, rows).items():
        inherited = _stored(parent or {}, kind)
        smallest = np.unique(found if inherited is None else np.concatenate([found, inherited]))[:MOST_HASHES]
        seen[f"training.{kind}"] = smallest.view(np.int64)
    return seen


def rows_seen_by_all(members: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[np.int64]]:
    """The same arrays for an ensemble: of the rows that any of its members, given their arrays, has learned from."""
    seen = {}
    for kind in KINDS:
        found = [own for arrays in members if (own := _stored(arrays, kind)) is not None]
        if len(found) == len(members):
            seen[f"training.{kind}"] = np.unique(np.concatenate(found))[:MOST_HASHES].view(np.int64)
    return seen


def overlap(parent: Mapping[str, NDArray[Any]], table: CrystalTable, rows: IntArray) -> dict[str, Overlap] | None:
    """How many rows are among those that a parent has learned from, by `KINDS`; None if its file does not say.

    Args:
        parent: arrays of the parent's weight file.
        table: with the rows to look for.
        rows: of it.
    """
    found = {}
    for kind, wanted in hashes(table, rows).items():
        seen = _stored(parent, kind)
        if seen is None:
            return None
        checked = wanted if len(seen) < MOST_HASHES else wanted[wanted <= seen[-1]]
        found[kind] = Overlap(int(np.isin(checked, seen).sum()), len(checked), len(wanted))
    return found


def _stored(arrays: Mapping[str, NDArray[Any]], kind: str) -> NDArray[np.uint64] | None:
    """The hashes in a weight file, ascending; None if it has none."""
    stored = arrays.get(f"training.{kind}")
    return None if stored is None else np.sort(stored.astype(np.int64).view(np.uint64))
