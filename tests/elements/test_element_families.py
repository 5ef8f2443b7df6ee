"""Families of elements and their spaces: what is planted is found, and chance looks like chance."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="NOT TESTED: scikit-learn is not installed (extra 'elements')")

from point_clouds import SIZES, TRUTH, cloud, planted

from crystalformers.elements.analysis import clusters, spaces
from crystalformers.errors import ConfigError, TableError


@pytest.mark.parametrize("space", spaces.SPACES)
@pytest.mark.parametrize("method", ["ward", "k-means"])
def test_planted_families_are_found(space: spaces.Space, method: clusters.Method) -> None:
    points = spaces.points_in(space, planted(0), seed=0)
    labels = clusters.cluster(points, len(SIZES), method)
    found = clusters.agreement(labels, TRUTH, seed=0, draws=19)
    assert (found.value, found.p) == (1.0, 0.05)
    assert labels[0] == 0, "families are counted in the order of the elements"


def test_planted_families_are_found_by_density() -> None:
    labels = clusters.density_clusters(spaces.points_in("leading", planted(0), seed=0), least=5)
    clustered = labels >= 0
    assert clustered.mean() > 0.8
    assert clusters.agreement(labels[clustered], TRUTH[clustered], seed=0, draws=1).value == 1


def test_the_number_of_planted_families_is_found_and_is_no_chance() -> None:
    points = spaces.points_in("leading", planted(0), seed=0)
    found = clusters.separation(points, seed=0, draws=39)
    assert found.by_silhouette == found.by_gap == len(SIZES)
    assert found.p_value("one cloud") == found.p_value("shuffled") == 1 / 40
    stable = clusters.stability(points, TRUTH, seed=0, draws=19)
    assert stable.ari.min() == 1
    np.testing.assert_array_equal(stable.jaccard, 1)


def test_a_family_along_one_axis_is_no_chance_either() -> None:
    """Shuffling coordinates keeps two heaps on one axis; the rotated cloud dissolves them."""
    points = np.random.default_rng(0).normal(size=(60, 3))
    points[:30, 0] += 12
    found = clusters.separation(spaces.principal_components(points), seed=0, draws=39)
    assert found.p_value("one cloud") == 1 / 40
    assert found.p_value("shuffled") > 0.1


@pytest.mark.parametrize("null", clusters.NULLS)
def test_the_null_of_families_is_flat_without_families(null: str) -> None:
    """p-values of structureless clouds are spread over 0 to 1 (Kolmogorov and Smirnov)."""
    from scipy.stats import kstest

    found = []
    for seed in range(30):
        points = spaces.principal_components(cloud(seed))
        random = np.random.default_rng(1000 + seed)
        best = [clusters.silhouettes(clusters.NULLS[null](points, random)).max() for _ in range(19)]
        found.append(spaces.p_value(clusters.silhouettes(points).max(), best))
    # Shuffling is known to err towards chance.
    side = "two-sided" if null == "one cloud" else "greater"
    assert kstest(np.array(found) - 0.025, "uniform", alternative=side).pvalue > 0.01


def test_unrelated_families_agree_by_chance_only() -> None:
    random = np.random.default_rng(0)
    found = [
        clusters.agreement(random.integers(4, size=40), random.integers(4, size=40), seed, draws=39)
        for seed in range(30)
    ]
    assert abs(np.mean([a.value for a in found])) < 0.02
    assert 0.3 < np.mean([a.p for a in found]) < 0.7


def test_silhouette_equals_that_of_scikit_learn() -> None:
    from sklearn.metrics import silhouette_score

    points = cloud(0)
    distance = spaces.distances(points)
    for k in (2, 5, 20):
        labels = clusters.cluster(points, k)
        assert clusters.silhouette(distance, labels) == pytest.approx(silhouette_score(points, labels), abs=1e-12)


def test_a_tree_is_cut_as_scipy_cuts_it() -> None:
    from scipy.cluster.hierarchy import fcluster

    tree = clusters.ward_tree(cloud(0))
    for k, labels in zip((1, 2, 7, 40), clusters.cuts(tree, (1, 2, 7, 40)), strict=True):
        assert clusters.adjusted_rand(labels, fcluster(tree, k, "maxclust")) == 1
        assert labels.max() == k - 1


def test_the_gap_compares_squared_distances_to_the_centres() -> None:
    points = cloud(0)
    for k, found in zip((2, 9), clusters._log_within(points, (2, 9)), strict=True):
        labels = clusters.cluster(points, k)
        families = [points[labels == c] for c in range(k)]
        assert np.exp(found) == pytest.approx(sum(((f - f.mean(axis=0)) ** 2).sum() for f in families))


def test_the_structureless_cloud_keeps_the_spread_in_every_direction() -> None:
    points = spaces.principal_components(planted(0))
    other = spaces.structureless(points, np.random.default_rng(0))
    np.testing.assert_allclose(other.T @ other, points.T @ points, atol=1e-9 * (points**2).sum())
    np.testing.assert_allclose(other.mean(axis=0), 0, atol=1e-12)


def test_parallel_analysis_finds_the_planted_dimensions() -> None:
    random = np.random.default_rng(0)
    vectors = 3 * random.normal(size=(80, 4)) @ random.normal(size=(4, 50)) + random.normal(size=(80, 50))
    assert spaces.components_above_noise(vectors, seed=0) == 4
    assert spaces.components_above_noise(random.normal(size=(80, 50)), seed=0) == 2, "never fewer than a plane"


def test_rounding_is_no_evidence() -> None:
    assert spaces.p_value(2e-16, [0.0, -1e-16, 0.0]) == 1
    assert spaces.p_value(0.5, [0.1, 0.5, 0.6]) == 3 / 4


def test_too_few_elements_are_refused() -> None:
    with pytest.raises(TableError, match="two elements with different vectors"):
        spaces.principal_components(np.ones((5, 3)))
    with pytest.raises(ConfigError, match="40 elements cannot be divided into 40 families"):
        clusters.cluster(cloud(0), 40)
    with pytest.raises(ConfigError, match="3 elements are too few to look for families"):
        clusters.separation(cloud(0)[:3], seed=0)
