"""The whole analysis of a set of tables: the numbers behind a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from crystalformers.elements.analysis import clusters, comparison, probes, spaces
from crystalformers.elements.analysis.clusters import Labels, Separation, Stability
from crystalformers.elements.analysis.comparison import Correlations
from crystalformers.elements.analysis.ensembles import Ensemble, common_elements, ensembles
from crystalformers.elements.analysis.properties import PROPERTIES, Integers, Places, Property, places, values
from crystalformers.elements.analysis.published import PublishedFamilies, check_umap, published_families
from crystalformers.elements.analysis.spaces import Floats, Likeness
from crystalformers.elements.table import ElementTable
from crystalformers.periodic import ELEMENTS

Progress = Callable[[str], None]
T = TypeVar("T")

SHOWN_COMPONENTS = 8
SPLITS = ("element", "group")
"""What a probe leaves out: single elements, or whole groups of the periodic table."""


@dataclass(frozen=True, eq=False)
class Groups:
    """The families of elements in the first table.

    Attributes:
        points: coordinates in the space of the leading components, (E, d).
        components: scores on all principal components, (E, D).
        separation: of each number of families.
        labels: the families that the report shows, (E,).
        density: families by HDBSCAN, (E,); -1 for elements in none.
        stability: of the families shown.
        agreement: of the families shown with those of other methods and spaces, and with block, group and period.
        seeds: agreement between the families of two seeds, by the names of their tables.
    """

    points: Floats
    components: Floats
    separation: Separation
    labels: Labels
    density: Labels
    stability: Stability
    agreement: dict[str, Likeness]
    seeds: dict[tuple[str, str], Likeness]


@dataclass(frozen=True, eq=False)
class ProbeResult:
    """Probes of one property in the tables of one ensemble.

    Attributes:
        ensemble: its name.
        quantity: the property.
        split: what is left out, one of `SPLITS`.
        runs: one probe for each table, over the same elements.
        low, high: 95 % bootstrap interval of the mean R2, over elements.
        given: whether a column of the table is the property itself, so that the probe says nothing.
    """

    ensemble: str
    quantity: Property
    split: str
    runs: tuple[probes.Probe, ...]
    low: float
    high: float
    given: bool

    @property
    def r2(self) -> float:
        """Mean R2 over the tables."""
        return float(np.mean([run.r2 for run in self.runs]))

    @property
    def p(self) -> float:
        """Probability that permuted values are predicted as well, in the mean over the tables."""
        return spaces.p_value(self.r2, np.mean([run.chance for run in self.runs], axis=0))


@dataclass(frozen=True, eq=False)
class Study:
    """The results of `study`.

    Attributes:
        seed: of everything random.
        draws: from each null model and bootstrap.
        ensembles: of tables; the first is the subject.
        numbers: atomic numbers of the elements in all tables of the subject, (E,).
        shared: atomic numbers of the elements in all tables.
        places: of `numbers` in the periodic table.
        groups: families of elements in the subject.
        probes: one for each property, ensemble and split.
        likeness: similarity of the first tables of two ensembles, and of the seeds of one, by names of ensembles.
        alignment: between the tables of the subject, by their names.
        correlations: of the leading components of the subject with properties, period, group and counts.
        correlated: names of those properties.
        published: families by the procedure of the CrystalTransformer paper; None unless asked for.
    """

    seed: int
    draws: int
    ensembles: tuple[Ensemble, ...]
    numbers: Integers
    shared: Integers
    places: Places
    groups: Groups
    probes: tuple[ProbeResult, ...]
    likeness: dict[tuple[str, str], Likeness]
    alignment: dict[tuple[str, str], Likeness]
    correlations: Correlations
    correlated: tuple[str, ...]
    published: PublishedFamilies | None = None

    @property
    def symbols(self) -> list[str]:
        """Of `numbers`."""
        return [ELEMENTS[number - 1] for number in self.numbers]

    @property
    def subject(self) -> ElementTable:
        """The first table, which the pictures show."""
        return self.ensembles[0].tables[0]


def study(
    tables: Sequence[ElementTable],
    seed: int = 0,
    draws: int = spaces.DRAWS,
    n_clusters: int | None = None,
    progress: Progress = lambda step: None,
    *,
    paper: bool = False,
) -> Study:
    """Analyse a table of element vectors and compare it with others.

    Args:
        tables: the first, with its other seeds, is the subject, the others are for comparison.
        seed: of everything random.
        draws: from each null model and bootstrap.
        n_clusters: number of families of elements; None chooses by the silhouette.
        progress: called with the name of each step.
        paper: also find families as the CrystalTransformer paper does.

    Raises:
        TableError: if tables share fewer than ten elements, or a name.
        ConfigError: if `n_clusters` does not fit the number of elements, or `paper` is asked for without umap-learn.
    """
    if paper:
        check_umap()
    sets = ensembles(tables)
    subject = sets[0].tables
    numbers = common_elements(subject)
    shared = common_elements([table for ensemble in sets for table in ensemble.tables])
    where = places(numbers)
    progress("families of elements")
    groups = _groups(subject, numbers, where, seed, draws, n_clusters)
    theirs = None
    if paper:
        progress("families by the paper")
        theirs = published_families(subject[0].rows(numbers).astype(np.float64), groups.labels, seed, draws)
    results = [
        result for quantity in PROPERTIES for result in _probe_property(sets, shared, quantity, seed, draws, progress)
    ]
    progress("comparison of tables")
    likeness = _likeness(sets, shared, seed, draws)
    alignment = _pairwise(subject, numbers, lambda a, b: comparison.alignment(a, b, seed, draws))
    columns = np.column_stack([values(numbers), where.period, where.group])
    names = (*(quantity.name for quantity in PROPERTIES), "period", "group")
    counts = subject[0].counts
    if counts is not None:
        seen = counts[np.searchsorted(subject[0].numbers, numbers)]
        columns, names = np.column_stack([columns, seen]), (*names, "training crystals")
    correlations = comparison.correlations(groups.components[:, :SHOWN_COMPONENTS], columns, seed, draws)
    compared = (tuple(results), likeness, alignment, correlations, names, theirs)
    return Study(seed, draws, sets, numbers, shared, where, groups, *compared)


def _groups(
    subject: Sequence[ElementTable], numbers: Integers, where: Places, seed: int, draws: int, k: int | None
) -> Groups:
    vectors = subject[0].rows(numbers)
    points = spaces.points_in("leading", vectors, seed)
    separation = clusters.separation(points, seed, draws)
    k = separation.by_silhouette if k is None else k
    labels = clusters.cluster(points, k)
    others: dict[str, ArrayLike] = {
        "k-means": clusters.cluster(points, k, "k-means", seed),
        "all directions": clusters.cluster(spaces.points_in("centred", vectors, seed), k),
        "whitened": clusters.cluster(spaces.points_in("whitened", vectors, seed), k),
        "block": where.block,
        "group": where.group,
        "period": where.period,
    }
    density = clusters.density_clusters(points)
    agreement = {name: clusters.agreement(labels, other, seed, draws) for name, other in others.items()}
    if (found := density >= 0).any():
        agreement["HDBSCAN"] = clusters.agreement(labels[found], density[found], seed, draws)

    def of_seeds(first: Floats, second: Floats) -> Likeness:
        one, other = (clusters.cluster(spaces.points_in("leading", v, seed), k) for v in (first, second))
        return clusters.agreement(one, other, seed, draws)

    stable = clusters.stability(points, labels, seed, draws)
    components = spaces.principal_components(vectors)
    seeds = _pairwise(subject, numbers, of_seeds)
    return Groups(points, components, separation, labels, density, stable, agreement, seeds)


def _pairwise(
    tables: Sequence[ElementTable], numbers: Integers, compare: Callable[[Floats, Floats], T]
) -> dict[tuple[str, str], T]:
    """Compare all pairs of tables by the vectors of the same elements."""
    rows = {table.name: table.rows(numbers).astype(np.float64) for table in tables}
    return {(a, b): compare(rows[a], rows[b]) for a, b in combinations(rows, 2)}


def _probe_property(
    sets: Sequence[Ensemble], shared: Integers, quantity: Property, seed: int, draws: int, progress: Progress
) -> list[ProbeResult]:
    progress(f"probes of {quantity.name}")
    known = values(shared, [quantity.attribute])[:, 0]
    numbers, known = shared[~np.isnan(known)], known[~np.isnan(known)]
    classes = {"element": numbers, "group": places(numbers).group}
    results = []
    for ensemble in sets:
        for split in SPLITS:
            runs = [probes.probe(table.rows(numbers), known, classes[split], seed, draws) for table in ensemble.tables]
            given = probes.is_given(ensemble.tables[0].rows(numbers), known)
            results.append(
                ProbeResult(ensemble.name, quantity, split, tuple(runs), *probes.interval(runs, seed), given)
            )
    return results


def _likeness(sets: Sequence[Ensemble], shared: Integers, seed: int, draws: int) -> dict[tuple[str, str], Likeness]:
    """Similarity between ensembles, of their first tables, and within one: mean over its seeds and largest p."""

    def compare(first: Floats, second: Floats) -> Likeness:
        return comparison.similarity(first, second, seed, draws)

    firsts = [ensemble.tables[0] for ensemble in sets]
    owner = {ensemble.tables[0].name: ensemble.name for ensemble in sets}
    result = {(owner[a], owner[b]): like for (a, b), like in _pairwise(firsts, shared, compare).items()}
    for ensemble in sets:
        if pairs := list(_pairwise(ensemble.tables, shared, compare).values()):
            value, chance = np.mean([(pair.value, pair.chance) for pair in pairs], axis=0)
            result[ensemble.name, ensemble.name] = Likeness(float(value), float(chance), max(pair.p for pair in pairs))
    return result
