"""Steps that tests of data sets share."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from host import Host, Page
from miniatures import optimade_attributes, pymatgen_dict
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


def optimade_pages(host: Host, count: int, size: int, fields: Sequence[str] = ("_x_gap",)) -> None:
    """An API of so many structures, whose properties `fields` are half their number."""
    entries = []
    for k, crystal in enumerate(many(count)):
        attributes = optimade_attributes(crystal) | dict.fromkeys(fields, 0.5 * k)
        entries.append({"id": f"e{k}", "type": "structures", "attributes": attributes})
    for start in range(0, count, size):
        following = f"{host.url}/pbe/v1/structures/page{start + size}" if start + size < count else None
        link = {"href": following} if following and start else following  # both forms are allowed
        body = {"data": entries[start : start + size], "links": {"next": link}, "meta": {"data_returned": count}}
        path = f"/pbe/v1/structures/page{start}" if start else "/pbe/v1/structures"
        host.pages[path] = Page(json.dumps(body).encode(), content_type="application/vnd.api+json")


MP_KEY = "my key"
"""What the player of the Materials Project's client takes for the key."""

MP_CLIENT = """
from types import SimpleNamespace
import json, os
documents = json.load(open(os.environ["DOCUMENTS"]))
class MPRester:
    def __init__(self, key):
        assert key == os.environ["MP_API_KEY"] == "my key"
        self.materials = SimpleNamespace(summary=self)
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def search(self, material_ids=None, fields=()):
        found = [d for d in documents if material_ids is None or d["material_id"] in material_ids]
        keep = lambda d: {k: d[k] for k in fields if k != "structure"}
        made = lambda d: {"structure": SimpleNamespace(as_dict=lambda: d["structure"])} if "structure" in fields else {}
        return [SimpleNamespace(**keep(d), **made(d)) for d in found]
"""


def play_materials_project(monkeypatch: pytest.MonkeyPatch, folder: Path, count: int) -> None:
    """Let a module of our own be the client of the Materials Project; labels are a tenth of the number."""
    package = folder / "packages" / "mp_api"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "client.py").write_text(MP_CLIENT)
    names = ("formation_energy_per_atom", "band_gap", "energy_above_hull")
    documents = [
        {"material_id": f"mp-{k}", "structure": pymatgen_dict(crystal), **dict.fromkeys(names, 0.1 * k)}
        for k, crystal in enumerate(many(count))
    ]
    (folder / "documents.json").write_text(json.dumps(documents))
    for name in ("mp_api", "mp_api.client"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(folder / "packages")
    monkeypatch.setenv("DOCUMENTS", str(folder / "documents.json"))
    monkeypatch.setenv("MP_API_KEY", MP_KEY)
