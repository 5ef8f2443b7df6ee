"""Comparisons between tables, by distances and by alignment, and correlations with properties.

The axes of a trained table are arbitrary, so vectors of two tables cannot be compared number by number: either the
distances between elements are compared, or one set of points is first rotated onto the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalformers.elements.analysis.spaces import DRAWS, Floats, Likeness, permutation_test


def similarity(first: ArrayLike, second: ArrayLike, seed: int, draws: int = DRAWS) -> Likeness:
    """Spearman correlation of the distances in two tables (representational similarity analysis, Kriegeskorte 2008).

    For the null the elements of one table are permuted (Mantel 1967).

    Args:
        first: vectors (E, D) of some elements.
        second: vectors (E, D') of the same elements in the same order.
        seed: of the permutations.
        draws: number of permutations.

    Returns:
        The correlation; NaN with p = 1 if all distances in a table are equal, as between one-hot vectors.
    """
    from scipy.spatial.distance import pdist, squareform
    from scipy.stats import rankdata

    # The ranks of distances that differ by rounding are equal.
    one, other = (rankdata(pdist(np.asarray(vectors, dtype=np.float64)).round(9)) for vectors in (first, second))
    if not np.ptp(one) or not np.ptp(other):
        return Likeness(float("nan"), float("nan"), 1.0)
    square = squareform(one)

    def correlation(order: NDArray[np.int64]) -> float:
        return float(np.corrcoef(squareform(square[np.ix_(order, order)]), other)[0, 1])

    return permutation_test(correlation, len(square), seed, draws)


def alignment(first: ArrayLike, second: ArrayLike, seed: int, draws: int = DRAWS) -> Likeness:
    """Share of the variance that two tables have in common after one is rotated and scaled onto the other.

    Orthogonal Procrustes analysis (Schönemann 1966); reflections are allowed, missing dimensions are 0. With about as
    many dimensions as elements chance alone gives a large share: compare with the null, which permutes the elements.

    Args:
        first: (E, D).
        second: (E, D') of the same elements in the same order.
        seed: of the permutations.
        draws: number of permutations.
    """
    one, other = _unit_cloud(first), _unit_cloud(second)

    def overlap(order: NDArray[np.int64]) -> float:
        """1 - Procrustes disparity."""
        return float(np.linalg.svd(one[order].T @ other, compute_uv=False).sum() ** 2)

    return permutation_test(overlap, len(one), seed, draws)


def _unit_cloud(vectors: ArrayLike) -> Floats:
    """The points (E, D) with mean 0 and sum of squares 1."""
    points = np.asarray(vectors, dtype=np.float64)
    points = points - points.mean(axis=0)
    return points / np.linalg.norm(points)


@dataclass(frozen=True, eq=False)
class Correlations:
    """Spearman correlations of columns with properties.

    Attributes:
        rho: (columns, P).
        threshold: in 5 % of permutations of the elements the largest |rho| of the whole matrix exceeds it, so it
            corrects for the number of correlations.
    """

    rho: Floats
    threshold: float


def correlations(columns: Floats, values: Floats, seed: int, draws: int = DRAWS) -> Correlations:
    """Correlate columns (E, columns) with properties (E, P); NaN marks elements without a value of a property."""
    random = np.random.default_rng(seed)
    rho = _spearman(columns, values)
    largest = [abs(_spearman(columns[random.permutation(len(columns))], values)).max() for _ in range(draws)]
    return Correlations(rho, float(np.quantile(largest, 0.95)))


def _spearman(columns: Floats, values: Floats) -> Floats:
    """Correlations (columns, P) over the elements with a value; 0 for a constant column."""
    import pandas as pd

    frame = pd.DataFrame(np.column_stack([columns, values]))
    width = columns.shape[1]
    return np.nan_to_num(frame.corr("spearman").to_numpy()[:width, width:])
