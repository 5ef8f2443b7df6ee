"""Probes and comparisons of element tables: what is planted is found, and chance looks like chance."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="NOT TESTED: scikit-learn is not installed (extra 'elements')")

from point_clouds import cloud, planted, table

from crystalformers.elements import ElementTable
from crystalformers.elements.analysis import comparison, probes, properties
from crystalformers.elements.analysis.ensembles import common_elements, ensembles
from crystalformers.errors import ConfigError, TableError


def test_a_planted_property_is_read_off_and_a_random_one_is_not() -> None:
    vectors = cloud(0, elements=80, dim=20)
    values = vectors @ np.random.default_rng(1).normal(size=20)
    parts = np.arange(80)
    found = probes.probe(vectors, values, parts, seed=0, draws=19)
    assert found.r2 > 0.999
    assert found.p == 0.05
    noise = probes.probe(vectors, np.random.default_rng(2).normal(size=80), parts, seed=0, draws=19)
    assert noise.r2 < 0.1
    assert noise.p > 0.05
    low, high = probes.interval([found], seed=0)
    assert 0.99 < low <= found.r2 <= high <= 1


def test_values_dealt_out_at_random_give_flat_p_values() -> None:
    from scipy.stats import kstest

    random = np.random.default_rng(0)
    parts = np.arange(30) % 6
    p = [probes.probe(cloud(s, 30), random.normal(size=30), parts, s, draws=19).p for s in range(40)]
    assert kstest(np.array(p) - 0.025, "uniform").pvalue > 0.01


def test_the_probe_equals_nested_cross_validation_by_scikit_learn() -> None:
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.default_rng(0)
    x = random.normal(size=(30, 40)) * random.uniform(0.1, 3, 40)
    y = x[:, :3].sum(axis=1) + random.normal(size=30)
    classes = np.arange(30) // 4
    predicted, mean = probes.predict_left_out(x, y[:, None], classes)
    for part in (classes == c for c in range(8)):
        train = ~part
        model = make_pipeline(StandardScaler(), RidgeCV(probes.PENALTIES)).fit(x[train], y[train])
        np.testing.assert_allclose(predicted[part, 0], model.predict(x[part]), atol=1e-9)
        np.testing.assert_allclose(mean[part, 0], y[train].mean())


def test_a_group_left_out_has_no_say() -> None:
    """Whatever the values of a group, its own predictions stay the same."""
    numbers = np.arange(1, 60)
    group = properties.places(numbers).group
    assert sorted(set(group.tolist())) == list(range(1, 19))
    vectors, values = cloud(0, 59), np.random.default_rng(0).normal(size=(59, 1))
    before, _ = probes.predict_left_out(vectors, values, group)
    halogens = np.flatnonzero(group == 17)
    values[halogens] += 1000
    after, _ = probes.predict_left_out(vectors, values, group)
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


def test_tables_without_a_name_of_their_own_are_refused() -> None:
    with pytest.raises(TableError, match="Two tables are called 'a'"):
        ensembles([table("a", cloud(0)), table("a", cloud(1))])
    with pytest.raises(TableError, match="no table"):
        ensembles([])


def test_too_few_elements_to_learn_from_are_refused() -> None:
    with pytest.raises(ConfigError, match="All elements are of one group"):
        probes.probe(cloud(0)[:3], np.arange(3), [3, 3, 3], seed=0)
    with pytest.raises(ConfigError, match="3 elements are too few to learn"):
        probes.probe(cloud(0)[:4], np.arange(4), np.arange(4), seed=0)
