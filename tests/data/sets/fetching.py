"""Steps that tests of data sets share."""

from __future__ import annotations

import csv
import json

import numpy as np
from host import Host, Page
from miniatures import (
    optimade_attributes,
)
from samples import many

from crystalformers import open_table
from crystalformers.data.sets import DataSet, Store
from crystalformers.data.table import CrystalTable


def fetched(store: Store, dataset: DataSet) -> CrystalTable:
    """The table of a set, opened by its name."""
    store.get(dataset)
    return open_table(dataset.name)


def same_crystals(table: CrystalTable, count: int) -> None:
    """The table holds the first `count` of `samples.many`, in order."""
    assert len(table) == count
    for found, made in zip(table, many(count), strict=True):
        assert found.symbols == made.symbols
        np.testing.assert_allclose(found.lattice, made.lattice, atol=1e-12)
        np.testing.assert_allclose(found.positions, made.positions, atol=1e-10)


def rejected(store: Store, name: str) -> list[dict[str, str]]:
    """The side file of a set."""
    with (store.folder(name) / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def optimade_pages(host: Host, count: int, size: int) -> None:
    """An API of so many structures."""
    entries = [
        {"id": f"e{k}", "type": "structures", "attributes": {**optimade_attributes(crystal), "_x_gap": 0.5 * k}}
        for k, crystal in enumerate(many(count))
    ]
    for start in range(0, count, size):
        following = f"{host.url}/pbe/v1/structures/page{start + size}" if start + size < count else None
        link = {"href": following} if following and start else following  # both forms are allowed
        body = {"data": entries[start : start + size], "links": {"next": link}, "meta": {"data_returned": count}}
        path = f"/pbe/v1/structures/page{start}" if start else "/pbe/v1/structures"
        host.pages[path] = Page(json.dumps(body).encode(), content_type="application/vnd.api+json")
