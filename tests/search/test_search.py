"""Search: the neighbours of brute force, with filters, from any input."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
from command import invoke
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import CELL_ENERGY, ENERGY, many, rock_salt, supercell, tiny_model, write_poscar, write_table

from crystalformers.errors import ConfigError, StructureError, TableError
from crystalformers.prediction.loading import load_model
from crystalformers.search import Index, build_index
from crystalformers.search.nearest import VECTORS, Neighbours, write_projections

CRYSTALS = many(40)


def neighbours(folder: Path, vectors: np.ndarray) -> Neighbours:
    (folder / VECTORS).write_bytes(vectors.astype(np.float32).tobytes())
    write_projections(folder, vectors.shape[1])
    return Neighbours(folder)


@settings(deadline=None)  # it writes files, which may take any time
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 5, 300, 3000]),
    st.sampled_from([1, 8, 64]),
    st.integers(1, 40),
    st.sampled_from([1e-6, 1.0, 1e4]),
    st.booleans(),
)
def test_the_nearest_are_those_of_brute_force(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, width: int, k: int, offset: float, some: bool
) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(count, width)) * rng.exponential(size=width) + offset).astype(np.float32)
    vectors[count // 2 :] = vectors[: count - count // 2]  # each twice
    rows = np.flatnonzero(rng.random(count) < 0.3) if some else None
    found = neighbours(tmp_path_factory.mktemp("index"), vectors)
    point = vectors[rng.integers(count)] + rng.normal(size=width).astype(np.float32) * rng.choice([0.0, 0.1, 3.0])
    with patch("crystalformers.search.nearest.SAMPLE", 16), patch("crystalformers.search.nearest.FIRST", 4):
        chosen, distances = found.nearest(point.astype(np.float32), k, rows)
    allowed = np.arange(count) if rows is None else rows
    all_of_them = np.linalg.norm(vectors[allowed].astype(float) - point.astype(np.float32), axis=1)
    assert distances == pytest.approx(np.sort(all_of_them)[:k], rel=1e-9, abs=1e-12)
    assert len(chosen) == min(k, len(allowed)) == len(set(chosen.tolist()))
    assert set(chosen.tolist()) <= set(allowed.tolist())
    assert np.linalg.norm(vectors[chosen].astype(float) - point.astype(np.float32), axis=1) == pytest.approx(distances)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", (ENERGY, CELL_ENERGY))


@pytest.fixture(scope="module")
def index(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    table = write_table(folder / "many.parquet", CRYSTALS)
    assert build_index([table], folder / "index", str(weights)) == (40, 0)
    return folder / "index"


def test_a_crystal_finds_itself_and_its_supercell(weights: Path, index: Path) -> None:
    opened = Index(index)
    for crystal in CRYSTALS[::7]:
        for asked in (crystal, supercell(crystal, 2)):
            found = opened.query(asked, 3)
            assert found["distance"][0].as_py() == pytest.approx(0, abs=1e-5)
            assert crystal.name in found["name"].to_pylist()[:2]
    assert opened.query(CRYSTALS[0], 100).num_rows == 40


def test_properties_are_those_of_the_model(weights: Path, index: Path) -> None:
    table = Index(index).table
    values = load_model(weights).values(CRYSTALS)
    assert np.stack([table["energy"], table["cell_energy"]], axis=1) == pytest.approx(values, rel=1e-5)


def test_filters(index: Path) -> None:
    opened = Index(index)
    everything = opened.query(CRYSTALS[0], 40).to_pylist()
    middle = sorted(row["energy"] for row in everything)[20]

    def names(rows: list[dict[str, object]]) -> list[object]:
        return [row["name"] for row in rows]

    found = opened.query(CRYSTALS[0], 5, where=f"energy > {middle!r} and n_atoms < 8").to_pylist()
    assert names(found) == names([row for row in everything if row["energy"] > middle and row["n_atoms"] < 8])[:5]
    found = opened.query(CRYSTALS[0], 40, formula="OMg").to_pylist()
    assert names(found) == names([row for row in everything if row["formula"] == "MgO"]) != []
    found = opened.query(CRYSTALS[0], 40, elements=["O", "S"]).to_pylist()
    assert names(found) == names([row for row in everything if row["elements"] == " O S "]) != []
    assert opened.query(CRYSTALS[0], 5, elements=["Xe"]).num_rows == 0


def test_a_filter_that_makes_no_sense_is_refused(index: Path) -> None:
    opened = Index(index)
    with pytest.raises(ConfigError, match="there is no column 'gap'; the columns are n_atoms, energy, cell_energy"):
        opened.query(CRYSTALS[0], where="gap > 1")
    with pytest.raises(ConfigError, match="'x!' is no formula"):
        opened.query(CRYSTALS[0], formula="x!")
    with pytest.raises(StructureError, match="'Q' is not an element"):
        opened.query(CRYSTALS[0], elements=["Q"])


def test_the_command(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("Na", "K", "Rb"):
        write_poscar(folder / f"{name}.vasp", rock_salt(name))
    (folder / "bad.vasp").write_text("nothing")
    result = invoke("search", "build", folder, "-o", tmp_path / "index", "-m", weights)
    assert result.exit_code == 1
    assert "index: 3 crystals." in result.stderr
    assert pq.read_table(tmp_path / "index" / "rejected.parquet")["name"].to_pylist() == [f"{folder}/bad.vasp"]
    result = invoke("search", "query", folder / "K.vasp", "--index", tmp_path / "index", "--device", "gpu")
    assert "'gpu' is unknown" in result.stderr
    result = invoke("search", "query", folder / "K.vasp", "--index", tmp_path / "index", "-k", 2, "--threads", 1)
    assert result.exit_code == 0
    header, first, second = result.stdout.splitlines()
    assert header.split()[:4] == ["distance", "name", "formula", "atoms"]
    assert first.split()[1:4] == [f"{folder}/K.vasp", "KCl", "2"]
    assert float(first.split()[0]) == pytest.approx(0, abs=1e-5)
    assert float(second.split()[0]) > 0
    result = invoke("search", "query", folder / "K.vasp", "--index", tmp_path / "index", "--elements", "Na,Cl")
    assert [line.split()[2] for line in result.stdout.splitlines()[1:]] == ["NaCl"]


def test_what_a_service_shows_names_no_folder(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write_poscar(folder / "K.vasp", rock_salt("K"))
    (folder / "two.extxyz").write_text('1\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 0 0\n' * 2)
    table = write_table(tmp_path / "table.parquet", [rock_salt("Li", name="a/b")])
    build_index([folder, table], tmp_path / "index", str(weights))
    (found,) = Index(tmp_path / "index").search([rock_salt("K")], 4)
    assert sorted(row["name"] for row in found) == ["K.vasp", "a/b", "two.extxyz#0", "two.extxyz#1"]


def test_structures_are_part_of_the_index(index: Path) -> None:
    opened = Index(index)
    found = opened.query(CRYSTALS[3], 40)
    by_name = {crystal.name: crystal for crystal in CRYSTALS}
    for name, crystal in zip(found["name"].to_pylist(), opened.crystals(found), strict=True):
        assert crystal.name == name
        for attribute in ("numbers", "frac_coords", "lattice"):
            assert np.array_equal(getattr(crystal, attribute), getattr(by_name[name], attribute))
    assert opened.crystals(opened.query(CRYSTALS[0], elements=["Xe"])) == []


def test_the_structures_are_drawn_side_by_side(index: Path, tmp_path: Path) -> None:
    structure, picture = write_poscar(tmp_path / "K.vasp", rock_salt("K")), tmp_path / "found.svg"
    command = ["search", "query", structure, "--index", index, "-k", 6, "--picture", picture]
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "found.svg: 7 structures." in result.stderr
    drawn = picture.read_text(encoding="utf-8")
    titles = re.findall("<!-- (.*?) -->", drawn, re.DOTALL)  # matplotlib writes each text as a comment
    assert sum("looked for" in title for title in titles) == 1
    names = [name for title in titles for name in re.findall(r"^x\d+$", title, re.MULTILINE)]
    assert names == Index(index).query(rock_salt("K"), 6)["name"].to_pylist()
    assert "exists" in invoke(*command).stderr
    assert invoke(*command, "--overwrite").exit_code == 0
    missing = invoke(*command[:-1], tmp_path / "found.txt")
    assert missing.exit_code == 2
    assert "must end in .png or .svg or .pdf" in missing.stderr


def test_an_index_without_structures_says_so(index: Path, tmp_path: Path) -> None:
    shutil.copytree(index, tmp_path / "old")
    (tmp_path / "old" / "structures.arrow").unlink()
    opened = Index(tmp_path / "old")
    with pytest.raises(ConfigError, match="it holds no structures; make it again"):
        opened.crystals(opened.query(CRYSTALS[0], 2))


def test_what_cannot_be_done_leaves_nothing(weights: Path, index: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.vasp").write_text("nothing")
    with pytest.raises(TableError, match="no crystals to search"):
        build_index([tmp_path / "bad.vasp"], tmp_path / "index", str(weights))
    with pytest.raises(ConfigError, match="it exists"):
        build_index([tmp_path / "bad.vasp"], index, str(weights))
    with pytest.raises(ConfigError, match="it is no index"):
        Index(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.vasp"]
