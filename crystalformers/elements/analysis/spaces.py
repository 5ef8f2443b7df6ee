"""The space in which elements are compared, and random points without structure in the same space.

By default only the principal components above the noise are used. Whitening all of them would put the elements at equal
distances from each other as soon as E <= D + 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalformers.errors import TableError

Floats = NDArray[np.float64]
Space = Literal["leading", "centred", "whitened"]
"""`centred`: all components. `leading`: those above the noise. `whitened`: those, with unit variance."""

SPACES: tuple[Space, ...] = ("leading", "centred", "whitened")
DRAWS = 99
"""Default number of random draws for chance; the smallest p-value is then 0.01."""

PARALLEL_QUANTILE = 0.95


def distances(vectors: ArrayLike) -> Floats:
    """Euclidean distances between elements, (E, E)."""
    from scipy.spatial.distance import pdist, squareform

    return np.asarray(squareform(pdist(np.asarray(vectors, dtype=np.float64))))


def principal_components(vectors: ArrayLike) -> Floats:
    """Scores on all principal components with variance, (E, at most min(D, E - 1)), largest variance first.

    The sign of each component is fixed: its largest score is positive.

    Raises:
        TableError: if there are not two elements with different vectors.
    """
    points = np.asarray(vectors, dtype=np.float64)
    points = points - points.mean(axis=0)
    if len(points) < 2 or not points.any():
        raise TableError("A table needs at least two elements with different vectors to be analysed")
    left, size, _ = np.linalg.svd(points, full_matrices=False)
    nonzero = size > 1e-9 * size[0]
    scores: Floats = left[:, nonzero] * size[nonzero]
    largest = np.take_along_axis(scores, abs(scores).argmax(axis=0)[None], axis=0)
    return scores * np.sign(largest)


def explained(scores: Floats) -> Floats:
    """Share of the variance of each principal component; the shares add up to 1."""
    variance: Floats = (scores**2).sum(axis=0)
    return variance / variance.sum()


def components_above_noise(vectors: ArrayLike, seed: int, draws: int = DRAWS) -> int:
    """Number of leading components with more variance than chance, at least 2 (Horn's parallel analysis, 1965).

    For chance every column is shuffled independently; a component counts if it exceeds the 95 % quantile of the
    components of the same rank.
    """
    points = np.asarray(vectors, dtype=np.float64)
    random = np.random.default_rng(seed)
    size = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    shuffled = (random.permuted(points, axis=0) for _ in range(draws))
    noise = np.quantile([np.linalg.svd(p - p.mean(axis=0), compute_uv=False) for p in shuffled], PARALLEL_QUANTILE, 0)
    below = np.flatnonzero(size <= noise)
    return max(2, int(below[0]) if below.size else len(size))


def points_in(space: Space, vectors: ArrayLike, seed: int) -> Floats:
    """Coordinates of the elements in a space, (E, at most D).

    Args:
        space: see `Space`.
        vectors: (E, D).
        seed: of the shuffling that finds the noise.
    """
    scores = principal_components(vectors)
    if space == "centred":
        return scores
    scores = scores[:, : components_above_noise(vectors, seed)]
    return scores / scores.std(axis=0) if space == "whitened" else scores


def structureless(points: Floats, random: np.random.Generator) -> Floats:
    """Normally distributed points with exactly the covariance of `points`, (E, D).

    `points` are principal components; they are replaced by random ones of the same variance (rotation test, Langsrud
    2005). Families dissolve, also those along a single axis.
    """
    size = np.linalg.norm(points, axis=0)
    cloud = random.normal(size=points.shape)
    directions, _ = np.linalg.qr(cloud - cloud.mean(axis=0))
    return directions * size


def shuffled(points: Floats, random: np.random.Generator) -> Floats:
    """The points with every coordinate shuffled independently over the elements, (E, D)."""
    return random.permuted(points, axis=0)


ROUNDING = 1e-9
"""Smaller differences between statistics, which are of the order of 1, are rounding errors and count as ties."""


def p_value(observed: float, chance: ArrayLike) -> float:
    """Share of the draws that reach the observed value, which counts as a draw (Phipson and Smyth, 2010)."""
    draws = np.asarray(chance, dtype=np.float64)
    return float((1 + (draws >= observed - ROUNDING).sum()) / (1 + draws.size))


@dataclass(frozen=True)
class Likeness:
    """How much two tables, or two divisions of the elements into families, have in common.

    Attributes:
        value: a correlation, a share of variance or an index of agreement.
        chance: the mean of what permuted elements give.
        p: probability that permuted elements give as much.
    """

    value: float
    chance: float
    p: float


def permutation_test(
    statistic: Callable[[NDArray[np.int64]], float], elements: int, seed: int, draws: int = DRAWS
) -> Likeness:
    """A statistic of two tables or divisions, and what it is when the elements of one are permuted.

    Args:
        statistic: gives the statistic for an order of the elements of one of the two.
        elements: their number.
        seed: of the permutations.
        draws: number of permutations.
    """
    random = np.random.default_rng(seed)
    observed = statistic(np.arange(elements))
    chance = [statistic(random.permutation(elements)) for _ in range(draws)]
    return Likeness(observed, float(np.mean(chance)), p_value(observed, chance))
