"""The space in which elements are compared, and what a cloud of points without any structure looks like in it.

Whitening all directions would put E points at equal distances from each other as soon as E <= D + 1; only directions
that stand out of the noise are kept, and whitened only on request.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalformers.errors import TableError

Floats = NDArray[np.float64]
Space = Literal["leading", "centred", "whitened"]
"""`centred`: all directions. `leading`: principal components above the noise. `whitened`: those, equally wide."""

SPACES: tuple[Space, ...] = ("leading", "centred", "whitened")
DRAWS = 99
"""Random draws that stand for chance, unless asked otherwise; the smallest p-value is then 0.01."""

PARALLEL_QUANTILE = 0.95


def principal_components(vectors: ArrayLike) -> Floats:
    """Scores on all principal components, (E, min(D, E - 1)), largest variance first.

    The sign of each is such that its largest entry is positive.

    Raises:
        TableError: if there are fewer than two different elements.
    """
    points = np.asarray(vectors, dtype=np.float64)
    points = points - points.mean(axis=0)
    if len(points) < 2 or not points.any():
        raise TableError("A table needs at least two elements with different vectors to be analysed")
    left, size, _ = np.linalg.svd(points, full_matrices=False)
    kept = size > 1e-9 * size[0]
    scores: Floats = left[:, kept] * size[kept]
    largest = np.take_along_axis(scores, abs(scores).argmax(axis=0)[None], axis=0)
    return scores * np.sign(largest)


def explained(scores: Floats) -> Floats:
    """Share of the variance that each principal component carries, adding up to 1."""
    variance: Floats = (scores**2).sum(axis=0)
    return variance / variance.sum()


def components_above_noise(vectors: ArrayLike, seed: int, draws: int = DRAWS) -> int:
    """How many leading components carry more variance than chance gives, at least 2 (Horn's parallel analysis, 1965).

    Chance: the same numbers with every column shuffled for itself; a component counts if it lies above the 95 %
    quantile of its rank.
    """
    points = np.asarray(vectors, dtype=np.float64)
    random = np.random.default_rng(seed)
    size = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    shuffled = (random.permuted(points, axis=0) for _ in range(draws))
    noise = np.quantile([np.linalg.svd(p - p.mean(axis=0), compute_uv=False) for p in shuffled], PARALLEL_QUANTILE, 0)
    below = np.flatnonzero(size <= noise)
    return max(2, int(below[0]) if below.size else len(size))


def points_in(space: Space, vectors: ArrayLike, seed: int) -> Floats:
    """Coordinates of the elements in a space, (E, at most D)."""
    scores = principal_components(vectors)
    if space == "centred":
        return scores
    scores = scores[:, : components_above_noise(vectors, seed)]
    return scores / scores.std(axis=0) if space == "whitened" else scores


def structureless(points: Floats, random: np.random.Generator) -> Floats:
    """One normal cloud with exactly the covariance of `points` and no structure beyond it, (E, D).

    The principal components are replaced by random ones (Langsrud's rotation test, 2005), so that clusters, also those
    along one axis, dissolve while the spread in every direction stays.
    """
    size = np.linalg.norm(points, axis=0)
    cloud = random.normal(size=points.shape)
    directions, _ = np.linalg.qr(cloud - cloud.mean(axis=0))
    return directions * size


def shuffled(points: Floats, random: np.random.Generator) -> Floats:
    """Every coordinate shuffled over the elements for itself: the same values on every axis, without their relation."""
    return random.permuted(points, axis=0)


ROUNDING = 1e-9
"""Statistics here are of the order of 1; differences below this are rounding, and count as ties."""


def p_value(observed: float, chance: ArrayLike) -> float:
    """Share of draws that are as large by chance, counting the observed one (Phipson and Smyth, 2010)."""
    draws = np.asarray(chance, dtype=np.float64)
    return float((1 + (draws >= observed - ROUNDING).sum()) / (1 + draws.size))
