"""Do two tables see the same elements alike: distances, alignment, and correlations with properties.

Vectors are known only up to a rotation, and those of two seeds have nothing else in common; so distances are
compared, or one cloud is first laid over the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalformers.elements.analysis.spaces import DRAWS, p_value

Floats = NDArray[np.float64]


def distances(vectors: ArrayLike) -> Floats:
    """Euclidean distances between elements, (E, E)."""
    from scipy.spatial.distance import pdist, squareform

    return np.asarray(squareform(pdist(np.asarray(vectors, dtype=np.float64))))


@dataclass(frozen=True)
class Likeness:
    """How alike two tables are, what chance gives on average, and how often it gives as much."""

    value: float
    chance: float
    p: float


def similarity(first: ArrayLike, second: ArrayLike, seed: int, draws: int = DRAWS) -> Likeness:
    """Spearman correlation of the distances in two tables (representational similarity analysis, Kriegeskorte 2008).

    The null permutes the elements of one table (Mantel 1967).

    Args:
        first: vectors (E, D) of some elements.
        second: vectors (E, D') of the same elements in the same order.
        seed: of the permutations.
        draws: how many.

    Returns:
        NaN with p = 1 where all elements of a table are equally far from each other, as in one-hot codes.
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
    """Ranks of the pairs as a symmetric matrix with sum 0 and, pairs counted twice, sum of squares 1."""
    from scipy.stats import rankdata

    pairs = np.triu_indices(len(distance), 1)
    ranks = rankdata(distance[pairs].round(9))
    ranks -= ranks.mean()
    norm = np.sqrt(2 * (ranks**2).sum())
    result = np.zeros_like(distance)
    result[pairs] = ranks / (norm if norm > 0 else np.inf)
    return result + result.T


def alignment(first: ArrayLike, second: ArrayLike, seed: int, draws: int = DRAWS) -> Likeness:
    """Share of the variance that two clouds of points have in common once one is turned and scaled onto the other.

    Orthogonal Procrustes analysis (Schönemann 1966); reflections are allowed, missing dimensions are 0. With about as
    many dimensions as elements chance already reaches a good part of 1: mind the null, which permutes the elements.

    Args:
        first: (E, D).
        second: (E, D') of the same elements in the same order.
        seed: of the permutations.
        draws: how many.
    """
    one, other = _unit_cloud(first), _unit_cloud(second)
    random = np.random.default_rng(seed)
    chance = [_overlap(one[random.permutation(len(one))], other) for _ in range(draws)]
    observed = _overlap(one, other)
    return Likeness(observed, float(np.mean(chance)), p_value(observed, chance))


def _unit_cloud(vectors: ArrayLike) -> Floats:
    points = np.asarray(vectors, dtype=np.float64)
    points = points - points.mean(axis=0)
    return points / np.linalg.norm(points)


def _overlap(one: Floats, other: Floats) -> float:
    """1 - Procrustes disparity of two centred clouds of unit size."""
    return float(np.linalg.svd(one.T @ other, compute_uv=False).sum() ** 2)


@dataclass(frozen=True, eq=False)
class Correlations:
    """Spearman correlations of columns with properties.

    Attributes:
        rho: (columns, P).
        threshold: the largest of all |rho| exceeds this in 5 % of permutations of the elements, so that a single cell
            above it is no accident of having looked at many.
    """

    rho: Floats
    threshold: float


def correlations(columns: Floats, values: Floats, seed: int, draws: int = DRAWS) -> Correlations:
    """Correlate columns (E, columns) with properties (E, P); elements whose value is NaN are left out of its cells."""
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
