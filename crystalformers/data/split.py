"""Training, validation and test rows: those a table names, or random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crystalformers.errors import TableError

if TYPE_CHECKING:
    from crystalformers.data.table import CrystalTable

IntArray = NDArray[np.int64]

SPLITS = ("train", "val", "test")


def split_rows(
    table: CrystalTable,
    rows: IntArray,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
) -> dict[str, IntArray]:
    """Rows of each split, ascending: the column `split` where a table has one; what it lacks is drawn at random.

    Args:
        table: with or without a column `split`; validation rows are taken from its training rows if it names none.
        rows: rows to divide; no others are in the answer.
        val_fraction: share of the rows (or of the training rows) to draw for validation.
        test_fraction: share of the rows to draw for testing, if the table has no column `split`.
        seed: of the draw; the same arguments always give the same answer.

    Returns:
        Rows of `train`, `val` and `test`; only `test` may be empty.

    Raises:
        TableError: if nothing is left for training or validation.
    """
    rng = np.random.default_rng(seed)
    if table.split is None:
        n_val, n_test = (round(share * len(rows)) for share in (val_fraction, test_fraction))
        val, test, train = np.split(rng.permutation(rows), [n_val, n_val + n_test])
    else:
        names = np.array(table.split, dtype=object)[rows]
        train, val, test = (rows[names == name] for name in SPLITS)
        if not len(val):
            val, train = np.split(rng.permutation(train), [round(val_fraction * len(train))])
    splits = {name: np.sort(part) for name, part in zip(SPLITS, (train, val, test), strict=True)}
    for name in ("train", "val"):
        if not len(splits[name]):
            raise TableError(
                f"the {name} split holds no usable row ({len(rows)} of {len(table)} rows are usable)",
                where=str(table.path),
                remedy="give a larger table or a column 'split' with train, val and test",
            )
    return splits
