"""Training, validation and test rows, drawn at random when a table does not say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crystalformers.errors import TableError

SPLITS = ("train", "val", "test")

SPLIT_COLUMN = "split"
"""Column of a table that says to which part each row belongs."""

SPLIT_NAMES = {name: name for name in SPLITS} | {"valid": "val", "validation": "val", "training": "train"}
"""Values that the column may hold, in any case, and what they mean."""


def assign_split(n_rows: int, fractions: Sequence[float] = (0.8, 0.1, 0.1), seed: int = 0) -> list[str]:
    """Draw `train`, `val` or `test` for each row; the same arguments always give the same answer.

    Args:
        n_rows: number of rows.
        fractions: of the rows, for train, val and test; they sum to 1.
        seed: of the draw.

    Raises:
        TableError: if the fractions are no such thing, or a part that is asked for would be empty.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise TableError(f"Split fractions {tuple(fractions)} must be three numbers, none negative, of sum 1.")
    ends = np.round(np.cumsum(fractions) * n_rows).astype(int)
    sizes = np.diff(ends, prepend=0)
    for name, fraction, size in zip(SPLITS, fractions, sizes, strict=True):
        if fraction > 0 and size == 0:
            raise TableError(f"A fraction of {fraction:g} of {n_rows} rows leaves '{name}' empty; give it more.")
    names = np.repeat(SPLITS, sizes)
    return [str(name) for name in names[np.argsort(np.random.default_rng(seed).permutation(n_rows))]]
