"""Sources with rows that cannot be used, and sources that are not what they should be."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
from fetching import fetched, optimade_pages, rejected
from host import Host, visible
from miniatures import (
    jarvis,
    jarvis_atoms,
    jarvis_rows,
    modulus_pickles,
    play,
    zipped,
    zipped_json,
)
from samples import rock_salt

from crystalformers.data.sets import Store
from crystalformers.data.sets.catalogue import optimade
from crystalformers.data.sets.sources import Optimade
from crystalformers.data.sets.splits import shuffled
from crystalformers.errors import DataSetError, TableError


def test_bad_rows_are_listed_and_never_lose_the_good_ones(host: Host, store: Store) -> None:
    rows = jarvis_rows(40)
    rows[3]["atoms"]["elements"][0] = "Xx"
    rows[4]["atoms"]["coords"] = [[0, 0, 0]] * len(rows[4]["atoms"]["coords"])
    rows[5]["atoms"] = None
    rows[6]["atoms"]["lattice_mat"] = [[1, 0, 0], [2, 0, 0], [0, 0, 1]]
    rows[8]["atoms"]["coords"].append([0, 0, 0])
    rows[9]["atoms"] |= jarvis_atoms(rock_salt(a=0.01))
    rows[7]["jid"] = "JVASP-1"
    rows[12]["atoms"]["coords"][0] = [0, 0, 10**400]
    rows[10]["optb88vdw_bandgap"] = "metal"
    rows[11]["optb88vdw_bandgap"] = True
    dataset = play(host, "jarvis-dft3d-2021", [zipped_json("jdft_3d-8-18-2021.json", rows)], 40)
    table = fetched(store, dataset)
    listed = rejected(store, dataset.name)
    assert [int(row["source_row"]) for row in listed if not row["column"]] == [3, 4, 5, 6, 8, 9, 12]
    assert [(row["source_row"], row["column"]) for row in listed if row["column"]] == [
        ("10", "band_gap"),
        ("11", "band_gap"),
    ]
    assert "'metal' is not a number" in listed[-2]["problem"]
    assert all(row["problem"] for row in listed)
    assert len(table) == 33
    assert table.check_rows() == {}
    assert table.ids[1] == "JVASP-1#1"
    assert "JVASP-1#7" in table.ids
    # The split is that of all rows of the source.
    rows_of_table = table.labels("source_row").astype(int)
    assert table.split is not None
    for part, members in shuffled(40).items():
        assert sorted(r for r, name in zip(rows_of_table, table.split, strict=True) if name == part) == sorted(
            set(members) & set(rows_of_table)
        )
    about = store.about(dataset.name)
    assert about is not None
    assert (about["source_rows"], about["rows"]) == (40, 33)


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b'[{"jid": 1, "atoms": ', "broken or ends too early"),
        (b"[] x", "more after the end"),
        (b"7", "neither a JSON array nor an object"),
        (b"[1, 2]", "a row is not an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff\xfe[]", "broken"),
        (b"[]", "holds 0 rows, published are 40"),
        (json.dumps(jarvis_rows(39)).encode(), "holds 39 rows, published are 40"),
        (json.dumps([{"jid": str(k)} for k in range(40)]).encode(), "not one of 40 rows can be used"),
    ],
)
def test_a_source_that_is_not_the_published_one(host: Host, store: Store, content: bytes, phrase: str) -> None:
    dataset = play(host, "jarvis-dft3d-2021", [zipped("jdft_3d-8-18-2021.json", content)], 40)
    with pytest.raises(DataSetError, match=phrase):
        store.get(dataset)
    assert visible(store.root) == []
    assert store.about(dataset.name) is None
    assert len(fetched(store, jarvis(host, 40))) == 40  # no hash of the broken file is in the way


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b'{"columns": ["a", "b"], "index": [0], "data": [[1, 2]]}', "no column 'structure'"),
        (b'{"columns": ["structure", "last phdos peak"], "index": [0], "data": [7]}', "a row is not a list"),
    ],
)
def test_another_table_than_matbench(host: Host, store: Store, content: bytes, phrase: str) -> None:
    with pytest.raises(DataSetError, match=phrase):
        store.get(play(host, "matbench_phonons", [gzip.compress(content)], 1))
    assert visible(store.root) == []


def test_an_optimade_page_of_something_else(host: Host, store: Store) -> None:
    optimade_pages(host, 1, 1)
    host.pages["/pbe/v1/structures"].content = b'{"data": [{"id": "a", "attributes": "none"}]}'
    with pytest.raises(DataSetError, match="a row is not an object"):
        store.get(optimade("mine", Optimade(f"{host.url}/pbe", ("_x_gap",))))
    assert visible(store.root) == []


def test_a_part_of_another_size_than_published(host: Host, store: Store) -> None:
    dataset = play(host, "megnet-bulk", modulus_pickles(20, "bulk"), 20)
    dataset = replace(dataset, splits=(type(dataset.splits[0])((12, 5, 3)),))
    with pytest.raises(TableError, match=r"hold \(12, 4, 4\) rows, published are \(12, 5, 3\)"):
        store.get(dataset)
    assert store.about("megnet-bulk") is None
