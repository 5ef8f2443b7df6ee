"""Training, validation and test rows: those a table names, or random ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crystalformers.errors import TableError

IntArray = NDArray[np.int64]

SPLITS = ("train", "val", "test")

SPLIT_COLUMN = "split"
"""Column of a table that says to which part each row belongs."""

UNUSED = "unused"
"""What the column holds for rows that belong to no part."""

SPLIT_NAMES = {name: name for name in (*SPLITS, UNUSED)} | {"valid": "val", "validation": "val", "training": "train"}
"""Values that the column may hold, in any case, and what they mean."""


def split_rows(
    rows: IntArray,
    names: Sequence[str] | None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> dict[str, IntArray]:
    """Rows of each split, ascending: as a table names them; what it does not name is drawn at random.

    Args:
        rows: rows to divide; no others are in the answer.
        names: split of every row of the table (`CrystalTable.split`), or None if it does not say; if no row is named
            `val`, some of the training rows become validation rows.
        val_fraction: share of the rows (or of the training rows) to draw for validation.
        test_fraction: share of the rows to draw for testing, if the table does not say.
        seed: of the draw; the same arguments always give the same answer.

    Returns:
        Rows of `train`, `val` and `test`; only `test` may be empty.

    Raises:
        TableError: if nothing is left for training or validation.
    """
    rng = np.random.default_rng(seed)
    if names is None:
        n_val, n_test = (round(share * len(rows)) for share in (val_fraction, test_fraction))
        val, test, train = np.split(rng.permutation(rows), [n_val, n_val + n_test])
    else:
        named = np.array(names, dtype=object)[rows]
        train, val, test = (rows[named == name] for name in SPLITS)
        if not len(val):
            val, train = np.split(rng.permutation(train), [round(val_fraction * len(train))])
    splits = {name: np.sort(part) for name, part in zip(SPLITS, (train, val, test), strict=True)}
    for name in ("train", "val"):
        if not len(splits[name]):
            raise TableError(
                f"The {name} split holds no usable row, of {len(rows)} in all",
                remedy="give a larger table or a column 'split' with train, val and test",
            )
    return splits
