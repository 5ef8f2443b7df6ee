"""Every published format, in miniature: fetched from a host of ours, converted, split, opened as a table."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from host import Host, Page, visible
from miniatures import (
    jarvis,
    jarvis_atoms,
    jarvis_rows,
    lemat_parquet,
    matbench_gzip,
    megnet_rows,
    modulus_pickles,
    optimade_attributes,
    oqmd_rows,
    play,
    pymatgen_dict,
    zipped,
    zipped_json,
)
from samples import many, rock_salt

from crystalformers import open_table
from crystalformers.crystal import Crystal
from crystalformers.data.sets import DataSet, Store, find, resolve
from crystalformers.data.sets.axes import shortest_distance, vectors_are_columns
from crystalformers.data.sets.catalogue import optimade
from crystalformers.data.sets.entry import Request
from crystalformers.data.sets.sources import Optimade
from crystalformers.data.sets.splits import fingerprint, matbench_folds, shuffled
from crystalformers.data.table import CrystalTable
from crystalformers.errors import DataSetError, TableError


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


def test_jarvis(host: Host, store: Store) -> None:
    table = fetched(store, jarvis(host, 40))
    same_crystals(table, 40)
    assert table.ids[:2] == ["JVASP-0", "JVASP-1"]
    gap = table.labels("band_gap_mbj")
    np.testing.assert_array_equal(np.isnan(gap), np.arange(40) % 3 == 0)
    assert gap[4] == 5.5
    assert table.labels("total_energy_per_atom")[0] == -3.0
    assert table.labels("n_seebeck")[1] == -101.0
    assert "bulk_modulus" not in table.columns  # 'na' in every row
    assert table.split is not None
    parts = shuffled(40)
    for part, rows in parts.items():
        assert {table.split[row] for row in rows} == {part}
    assert table.split.count("unused") == 40 - sum(map(len, parts.values()))


def test_a_label_with_gaps_has_a_split_of_its_own(host: Host, store: Store) -> None:
    store.get(jarvis(host, 40))
    found = resolve("jarvis-dft3d-2021")
    assert found.splits == ("energy_above_hull", "band_gap_mbj")
    assert found.split_for(["band_gap_mbj"]) == "band_gap_mbj"
    assert found.split_for(["band_gap"]) == ""
    assert found.split_for(["band_gap_mbj", "band_gap"]) == ""
    assert found.labels["band_gap_mbj"].unit == "eV"
    assert found.labels["formation_energy_per_atom"].basis == "per_atom"
    table = open_table("jarvis-dft3d-2021", split="band_gap_mbj")
    assert table.split is not None
    labelled = np.flatnonzero(~np.isnan(table.labels("band_gap_mbj")))
    parts = {part: labelled[rows] for part, rows in shuffled(len(labelled)).items()}
    for part, rows in parts.items():
        assert [row for row, name in enumerate(table.split) if name == part] == sorted(rows)
    about = store.about("jarvis-dft3d-2021")
    assert about is not None
    test = about["splits"]["split_band_gap_mbj"]["test"]
    assert test["sha256"] == fingerprint(parts["test"])
    with pytest.raises(TableError, match="there is no column 'split_gap'"):
        _ = open_table("jarvis-dft3d-2021", split="gap").split


def test_megnet(host: Host, store: Store) -> None:
    dataset = play(host, "megnet-2018", [zipped_json("megnet.json", megnet_rows(30))], 30)
    table = fetched(store, dataset)
    same_crystals(table, 30)
    np.testing.assert_array_equal(table.labels("formation_energy_per_atom"), -0.5 - np.arange(30))
    assert table.labels("band_gap")[3] == pytest.approx(0.3)


def test_oqmd(host: Host, store: Store) -> None:
    table = fetched(store, play(host, "oqmd-2021", [zipped_json("all_oqmd.json", oqmd_rows(40))], 40))
    same_crystals(table, 40)
    np.testing.assert_array_equal(np.isnan(table.labels("band_gap")), np.isin(np.arange(40) % 10, (2, 5)))
    gap_split = open_table("oqmd-2021", split="band_gap").split
    assert gap_split is not None
    assert [gap_split[k] for k in (2, 5, 12)] == ["unused"] * 3


@pytest.mark.parametrize("kind", ["bulk", "shear"])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_moduli(host: Host, store: Store, kind: str, protocol: int) -> None:
    table = fetched(store, play(host, f"megnet-{kind}", modulus_pickles(20, kind, protocol), 20))
    same_crystals(table, 20)
    np.testing.assert_allclose(table.labels(f"log10_{kind}_modulus"), 1 + 0.01 * np.arange(20))
    assert table.split == ["train"] * 12 + ["val"] * 4 + ["test"] * 4


def test_matbench(host: Host, store: Store) -> None:
    dataset = play(host, "matbench_phonons", [matbench_gzip("last phdos peak", 25)], 25)
    table = fetched(store, dataset)
    same_crystals(table, 25)
    assert table.ids[0] == "mb-phonons-0001"
    np.testing.assert_array_equal(table.labels("last_phdos_peak"), 100.0 + np.arange(25))
    folds = matbench_folds(25)
    assert table.split == open_table("matbench_phonons", split="fold_0").split
    for fold in range(5):
        split = open_table("matbench_phonons", split=f"fold_{fold}").split
        assert split is not None
        np.testing.assert_array_equal(np.array(split) == "test", folds == fold)
        assert split.count("val") == 2


def lemat(monkeypatch: pytest.MonkeyPatch, host: Host, content: bytes) -> None:
    """Let the hub's client talk to the host."""
    import hashlib

    path = "compatible_pbe/train-00000-of-00001.parquet"
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
    host.pages[f"{api}/tree/{'c' * 40}/compatible_pbe"] = Page(json.dumps([entry]).encode(), content_type=kind)
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


def cif_text(crystal: Crystal) -> str:
    """A CIF file without symmetry."""
    a, b, c = np.linalg.norm(crystal.lattice, axis=1)
    unit = crystal.lattice / np.array([[a], [b], [c]])
    angles = np.degrees(np.arccos([unit[1] @ unit[2], unit[0] @ unit[2], unit[0] @ unit[1]]))
    lines = ["data_x", *(f"_cell_length_{x} {v:.12f}" for x, v in zip("abc", (a, b, c), strict=True))]
    lines += [f"_cell_angle_{x} {v:.12f}" for x, v in zip(("alpha", "beta", "gamma"), angles, strict=True)]
    lines += ["loop_", "_symmetry_equiv_pos_as_xyz", "'x, y, z'", "loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{x}" for x in "xyz"]
    for k, (symbol, frac) in enumerate(zip(crystal.symbols, crystal.frac_coords, strict=True)):
        lines.append(f"{symbol}{k} {symbol} " + " ".join(f"{x:.12f}" for x in frac))
    return "\n".join(lines) + "\n"


def perovskites(path: Path, count: int = 20) -> Path:
    """A zip of CIF files in a folder, with one that is missing and one that cannot be read."""
    table = "".join(f"h{k},{-0.5 * k},{'na' if k == 4 else 0.1 * k}\n" for k in range(count + 2))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hoip/id_prop.csv", table)
        for k, crystal in enumerate(many(count)):
            archive.writestr(f"hoip/h{k}.cif", cif_text(crystal))
        archive.writestr(f"hoip/h{count}.cif", "data_x\n")
    return path


def test_hybrid_perovskites(store: Store, tmp_path: Path) -> None:
    dataset = find("hybrid-perovskites")
    with pytest.raises(DataSetError, match=r"no address is known for this set.*pass with --from a zip"):
        store.get(dataset)
    given = perovskites(tmp_path / "mine.zip")
    store.get(dataset, Request(store.folder(dataset.name), (given,)))
    table = open_table(dataset.name)
    assert table.ids == [f"h{k}" for k in range(20)]
    for found, made in zip(table, many(20), strict=True):
        assert found.symbols == made.symbols
        assert found.volume == pytest.approx(made.volume)
        assert shortest_distance(found) == pytest.approx(shortest_distance(made))
    np.testing.assert_array_equal(table.labels("formation_energy_per_atom"), -0.5 * np.arange(20))
    assert np.isnan(table.labels("band_gap")[4])
    problems = [row["problem"] for row in rejected(store, dataset.name)]
    assert problems[0].startswith("hybrid-perovskites row 20 (h20): h20: the CIF lists no atoms")
    assert "the archive holds no CIF file for it" in problems[1]
    assert store.verify(dataset.name) == []
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("../id_prop.csv", "h0,1,2\n")
    with pytest.raises(DataSetError, match="a path that leads out of its folder"):
        store.get(dataset, Request(store.folder(dataset.name), (tmp_path / "out.zip",)), again=True)


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


CLIENT = """
from types import SimpleNamespace
import json, os
documents = json.load(open(os.environ["DOCUMENTS"]))
class MPRester:
    def __init__(self, key):
        assert key == "my key"
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


def test_materials_project(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client is played by a module of the same name."""
    dataset = find("materials-project")
    monkeypatch.setitem(sys.modules, "mp_api", None)
    with pytest.raises(DataSetError, match=r"pip install crystalformers\[mp\]"):
        store.get(dataset)
    monkeypatch.delitem(sys.modules, "mp_api")
    package = tmp_path / "packages" / "mp_api"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "client.py").write_text(CLIENT)
    names = ("formation_energy_per_atom", "band_gap", "energy_above_hull")
    documents = [
        {"material_id": f"mp-{k}", "structure": pymatgen_dict(crystal), **dict.fromkeys(names, 0.1 * k)}
        for k, crystal in enumerate(many(7))
    ]
    (tmp_path / "documents.json").write_text(json.dumps(documents))
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.setenv("DOCUMENTS", str(tmp_path / "documents.json"))
    monkeypatch.setattr("crystalformers.data.sets.sources.DOCUMENTS_AT_ONCE", 3)
    monkeypatch.delenv("MP_API_KEY", raising=False)
    with pytest.raises(DataSetError, match="MP_API_KEY is not set"):
        store.get(dataset)
    monkeypatch.setenv("MP_API_KEY", "my key")
    table = fetched(store, dataset)
    same_crystals(table, 7)
    assert table.labels("band_gap")[5] == pytest.approx(0.5)


# What cannot be used


def rejected(store: Store, name: str) -> list[dict[str, str]]:
    """The side file of a set."""
    with (store.folder(name) / "rejected.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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


# Memory


def test_conversion_takes_memory_that_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Ten times as many rows in OQMD's format: the peak memory of a fresh process stays where it was."""
    code = """
import json, random, resource, sys, zipfile
from dataclasses import replace
from pathlib import Path
sys.path[:0] = ["tests", "tests/data/sets"]
from miniatures import oqmd_rows, small
from crystalformers.data.sets import find
from crystalformers.data.sets import convert
convert.GROUP_ROWS = convert.BATCH_ROWS
rows = [json.dumps({**row, "other": [random.random() for _ in range(300)]}) for row in oqmd_rows(200)]
folder, count = Path(sys.argv[1]), int(sys.argv[2])
archive = folder / "all_oqmd.json.zip"
with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out, out.open("all_oqmd.json", "w") as file:
    for k in range(count):
        file.write(("[" if k == 0 else ", ").encode() + rows[k % 200].replace("1000", str(k), 1).encode())
    file.write(b"]")
dataset = find("oqmd-2021")
dataset = replace(dataset, rows=count, splits=tuple(map(small, dataset.splits)))
done = convert.convert(dataset, [archive], folder, lambda _: None)
print(done["rows"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peaks = {}
    for count in (2_000, 20_000):
        folder = tmp_path / str(count)
        folder.mkdir()
        command = [sys.executable, "-c", code, str(folder), str(count)]
        root = Path(__file__).parents[3]
        result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root)
        rows, peaks[count] = map(int, result.stdout.split())
        assert rows == count
    assert peaks[20_000] - peaks[2_000] < 40, f"peak memory in MB by rows: {peaks}"
