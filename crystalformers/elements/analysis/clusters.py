"""Families of elements by Ward's method, k-means and HDBSCAN: their number, their separation and their stability.

Families are numbered from 0 in the order of their first elements by atomic number; HDBSCAN gives elements in no family
the label -1. The silhouette is that of scikit-learn, in a form that is fast enough for thousands of draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalformers.elements.analysis.spaces import (
    DRAWS,
    Floats,
    Likeness,
    distances,
    p_value,
    permutation_test,
    shuffled,
    structureless,
)
from crystalformers.errors import ConfigError

Labels = NDArray[np.int64]
Method = Literal["ward", "k-means"]
Null = Callable[[Floats, np.random.Generator], Floats]

CLUSTERS = tuple(range(2, 13))
"""Numbers of families to try."""

NULLS: dict[str, Null] = {"one cloud": structureless, "shuffled": shuffled}
"""Null models: a normal distribution with the same covariance; the same coordinates, each shuffled independently.

Shuffled coordinates correlate a little by accident, which separates families better, so this null is conservative."""

KMEANS_STARTS = 20
SUBSAMPLE = 0.8
"""Share of the elements in a random subset."""


def cluster(points: Floats, k: int, method: Method = "ward", seed: int = 0) -> Labels:
    """Divide elements into families.

    Args:
        points: coordinates of the elements, (E, D).
        k: number of families.
        method: Ward's method (Ward 1963), which is deterministic, or k-means with 20 starts.
        seed: of the starts of k-means.

    Returns:
        The family of each element, (E,).

    Raises:
        ConfigError: if there are not enough elements for k families.
    """
    if not 1 <= k < len(points):
        raise ConfigError(f"{len(points)} elements cannot be divided into {k} families", remedy="ask for fewer")
    if method == "ward":
        return cuts(ward_tree(points), [k])[0]
    from sklearn.cluster import KMeans

    return _in_order(KMeans(k, n_init=KMEANS_STARTS, random_state=seed).fit(points).labels_)


def ward_tree(points: Floats) -> Floats:
    """Ward's tree in SciPy's form, (E - 1, 4)."""
    from scipy.cluster.hierarchy import linkage

    return np.asarray(linkage(points, "ward"))


def density_clusters(points: Floats, least: int = 3) -> Labels:
    """Families of at least `least` elements by density (HDBSCAN, Campello et al. 2013), (E,); -1: in none."""
    from sklearn.cluster import HDBSCAN

    return _in_order(HDBSCAN(min_cluster_size=least, min_samples=1, copy=True).fit(points).labels_)


def cuts(tree: Floats, ks: Sequence[int]) -> list[Labels]:
    """Labels (E,) for each number of families, from one pass through the merges of a tree."""
    n = len(tree) + 1
    branch, found = np.arange(n), {}
    for merged, pair in enumerate(tree[:, :2]):
        if n - merged in ks:
            found[n - merged] = _in_order(branch)
        branch[np.isin(branch, pair)] = n + merged
    found[1] = np.zeros(n, dtype=np.int64)
    return [found[k] for k in ks]


def _in_order(labels: NDArray[np.integer]) -> Labels:
    """Renumber families to 0, 1... by first occurrence; negative labels become -1."""
    first = dict.fromkeys(labels[labels >= 0].tolist())
    rename = {old: new for new, old in enumerate(first)}
    return np.array([rename.get(label, -1) for label in labels.tolist()], dtype=np.int64)


def silhouettes(points: Floats, ks: Sequence[int] = CLUSTERS) -> Floats:
    """Mean silhouette (Rousseeuw 1987) of each number of Ward's families, (K,); 1: well separated, 0: not at all."""
    distance = distances(points)
    return np.array([silhouette(distance, labels) for labels in cuts(ward_tree(points), ks)])


def silhouette(distance: Floats, labels: Labels) -> float:
    """Mean silhouette: (b - a) / max(a, b), averaged over elements.

    a is the mean distance to the other elements of the family, b that to the nearest other family; an element that is
    alone in its family counts 0.

    Args:
        distance: between elements, (E, E).
        labels: family of each element, (E,), from 0.
    """
    member = np.eye(labels.max() + 1)[labels]
    size, total = member.sum(axis=0), distance @ member
    own = total[np.arange(len(labels)), labels] / np.maximum(size[labels] - 1, 1)
    other = np.where(member > 0, np.inf, total / size).min(axis=1)
    return float(np.where(size[labels] > 1, (other - own) / np.maximum(np.maximum(own, other), 1e-300), 0).mean())


@dataclass(frozen=True, eq=False)
class Separation:
    """How well families are separated for each number of them, compared with chance.

    Attributes:
        ks: numbers of families, (K,).
        silhouette: mean silhouette, (K,).
        chance: mean silhouettes of draws from each null model, name -> (N, K).
        gap: gap statistic (Tibshirani, Walther and Hastie 2001), (K,).
        gap_error: standard error of the gap statistic, (K,).
        spread: standard deviation of the silhouette when a fifth of the elements is left out, (K,).
    """

    ks: tuple[int, ...]
    silhouette: Floats
    chance: dict[str, Floats]
    gap: Floats
    gap_error: Floats
    spread: Floats

    @property
    def by_silhouette(self) -> int:
        """The smallest number of families whose silhouette is within one `spread` of the best."""
        best = int(self.silhouette.argmax())
        return self.ks[int((self.silhouette >= self.silhouette[best] - self.spread[best]).argmax())]

    @property
    def by_gap(self) -> int:
        """The smallest k with gap(k) >= gap(k + 1) - error(k + 1); the largest tried if there is none."""
        enough = np.flatnonzero(self.gap[:-1] >= self.gap[1:] - self.gap_error[1:])
        return self.ks[int(enough[0])] if enough.size else self.ks[-1]

    def p_value(self, null: str) -> float:
        """Probability that a draw of the null reaches this silhouette, each with its own best number of families."""
        return p_value(float(self.silhouette.max()), self.chance[null].max(axis=1))


def separation(points: Floats, seed: int, draws: int = DRAWS, ks: Sequence[int] = CLUSTERS) -> Separation:
    """Silhouette and gap statistic of Ward's families, and the silhouettes that chance gives.

    Args:
        points: coordinates of the elements, (E, D).
        seed: of all draws.
        draws: from each null model.
        ks: numbers of families to try; more than half the number of elements is left out.

    Raises:
        ConfigError: if there are fewer than four elements.
    """
    ks = tuple(k for k in ks if k <= len(points) // 2)
    if not ks:
        problem = f"{len(points)} elements are too few to look for families"
        raise ConfigError(problem, remedy="give tables with more in common")
    random = np.random.default_rng(seed)
    chance = {
        name: np.array([silhouettes(null(points, random), ks) for _ in range(draws)]) for name, null in NULLS.items()
    }
    parts = [points[keep] for keep in _subsamples(len(points), random, draws)]
    spread = np.array([silhouettes(part, tuple(min(k, len(part) - 1) for k in ks)) for part in parts]).std(axis=0)
    gap, error = _gap(points, ks, random, draws)
    return Separation(ks, silhouettes(points, ks), chance, gap, error, spread)


def _gap(points: Floats, ks: Sequence[int], random: np.random.Generator, draws: int) -> tuple[Floats, Floats]:
    """Gap statistic and its error: how far log W(k) is below that of points drawn uniformly from the same box."""
    low, high = points.min(axis=0), points.max(axis=0)
    even = [_log_within(random.uniform(low, high, points.shape), ks) for _ in range(draws)]
    gap: Floats = np.mean(even, axis=0) - _log_within(points, ks)
    return gap, np.std(even, axis=0) * np.sqrt(1 + 1 / draws)


def _log_within(points: Floats, ks: Sequence[int]) -> Floats:
    """Log W(k): W is the sum of squared distances to the centres; a merge at height h adds h^2 / 2 to it."""
    within = (ward_tree(points)[:, 2] ** 2).cumsum() / 2
    return np.log([within[len(points) - k - 1] for k in ks])


def _subsamples(n: int, random: np.random.Generator, draws: int) -> list[Labels]:
    return [np.sort(random.permutation(n)[: max(4, round(SUBSAMPLE * n))]) for _ in range(draws)]


@dataclass(frozen=True, eq=False)
class Stability:
    """Agreement of families with those found again without a fifth of the elements.

    Attributes:
        ari: adjusted Rand index between the two divisions, (N,); 1: the same, 0: chance.
        jaccard: mean overlap of each family with its best match, (families,); above 0.75: stable (Hennig 2007).
    """

    ari: Floats
    jaccard: Floats


def stability(points: Floats, labels: Labels, seed: int, draws: int = DRAWS) -> Stability:
    """Find Ward's families again in random subsets of the elements.

    Args:
        points: coordinates of the elements, (E, D).
        labels: their families, (E,).
        seed: of the subsets.
        draws: number of subsets.
    """
    k = int(labels.max()) + 1
    ari, overlaps = [], []
    for keep in _subsamples(len(points), np.random.default_rng(seed), draws):
        old, new = labels[keep], cluster(points[keep], min(k, len(keep) - 1))
        ari.append(adjusted_rand(old, new))
        overlaps.append([_best_overlap(old == c, new) for c in range(k)])
    return Stability(np.array(ari), np.nanmean(overlaps, axis=0))


def _best_overlap(family: NDArray[np.bool_], new: Labels) -> float:
    """Jaccard index of a family and its best match; NaN for a family without elements in the subset."""
    if not family.any():
        return float("nan")
    return max(float((family & (new == c)).sum() / (family | (new == c)).sum()) for c in range(new.max() + 1))


def adjusted_rand(one: ArrayLike, other: ArrayLike) -> float:
    """Adjusted Rand index of two divisions (E,) (Hubert and Arabie 1985); 1: the same, 0: chance on average."""
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(one, other))


def agreement(labels: ArrayLike, others: ArrayLike, seed: int, draws: int = DRAWS) -> Likeness:
    """Adjusted Rand index of two divisions (E,) of the same elements; for the null one of them is permuted."""
    one = np.asarray(labels)
    return permutation_test(lambda order: adjusted_rand(one[order], others), len(one), seed, draws)
