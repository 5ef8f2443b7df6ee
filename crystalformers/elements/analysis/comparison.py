"""Comparisons between tables, by distances and by alignment, and correlations with properties.

The axes of a trained table are arbitrary, so vectors of two tables cannot be compared number by number: either the
distances between elements are compared, or one set of points is first rotated onto the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from crystalformers.elements.analysis.spaces import DRAWS, Floats, p_value


def distances(vectors: ArrayLike) -> Floats:
    """Euclidean distances between elements, (E, E)."""
    from scipy.spatial.distance import pdist, squareform

    return np.asarray(squareform(pdist(np.asarray(vectors, dtype=np.float64))))


@dataclass(frozen=True)
class Likeness:
    """How much two tables have in common.

    Attributes:
        value: a correlation or a share of variance.
        chance: the mean of what permuted elements give.
        p: probability that permuted elements give as much.
    """

    value: float
    chance: float
    p: float


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
    one, other = _ranks(distances(first)), _ranks(distances(second))
    if not one.any() or not other.any():
        return Likeness(float("nan"), float("nan"), 1.0)
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(one)) for _ in range(draws)]
    chance = [float((one[np.ix_(order, order)] * other).sum()) for order in orders]
    observed = float((one * other).sum())
    return Likeness(observed, float(np.mean(chance)), p_value(observed, chance))


def _ranks(distance: Floats) -> Floats:
    """Ranks of the distances as a symmetric matrix, (E, E), with sum 0 and sum of squares 1."""
    from scipy.stats import rankdata

    pairs = np.triu_indices(len(distance), 1)
    ranks = rankdata(distance[pairs].round(9))
    ranks -= ranks.mean()
    norm = np.sqrt(2 * (ranks**2).sum())
    result = np.zeros_like(distance)
    result[pairs] = ranks / (norm if norm > 0 else np.inf)
    return result + result.T


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
    random = np.random.default_rng(seed)
    chance = [_overlap(one[random.permutation(len(one))], other) for _ in range(draws)]
    observed = _overlap(one, other)
    return Likeness(observed, float(np.mean(chance)), p_value(observed, chance))


def _unit_cloud(vectors: ArrayLike) -> Floats:
    """The points (E, D) with mean 0 and sum of squares 1."""
    points = np.asarray(vectors, dtype=np.float64)
    points = points - points.mean(axis=0)
    return points / np.linalg.norm(points)


def _overlap(one: Floats, other: Floats) -> float:
    """1 - Procrustes disparity of two sets of points from `_unit_cloud`."""
    return float(np.linalg.svd(one.T @ other, compute_uv=False).sum() ** 2)


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
    from scipy.stats import rankdata

    result = []
    for value in values.T:
        known = ~np.isnan(value)
        x, y = rankdata(columns[known], axis=0), rankdata(value[known])
        x, y = x - x.mean(axis=0), y - y.mean()
        size = np.linalg.norm(x, axis=0) * np.linalg.norm(y)
        result.append(y @ x / np.where(size > 0, size, np.inf))
    return np.stack(result, axis=1)
