"""Families of elements as the paper on CrystalTransformer finds them: k-means on a plane that UMAP draws.

Jin et al. (Nature Communications 2025, Fig. 3) map the vectors to a plane by UMAP and divide them there by k-means; the
number of families comes from the sum of squared errors (elbow) and the silhouette, both averaged over five seeds, and
they take three. UMAP's settings are not stated; here they are the defaults of umap-learn. Distances on such a map are
distorted, so that its gaps are no evidence of families: this is for comparison with `clusters`.

Shapes: E elements, S seeds, K numbers of families.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from crystalformers.elements.analysis.clusters import Labels, adjusted_rand, agreement, cluster, silhouette
from crystalformers.elements.analysis.spaces import Floats, Likeness, distances
from crystalformers.extras import require

SEEDS = 5
FAMILIES = 3
"""Number of families that the paper takes."""

NUMBERS = tuple(range(2, 11))
"""Numbers of families to try."""


@dataclass(frozen=True, eq=False)
class PublishedFamilies:
    """Families by the procedure of the paper.

    Attributes:
        flat: the map of the first seed, (E, 2).
        labels: `FAMILIES` families on it, (E,).
        ks: numbers of families, (K,).
        squares: sum of squared distances to the centres of the families, (S, K).
        silhouette: mean silhouette on the map, (S, K).
        seeds: adjusted Rand index between `FAMILIES` families on the maps of two seeds, (S (S - 1) / 2,).
        ours: agreement with families that were found in the space of the vectors.
    """

    flat: Floats
    labels: Labels
    ks: tuple[int, ...]
    squares: Floats
    silhouette: Floats
    seeds: Floats
    ours: Likeness

    @property
    def elbow(self) -> int:
        """The number of families whose mean squares lie farthest below the straight line from first to last."""
        mean = self.squares.mean(axis=0)
        line = np.interp(self.ks, [self.ks[0], self.ks[-1]], [mean[0], mean[-1]])
        return self.ks[int((line - mean).argmax())]

    @property
    def by_silhouette(self) -> int:
        """The number of families with the largest mean silhouette."""
        return self.ks[int(self.silhouette.mean(axis=0).argmax())]


def check_umap() -> None:
    """Refuse to go on without UMAP; raises ConfigError."""
    require("umap", "the analysis of the paper", "umap")


def published_families(vectors: Floats, ours: Labels, seed: int, draws: int) -> PublishedFamilies:
    """Follow the paper.

    Args:
        vectors: of the elements as they are, (E, D).
        ours: families to compare with, (E,).
        seed: of the first map; the others count up from it.
        draws: permutations for the comparison.

    Raises:
        ConfigError: if umap-learn is not installed.
    """
    check_umap()
    from umap import UMAP

    neighbours = min(15, len(vectors) - 1)  # its default, where there are as many
    maps = [
        np.asarray(UMAP(n_neighbors=neighbours, random_state=seed + k, n_jobs=1).fit_transform(vectors), dtype=float)
        for k in range(SEEDS)
    ]
    divided = [{k: cluster(flat, k, "k-means", seed + s) for k in NUMBERS} for s, flat in enumerate(maps)]
    labels = [found[FAMILIES] for found in divided]
    return PublishedFamilies(
        maps[0],
        labels[0],
        NUMBERS,
        np.array([[_squares(flat, found[k]) for k in NUMBERS] for flat, found in zip(maps, divided, strict=True)]),
        np.array(
            [
                [silhouette(distances(flat), found[k]) for k in NUMBERS]
                for flat, found in zip(maps, divided, strict=True)
            ]
        ),
        np.array([adjusted_rand(one, other) for one, other in combinations(labels, 2)]),
        agreement(labels[0], ours, seed, draws),
    )


def _squares(points: Floats, labels: Labels) -> float:
    groups = [points[labels == label] for label in range(labels.max() + 1)]
    return float(sum(((group - group.mean(axis=0)) ** 2).sum() for group in groups))
