"""Splits of other people: taken if they fit, refused if they do not, compared with the published ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command import invoke
from host import Host
from miniatures import JARVIS, jarvis

from crystalformers import open_table
from crystalformers.data.sets import SETS, Store
from crystalformers.data.sets.foreign import published_as, read_split
from crystalformers.data.sets.splits import ShuffledSplit, fingerprint, shuffled
from crystalformers.errors import TableError


@pytest.fixture
def here(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """JARVIS-DFT of 40 rows, fetched, whose test rows have a published fingerprint."""
    dataset = jarvis(host)
    published = {"test": fingerprint(shuffled(40)["test"])}
    dataset = replace(dataset, splits=(ShuffledSplit(published=published), *dataset.splits[1:]))
    monkeypatch.setitem(SETS, JARVIS, dataset)
    store.get(dataset)
    return store


def write(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_split_that_fits(here: Store, tmp_path: Path) -> None:
    theirs = {part: rows.tolist() for part, rows in shuffled(40).items()}
    theirs["train"] = theirs["train"][:20]
    before = pq.read_table(here.table(JARVIS))
    result = invoke("data", "split", JARVIS, write(tmp_path / "theirs.json", theirs), "--name", "theirs")
    assert result.exit_code == 0, result.stderr
    train, val, test = result.stdout.splitlines()[1:]
    assert train.split()[:3] == ["train", "20", "20"]
    assert test.split()[-2:] == ["split", "test"]
    assert val.split()[3:] == [fingerprint(np.array(theirs["val"])), "-"]
    split = open_table(JARVIS, split="theirs").split
    assert split is not None
    for part, rows in theirs.items():
        assert [row for row, name in enumerate(split) if name == part] == sorted(rows)
    assert split.count("unused") == 40 - 28
    after = pq.read_table(here.table(JARVIS))
    assert after.drop_columns("split_theirs").equals(before)
    assert after.schema.field("band_gap").metadata == before.schema.field("band_gap").metadata
    assert here.verify(JARVIS) == []
    again = invoke("data", "split", JARVIS, tmp_path / "theirs.json", "--name", "theirs")
    assert "there is a split 'theirs' already" in again.stderr


def test_csv_says_the_same(tmp_path: Path) -> None:
    lines = "part,index\nvalid,3\ntrain,0\ntrain,2\ntest,1\n"
    parts = read_split(write(tmp_path / "a.csv", lines))
    assert {part: rows.tolist() for part, rows in parts.items()} == {"train": [0, 2], "val": [3], "test": [1]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"train": [0, 1], "val": [2], "test": [40]}, "the split names row 40, there are 40 rows"),
        ({"train": [0, 1], "val": [-1], "test": [3]}, "the split names row -1"),
        ({"train": [0, 1], "val": [1], "test": [3]}, "names row 1 more than once"),
        ({"train": [0, 1.5]}, "'train' is not a list of row numbers"),
        ({"train": [True]}, "'train' is not a list of row numbers"),
        ({"train": [10**400]}, "'train' is not a list of row numbers"),
        ({"learn": [0]}, "'learn' is none of train, val, test"),
        ({"val": [1], "validation": [2], "train": [0]}, "or is there twice"),
        ({"val": [1]}, "there are no rows for train"),
        ([0, 1], "the file holds a list"),
        ("{", "no split can be read"),
    ],
)
def test_a_split_that_does_not_fit(here: Store, tmp_path: Path, content: object, problem: str) -> None:
    before = here.table(JARVIS).read_bytes(), here.about(JARVIS)
    result = invoke("data", "split", JARVIS, write(tmp_path / "theirs.json", content), "--name", "theirs")
    assert result.exit_code == 2
    assert problem in result.stderr
    assert (here.table(JARVIS).read_bytes(), here.about(JARVIS)) == before
    assert not list(here.folder(JARVIS).glob(".convert-*"))


def test_a_name_that_leaves_the_table(here: Store, tmp_path: Path) -> None:
    path = write(tmp_path / "theirs.json", {"train": [0]})
    assert "a split cannot be called '../x'" in invoke("data", "split", JARVIS, path, "--name", "../x").stderr
    assert "it is not here" in invoke("data", "split", "megnet-2018", path, "--name", "x").stderr
    with pytest.raises(TableError, match="CSV with the columns part and index"):
        read_split(write(tmp_path / "bad.csv", "a,b\n1,2\n"))


@pytest.mark.shared
def test_the_authors_index_files_are_recognised(shared: Path, tmp_path: Path) -> None:
    """Written as a user would hand them over, each part of theirs is named as the published one it is."""
    table = pq.read_table(shared / "data" / "published_splits" / "indices.parquet").to_pandas()
    seen = 0
    for key, name, column in (
        ("jarvis__dft_3d_2021-ehull", JARVIS, "split_energy_above_hull"),
        ("jarvis__dft_3d_2021-mbj_bandgap", JARVIS, "split_band_gap_mbj"),
    ):
        theirs = {part: rows["index"].tolist() for part, rows in table[table.dataset == key].groupby("part")}
        for part, rows in read_split(write(tmp_path / f"{key}.json", theirs)).items():
            assert published_as(SETS[name], fingerprint(rows)) == f"{column} {part}"
            seen += 1
    assert seen == 6
