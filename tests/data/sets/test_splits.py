"""The published splits: the rule, its fingerprints, and the authors' own indices."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from crystalformers.data.sets import SETS
from crystalformers.data.sets.splits import (
    DividedSource,
    MatbenchFold,
    ShuffledSplit,
    SourceRows,
    check_parts,
    fingerprint,
    matbench_folds,
    shuffled,
)
from crystalformers.errors import TableError

REFERENCE = {
    "jarvis__dft_3d_2021": ("jarvis-dft3d-2021", ""),
    "jarvis__dft_3d_2021-ehull": ("jarvis-dft3d-2021", "energy_above_hull"),
    "jarvis__dft_3d_2021-mbj_bandgap": ("jarvis-dft3d-2021", "band_gap_mbj"),
    "jarvis__megnet": ("megnet-2018", ""),
    "jarvis__oqmd_3d": ("oqmd-2021", ""),
    "jarvis__oqmd_3d-bandgap": ("oqmd-2021", "band_gap"),
}
"""What the reference calls a split, and the set and split here."""


def published(name: str, split: str) -> ShuffledSplit:
    """The entry of a split."""
    (found,) = [entry for entry in SETS[name].splits if entry.name == split]
    assert isinstance(found, ShuffledSplit)
    return found


def rows(n: int, **labelled: np.ndarray) -> SourceRows:
    return SourceRows(n, labelled, np.full(n, "", dtype="U5"))


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("jarvis-dft3d-2021", (44_578, 5_572, 5_572)),
        ("megnet-2018", (60_000, 5_000, 4_239)),
        ("oqmd-2021", (654_108, 81_763, 81_763)),
    ],
)
def test_the_rule_gives_the_published_rows(name: str, sizes: tuple[int, int, int]) -> None:
    split, n = published(name, ""), SETS[name].rows
    assert n is not None
    parts = split.parts(rows(n))
    check_parts(parts, n)
    assert tuple(map(len, parts.values())) == sizes
    assert split.published
    for part, sha256 in split.published.items():
        assert fingerprint(parts[part]) == sha256, part


def test_rows_without_a_label_are_dropped_before_the_shuffle() -> None:
    has = np.arange(50) % 4 != 1
    parts = ShuffledSplit(name="gap").parts(rows(50, gap=has))
    ids = [row for row in range(50) if has[row]]
    random.seed(123)
    random.shuffle(ids)
    n = len(ids)
    assert parts["train"].tolist() == ids[: int(0.8 * n)]
    assert parts["val"].tolist() == ids[-2 * int(0.1 * n) : -int(0.1 * n)]
    assert parts["test"].tolist() == ids[-int(0.1 * n) :]


@pytest.mark.shared
def test_the_catalogue_has_the_fingerprints_of_the_reference(shared: Path) -> None:
    reference = json.loads((shared / "data" / "published_splits" / "fingerprints.json").read_text())
    assert reference.keys() == REFERENCE.keys()
    for key, parts in reference.items():
        assert published(*REFERENCE[key]).published == {part: facts["sha256"] for part, facts in parts.items()}


@pytest.mark.shared
def test_the_authors_indices_are_those_of_the_rule(shared: Path) -> None:
    """Which rows lack a label is not known here, but where the authors' indices leave it open is.

    The rule draws positions among labelled rows. For the sets of JARVIS the authors' three parts hold all labelled rows
    but those that the rule leaves out, whose place is known; so position -> row can be filled in and must lead from
    each drawn position to the author's index. For OQMD they hold val and test: there the row must grow with the
    position, and lie behind it by no more rows than lack the label.
    """
    table = pq.read_table(shared / "data" / "published_splits" / "indices.parquet").to_pandas()
    seen = set()
    for (key, part), group in table.groupby(["dataset", "part"]):
        name, split = REFERENCE[key]
        assert fingerprint(group["index"].to_numpy()) == published(name, split).published[part]
        seen.add((key, part))
    assert len(seen) == 8
    for key in ("jarvis__dft_3d_2021-ehull", "jarvis__dft_3d_2021-mbj_bandgap"):
        theirs = {part: group["index"].to_numpy() for part, group in table[table.dataset == key].groupby("part")}
        used = np.sort(np.concatenate(list(theirs.values())))
        parts = shuffled(n := len(used) + 1)
        row = np.full(n, -1)
        row[np.isin(np.arange(n), np.concatenate(list(parts.values())))] = used
        for part, drawn in parts.items():
            np.testing.assert_array_equal(row[drawn], theirs[part])
    theirs = {p: g["index"].to_numpy() for p, g in table[table.dataset == "jarvis__oqmd_3d-bandgap"].groupby("part")}
    n = 816_735
    parts = shuffled(n)
    assert {part: len(parts[part]) for part in theirs} == {part: len(drawn) for part, drawn in theirs.items()}
    position = np.concatenate([parts["val"], parts["test"]])
    row = np.concatenate([theirs["val"], theirs["test"]])
    order = np.argsort(position)
    rank = (row - position)[order]
    assert (np.diff(rank) >= 0).all()
    assert rank[0] >= 0
    assert rank[-1] <= 817_636 - n


@pytest.mark.parametrize("n", [10, 636, 1_001])
def test_the_folds_are_those_of_scikit_learn(n: int) -> None:
    model_selection = pytest.importorskip("sklearn.model_selection")
    folds = model_selection.KFold(5, shuffle=True, random_state=18012019).split(np.arange(n))
    for fold, (train, test) in enumerate(folds):
        np.testing.assert_array_equal(np.flatnonzero(matbench_folds(n) == fold), test)
        parts = MatbenchFold(fold).parts(rows(n))
        check_parts(parts, n)
        np.testing.assert_array_equal(parts["test"], test)
        np.testing.assert_array_equal(np.sort(np.concatenate([parts["train"], parts["val"]])), train)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["matbench_perovskites", "matbench_phonons"])
def test_the_folds_are_the_official_ones(shared: Path, name: str) -> None:
    table = pq.read_table(shared / "data" / f"{name}.parquet", columns=["id", "matbench_fold"]).to_pandas()
    assert len(table) == SETS[name].rows
    assert table["id"].is_monotonic_increasing
    np.testing.assert_array_equal(matbench_folds(len(table)), table["matbench_fold"].to_numpy())


def test_foreign_splits_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TableError, match="9 rows cannot be split into 7 for train, 0 for val and 0 for test"):
        shuffled(9)
    with pytest.raises(TableError, match="5000 rows cannot be split into 60000"):
        published("megnet-2018", "").parts(rows(5_000))
    with pytest.raises(TableError, match="too few for 5 folds"):
        MatbenchFold(0).parts(rows(9))
    divided = SourceRows(3, {}, np.array(["train", "train", "test"]))
    assert DividedSource().parts(divided)["val"].size == 0
    with pytest.raises(TableError, match="published are"):
        DividedSource((2, 1, 1)).parts(divided)
    good = {"train": np.array([0, 2]), "val": np.array([1]), "test": np.array([3])}
    check_parts(good, 4)
    with pytest.raises(TableError, match="names row 3, there are 3 rows"):
        check_parts(good, 3)
    with pytest.raises(TableError, match="names row -1"):
        check_parts({**good, "val": np.array([-1])}, 4)
    with pytest.raises(TableError, match="names row 2 more than once"):
        check_parts({**good, "val": np.array([2])}, 4)
