"""LeMat-Bulk, from the client of its hub, and its lattice vectors as rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from fetching import fetched, same_crystals
from host import Host, Page, visible
from miniatures import (
    lemat_parquet,
)
from samples import rock_salt

from crystalformers import open_table
from crystalformers.crystal import Crystal
from crystalformers.data.sets import Store, find, resolve
from crystalformers.data.sets.axes import shortest_distance, vectors_are_columns
from crystalformers.errors import DataSetError


def lemat(monkeypatch: pytest.MonkeyPatch, host: Host, content: bytes, functional: str = "pbe") -> None:
    """Let the hub's client talk to the host."""
    import hashlib

    path = f"compatible_{functional}/train-00000-of-00001.parquet"
    api = "/api/datasets/LeMaterial/LeMat-Bulk"
    entry = {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": "0" * 40,
        "lfs": {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100},
    }
    info = {"id": "LeMaterial/LeMat-Bulk", "sha": "c" * 40, "siblings": [], "private": False, "tags": []}
    kind = "application/json"
    host.pages[f"{api}/revision/main"] = Page(json.dumps(info).encode(), content_type=kind)
    host.pages[f"{api}/tree/{'c' * 40}/compatible_{functional}"] = Page(json.dumps([entry]).encode(), content_type=kind)
    host.pages[f"/datasets/LeMaterial/LeMat-Bulk/resolve/{'c' * 40}/{path}"] = Page(content)
    for module in ("huggingface_hub.constants", "huggingface_hub.hf_api", "huggingface_hub.file_download"):
        for name in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
            old = getattr(sys.modules.get(module) or __import__(module, fromlist=["x"]), name, None)
            if isinstance(old, str):
                monkeypatch.setattr(f"{module}.{name}", old.replace("https://huggingface.co", host.url))


def test_lemat_bulk(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    content = lemat_parquet(12)
    lemat(monkeypatch, host, content)
    table = fetched(store, find("lemat-bulk"))
    same_crystals(table, 12)
    np.testing.assert_array_equal(table.labels("energy"), -10.0 * np.arange(12))
    assert resolve("lemat-bulk").labels["energy"].basis == "per_cell"
    assert table.split is None
    # The hub states the hash of every file.
    store.remove("lemat-bulk")
    pages = [page for path, page in host.pages.items() if path.endswith(".parquet")]
    pages[0].content = content[:-1] + b"x"
    with pytest.raises(DataSetError, match=r"published is \w{64}"):
        store.get(find("lemat-bulk"))


def skewed(count: int) -> list[Crystal]:
    """Rock salt of many lattices, in cells whose matrix is not symmetric."""
    shear = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]])
    found = []
    for k in range(count):
        base = rock_salt(a=4.5 + 0.05 * k)
        frac = base.frac_coords @ np.linalg.inv(shear)
        found.append(Crystal(base.numbers, frac, shear @ base.lattice, f"x{k}"))
    return found


def test_lemat_bulk_has_lattice_vectors_as_rows(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Volumes and distances come back; a file with the vectors as columns is refused, with volumes that would fit."""
    pytest.importorskip("huggingface_hub")
    made = skewed(15)
    lemat(monkeypatch, host, lemat_parquet(15, made))
    table = fetched(store, find("lemat-bulk"))
    for found, crystal in zip(table, made, strict=True):
        assert found.volume == pytest.approx(crystal.volume)
        assert shortest_distance(found) == pytest.approx(np.cbrt(crystal.volume * 4) / 2)
    store.remove("lemat-bulk", forget=True)
    lemat(monkeypatch, host, lemat_parquet(15, made, columns=True))
    with pytest.raises(DataSetError, match="the lattice vectors of its first rows are the columns"):
        store.get(find("lemat-bulk"))
    assert visible(store.root) == []


def test_rows_or_columns_of_a_lattice() -> None:
    made = skewed(15)
    turned = [Crystal.from_positions(c.numbers, c.positions, c.lattice.T) for c in made]
    assert not vectors_are_columns(made)
    assert vectors_are_columns(turned)
    assert not vectors_are_columns(turned[:5]), "too few to tell"
    assert not vectors_are_columns([rock_salt()] * 20), "a symmetric matrix tells nothing"


@pytest.mark.shared
def test_real_crystals_tell_rows_from_columns(shared: Path) -> None:
    table = open_table(shared / "data" / "mp36k.parquet")
    real = [table[row] for row in range(0, 6000, 20)]
    assert not vectors_are_columns(real)
    assert vectors_are_columns(Crystal.from_positions(c.numbers, c.positions, c.lattice.T) for c in real)
