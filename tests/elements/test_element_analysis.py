"""Families, probes and comparisons of element tables: what is planted is found, and chance looks like chance."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="NOT TESTED: scikit-learn is not installed (extra 'elements')")

from crystalformers.elements import ElementTable
from crystalformers.elements.analysis import clusters, comparison, probes, properties, spaces
from crystalformers.elements.analysis.ensembles import common_elements, ensembles
from crystalformers.errors import ConfigError, TableError

SIZES = (14, 9, 11, 6)
TRUTH = np.repeat(np.arange(len(SIZES)), SIZES)


def planted(seed: int, noise: float = 0.25, dim: int = 24) -> np.ndarray:
    """Four clouds of elements around random centres; the same centres for every seed, in other coordinates."""
    centres = np.random.default_rng(7).normal(size=(len(SIZES), dim))
    random = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(random.normal(size=(dim, dim)))
    return (centres[TRUTH] + noise * random.normal(size=(len(TRUTH), dim))) @ turned


def cloud(seed: int, elements: int = 40, dim: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(elements, dim)) * np.linspace(2, 1, dim)


def table(name: str, vectors: np.ndarray, numbers: np.ndarray | None = None) -> ElementTable:
    return ElementTable(name, np.arange(1, len(vectors) + 1) if numbers is None else numbers, vectors)


@pytest.mark.parametrize("space", spaces.SPACES)
@pytest.mark.parametrize("method", ["ward", "k-means"])
def test_planted_families_are_found(space: spaces.Space, method: clusters.Method) -> None:
    points = spaces.points_in(space, planted(0), seed=0)
    labels = clusters.cluster(points, len(SIZES), method)
    assert clusters.agreement(labels, TRUTH, seed=0, draws=19) == clusters.Agreement(1.0, 0.05)
    assert labels[0] == 0, "families are counted in the order of the elements"


def test_planted_families_are_found_by_density() -> None:
    labels = clusters.density_clusters(spaces.points_in("leading", planted(0), seed=0), least=5)
    clustered = labels >= 0
    assert clustered.mean() > 0.8
    assert clusters.agreement(labels[clustered], TRUTH[clustered], seed=0, draws=1).ari == 1


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
    assert abs(np.mean([a.ari for a in found])) < 0.02
    assert 0.3 < np.mean([a.p for a in found]) < 0.7


def test_silhouette_equals_that_of_scikit_learn() -> None:
    from sklearn.metrics import silhouette_score

    points = cloud(0)
    distance = comparison.distances(points)
    for k in (2, 5, 20):
        labels = clusters.cluster(points, k)
        assert clusters.silhouette(distance, labels) == pytest.approx(silhouette_score(points, labels), abs=1e-12)


def test_the_adjusted_rand_index_equals_that_of_scikit_learn() -> None:
    from sklearn.metrics import adjusted_rand_score

    random = np.random.default_rng(0)
    one, other = random.integers(5, size=50), random.choice(list("spdf"), size=50)
    assert clusters.adjusted_rand(one, other) == pytest.approx(adjusted_rand_score(one, other), abs=1e-12)
    assert clusters.adjusted_rand(one, one * 3) == 1
    assert clusters.adjusted_rand(np.zeros(5), np.ones(5)) == 1


def test_a_tree_is_cut_as_scipy_cuts_it() -> None:
    from scipy.cluster.hierarchy import fcluster

    tree = clusters.ward_tree(cloud(0))
    for k, labels in zip((1, 2, 7, 40), clusters.cuts(tree, (1, 2, 7, 40)), strict=True):
        assert clusters.adjusted_rand(labels, fcluster(tree, k, "maxclust")) == 1
        assert labels.max() == k - 1


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


def test_a_planted_property_is_read_off_and_a_random_one_is_not() -> None:
    vectors = cloud(0, elements=80, dim=20)
    values = vectors @ np.random.default_rng(1).normal(size=20)
    parts = probes.leave_one_out(80)
    found = probes.probe(vectors, values, parts, seed=0, draws=19)
    assert found.r2 > 0.999
    assert found.p == 0.05
    noise = probes.probe(vectors, np.random.default_rng(2).normal(size=80), parts, seed=0, draws=19)
    assert noise.r2 < 0.1
    assert noise.p > 0.05
    low, high = probes.interval([found], seed=0)
    assert 0.99 < low <= found.r2 <= high <= 1


def test_rounding_is_no_evidence() -> None:
    assert spaces.p_value(2e-16, [0.0, -1e-16, 0.0]) == 1
    assert spaces.p_value(0.5, [0.1, 0.5, 0.6]) == 3 / 4


def test_values_dealt_out_at_random_give_flat_p_values() -> None:
    from scipy.stats import kstest

    random = np.random.default_rng(0)
    parts = probes.leave_one_class_out(np.arange(30) % 6)
    p = [probes.probe(cloud(s, 30), random.normal(size=30), parts, s, draws=19).p for s in range(40)]
    assert kstest(np.array(p) - 0.025, "uniform").pvalue > 0.01


def test_the_probe_equals_nested_cross_validation_by_scikit_learn() -> None:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    x = random.normal(size=(30, 40)) * random.uniform(0.1, 3, 40)
    y = x[:, :3].sum(axis=1) + random.normal(size=30)
    parts = probes.leave_one_class_out(np.arange(30) // 4)
    predicted, mean = probes.predict_left_out(x, y[:, None], parts)
    for part in parts:
        train = np.setdiff1d(np.arange(30), part)
        model = make_pipeline(StandardScaler(), RidgeCV(probes.PENALTIES)).fit(x[train], y[train])
        np.testing.assert_allclose(predicted[part, 0], model.predict(x[part]), atol=1e-9)
        np.testing.assert_allclose(mean[part, 0], y[train].mean())


def test_a_group_left_out_has_no_say() -> None:
    """Whatever stands in a group, its own predictions stay the same; and each group is one part."""
    numbers = np.arange(1, 60)
    group = properties.places(numbers).group
    parts = probes.leave_one_class_out(group)
    assert sorted(np.concatenate(parts).tolist()) == list(range(59))
    assert all(len(set(group[part].tolist())) == 1 for part in parts)
    assert len(parts) == 18
    vectors, values = cloud(0, 59), np.random.default_rng(0).normal(size=(59, 1))
    before, _ = probes.predict_left_out(vectors, values, parts)
    halogens = np.flatnonzero(group == 17)
    values[halogens] += 1000
    after, _ = probes.predict_left_out(vectors, values, parts)
    np.testing.assert_array_equal(before[halogens], after[halogens])
    assert not np.allclose(np.delete(before, halogens), np.delete(after, halogens))


def test_a_property_that_the_table_holds_is_recognised() -> None:
    vectors = cloud(0)
    assert probes.is_given(vectors, -3 * vectors[:, 2] + 5)
    assert not probes.is_given(vectors, vectors @ np.ones(6))
    assert not probes.is_given(np.ones((40, 3)), vectors[:, 0])


def test_similarity_of_tables_sees_the_same_elements_and_nothing_in_noise() -> None:
    same = comparison.similarity(planted(0), planted(1), seed=0, draws=39)
    assert same.value > 0.8
    assert same.p == 1 / 40
    p = [comparison.similarity(cloud(s), cloud(100 + s), seed=s, draws=39).p for s in range(30)]
    assert 0.3 < np.mean(p) < 0.7
    assert comparison.similarity(np.eye(40), cloud(0), seed=0).p == 1, "one-hot codes have no order of distances"


def test_similarity_is_spearmans_rho_of_the_distances() -> None:
    from scipy.spatial.distance import pdist
    from scipy.stats import spearmanr

    one, other = cloud(0), cloud(1) + cloud(0)[:, ::-1]
    expected = spearmanr(pdist(one), pdist(other)).statistic
    assert comparison.similarity(one, other, seed=0, draws=1).value == pytest.approx(expected, abs=1e-9)


def test_alignment_undoes_rotation_and_scale_and_minds_chance() -> None:
    from scipy.spatial import procrustes

    turned, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))
    assert comparison.alignment(planted(0), 3 * planted(0) @ turned + 5, seed=0, draws=9).value == pytest.approx(1)
    noise = comparison.alignment(cloud(0, dim=60), cloud(1, dim=60), seed=0, draws=19)
    assert noise.value == pytest.approx(1 - procrustes(cloud(0, dim=60), cloud(1, dim=60))[2])
    assert abs(noise.value - noise.chance) < 0.05
    assert noise.value > 0.3, "in many dimensions chance alone aligns well; that is what the null is for"


def test_correlations_and_their_threshold() -> None:
    columns = cloud(0, 60)
    values = np.stack([columns[:, 1] ** 3, np.random.default_rng(1).normal(size=60)], axis=1)
    values[3, 0] = np.nan
    found = comparison.correlations(columns, values, seed=0, draws=99)
    assert found.rho.shape == (6, 2)
    assert found.rho[1, 0] == pytest.approx(1)
    assert 0.2 < found.threshold < 0.6


def test_properties_of_elements() -> None:
    numbers = np.array([1, 2, 26, 58, 71, 118])
    table_of = dict(zip([p.name for p in properties.PROPERTIES], properties.values(numbers).T, strict=True))
    assert table_of["electronegativity"][2] == 1.83
    assert np.isnan(table_of["electronegativity"][1])
    assert table_of["melting point"][2] == 1811
    where = properties.places(numbers[:5])
    assert where.block.tolist() == ["s", "s", "d", "f", "d"]
    assert where.group.tolist() == [1, 18, 8, 3, 3]


def test_seeds_of_one_training_stand_together_and_a_control_is_added() -> None:
    vectors = cloud(0)
    tables = [table(name, vectors) for name in ("ours-seed0", "megnet16", "ours-seed1")]
    sets = ensembles(tables)
    assert [(e.name, len(e.tables)) for e in sets] == [("ours", 2), ("megnet16", 1), ("random", 3)]
    assert [e.name for e in ensembles([tables[0]])] == ["ours-seed0", "random"]
    assert len(ensembles([table("random-4", vectors)])) == 1


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ([table("lonely", np.ones((1, 3)))], r"lonely \(1\): 1 elements in common \(H\); at least 10"),
        (
            [table("low", cloud(0, 20)), table("high", cloud(0, 20), np.arange(50, 70))],
            r"low \(20\), high \(20\): 0 elements in common",
        ),
    ],
)
def test_tables_without_common_elements_are_refused(tables: list[ElementTable], words: str) -> None:
    with pytest.raises(TableError, match=words):
        common_elements(tables)


def test_errors_of_the_parts() -> None:
    with pytest.raises(TableError, match="Two tables are called 'a'"):
        ensembles([table("a", cloud(0)), table("a", cloud(1))])
    with pytest.raises(TableError, match="no table"):
        ensembles([])
    with pytest.raises(TableError, match="two elements with different vectors"):
        spaces.principal_components(np.ones((5, 3)))
    with pytest.raises(ConfigError, match="40 elements cannot be divided into 40 families"):
        clusters.cluster(cloud(0), 40)
    with pytest.raises(ConfigError, match="3 elements are too few to look for families"):
        clusters.separation(cloud(0)[:3], seed=0)
    with pytest.raises(ConfigError, match="All elements are of one group"):
        probes.leave_one_class_out([3, 3, 3])
    with pytest.raises(ConfigError, match="3 elements are too few to learn"):
        probes.probe(cloud(0)[:4], np.arange(4), probes.leave_one_out(4), seed=0)
