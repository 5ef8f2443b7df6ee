"""Structures of OPTIMADE providers and of the Materials Project, page by page."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fetching import MP_KEY, fetched, optimade_pages, play_materials_project, rejected, same_crystals
from host import Host, visible

from crystalformers import open_table
from crystalformers.data.sets import Store, find, resolve
from crystalformers.data.sets.catalogue import optimade
from crystalformers.data.sets.sources import Optimade
from crystalformers.errors import DataSetError


def test_optimade(host: Host, store: Store) -> None:
    optimade_pages(host, 25, 10)
    source = Optimade(f"{host.url}/pbe", ("_x_gap",), 'elements HAS "O"')
    table = fetched(store, optimade("mine", source))
    same_crystals(table, 25)
    np.testing.assert_array_equal(table.labels("_x_gap"), 0.5 * np.arange(25))
    assert "filter=elements+HAS+%22O%22" in host.asked[0][0]
    assert "response_fields=lattice_vectors%2C" in host.asked[0][0]
    assert resolve("mine").labels["_x_gap"].unit == ""
    store.remove("mine")
    table = fetched(store, optimade("mine", replace(source, limit=12)))
    same_crystals(table, 12)


@pytest.mark.parametrize("name", ["alexandria-pbe", "alexandria-pbesol", "oqmd-optimade"])
def test_known_providers(host: Host, store: Store, name: str) -> None:
    """Their fields become the labels of the set, with units; the address alone is ours."""
    dataset = find(name)
    assert isinstance(dataset.source, Optimade)
    optimade_pages(host, 12, 5)
    for path in [path for path in host.pages if path.startswith("/pbe/v1/structures")]:
        page = json.loads(host.pages[path].content)
        for k, entry in enumerate(page["data"]):
            entry["attributes"] |= {field: 0.5 + j + k for j, field in enumerate(dataset.source.fields)}
        host.pages[path].content = json.dumps(page).encode()
    table = fetched(store, replace(dataset, source=replace(dataset.source, base_url=f"{host.url}/pbe")))
    same_crystals(table, 12)
    for j, label in enumerate(dataset.labels):
        assert label.source_column in host.asked[0][0]
        assert table.labels(label.name)[2] == 2.5 + j
        assert resolve(name).labels[label.name].unit == label.unit != ""


def test_optimade_goes_on_at_the_page_where_it_ended(host: Host, store: Store) -> None:
    optimade_pages(host, 25, 10)
    last = host.pages.pop("/pbe/v1/structures/page20")
    dataset = optimade("mine", Optimade(f"{host.url}/pbe"))
    with pytest.raises(DataSetError, match="the server answers 404"):
        store.get(dataset)
    assert visible(store.root) == []
    with (store.folder("mine") / "source" / ".pages.jsonl.part").open("ab") as file:
        file.write(b'{"first": "torn')
    host.pages["/pbe/v1/structures/page20"] = last
    host.asked.clear()
    same_crystals(fetched(store, dataset), 25)
    assert [path for path, _ in host.asked] == ["/pbe/v1/structures/page20"]


def test_optimade_pages_of_another_request_are_not_taken_for_these(host: Host, store: Store) -> None:
    """Pages may be left when their conversion failed; a request for more, or for others, begins anew."""
    optimade_pages(host, 25, 10)
    for limit in (12, None, 15, 15):
        store.get(dataset := optimade("mine", Optimade(f"{host.url}/pbe", limit=limit, page_limit=10)))
        same_crystals(open_table("mine"), limit or 25)
        (store.folder("mine") / "about.json").unlink()
    asked = len(host.asked)
    store.get(dataset)  # but those of this one are
    assert len(host.asked) == asked == 2 + 3 + 2


def test_optimade_pages_in_a_circle(host: Host, store: Store) -> None:
    optimade_pages(host, 25, 10)
    host.pages["/pbe/v1/structures/page20"] = host.pages["/pbe/v1/structures/page10"]
    with pytest.raises(DataSetError, match="its pages lead in a circle"):
        store.get(optimade("mine", Optimade(f"{host.url}/pbe/v1/structures")))
    assert visible(store.root) == []


def test_optimade_structures_that_are_not_ordered_crystals(host: Host, store: Store) -> None:
    optimade_pages(host, 3, 10)
    page = json.loads(host.pages["/pbe/v1/structures"].content)
    page["data"][0]["attributes"]["dimension_types"] = [1, 1, 0]
    page["data"][1]["attributes"]["species"][0] |= {"chemical_symbols": ["Na", "K"], "concentration": [0.5, 0.5]}
    host.pages["/pbe/v1/structures"].content = json.dumps(page).encode()
    table = fetched(store, optimade("mine", Optimade(f"{host.url}/pbe")))
    assert table.ids == ["e2"]
    problems = [row["problem"] for row in rejected(store, "mine")]
    assert "not periodic" in problems[0]
    assert "disordered (Na 0.5 + K 0.5)" in problems[1]


def test_materials_project(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is played by a module of the same name."""
    dataset = find("materials-project")
    monkeypatch.setitem(sys.modules, "mp_api", None)
    with pytest.raises(DataSetError, match=r"needs the package mp-api; pip install 'crystalformers\[mp\]'"):
        store.get(dataset)
    monkeypatch.delitem(sys.modules, "mp_api")
    play_materials_project(monkeypatch, tmp_path, 7)
    monkeypatch.setattr("crystalformers.data.sets.sources.DOCUMENTS_AT_ONCE", 3)
    monkeypatch.delenv("MP_API_KEY")
    with pytest.raises(DataSetError, match="MP_API_KEY is not set"):
        store.get(dataset)
    monkeypatch.setenv("MP_API_KEY", MP_KEY)
    table = fetched(store, dataset)
    same_crystals(table, 7)
    assert table.labels("band_gap")[5] == pytest.approx(0.5)
