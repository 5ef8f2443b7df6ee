"""Tables as other programs write them: frames, Matbench, OPTIMADE, CGCNN, ASE; bad rows cost themselves only."""

from __future__ import annotations

import gzip
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import invoke
from samples import ENERGY, many, rock_salt, tiny_model, write_table

from crystalformers import Model, load_model, open_table, read_structures
from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError, TableError
from crystalformers.io import Rejected
from crystalformers.io.tables import TABLES

CRYSTALS = [rock_salt(name="salt"), rock_salt("Mg", "O", 4.2, "magnesia"), rock_salt("K", "Cl", 6.3, "sylvite")]
GAPS = [8.5, 7.8, float("nan")]


def structure_of(crystal: Crystal) -> Any:
    from pymatgen.core import Structure

    return Structure(crystal.lattice, crystal.symbols, crystal.frac_coords)


def atoms_of(crystal: Crystal) -> Any:
    from ase import Atoms

    return Atoms(crystal.numbers, positions=crystal.positions, cell=crystal.lattice, pbc=True)


def with_energy(atoms: Any) -> Any:
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms.calc = SinglePointCalculator(atoms, energy=-1.5 * len(atoms))
    return atoms


def cif_of(crystal: Crystal) -> str:
    from pymatgen.io.cif import CifWriter

    return str(CifWriter(structure_of(crystal), significant_figures=10))


def optimade_of(crystal: Crystal, **labels: Any) -> dict[str, Any]:
    symbols = crystal.symbols
    attributes = {
        "lattice_vectors": crystal.lattice.tolist(),
        "cartesian_site_positions": crystal.positions.tolist(),
        "species_at_sites": symbols,
        "species": [{"name": s, "chemical_symbols": [s], "concentration": [1.0]} for s in sorted(set(symbols))],
        "dimension_types": [1, 1, 1],
        "nsites": len(crystal),
        "chemical_formula_reduced": "ignored",
        **labels,
    }
    return {"id": crystal.name, "type": "structures", "attributes": attributes}


def missing(value: float) -> float | None:
    return None if np.isnan(value) else value


def write_matbench(folder: Path, crystals: list[Any]) -> Path:
    data = [[one, missing(gap)] for one, gap in zip(crystals, GAPS, strict=True)]
    content = {"columns": ["structure", "gap pbe"], "index": [0, 1, 2], "data": data}
    with gzip.open(folder / "matbench_gap.json.gz", "wt") as file:
        json.dump(content, file)
    return folder / "matbench_gap.json.gz"


def matbench(folder: Path) -> Path:
    return write_matbench(folder, [structure_of(crystal).as_dict() for crystal in CRYSTALS])


def optimade(folder: Path) -> Path:
    data = [optimade_of(one, **{"gap pbe": missing(gap)}) for one, gap in zip(CRYSTALS, GAPS, strict=True)]
    (folder / "answer.json").write_text(json.dumps({"data": data, "meta": {"data_returned": 3}, "links": {}}))
    return folder / "answer.json"


def database(folder: Path) -> Path:
    from ase.db import connect

    with connect(folder / "ase.db") as rows:
        for crystal, gap in zip(CRYSTALS, GAPS, strict=True):
            rows.write(with_energy(atoms_of(crystal)), **({} if np.isnan(gap) else {"gap_pbe": gap}))
    return folder / "ase.db"


def frames(folder: Path, name: str = "frames.extxyz") -> Path:
    import ase.io

    atoms = [with_energy(atoms_of(crystal)) for crystal in CRYSTALS]
    for one, crystal, gap in zip(atoms, CRYSTALS, GAPS, strict=True):
        one.info |= {"id": crystal.name, "vector": np.array([1, 2])} | ({} if np.isnan(gap) else {"gap": gap})
    ase.io.write(folder / name, atoms)
    return folder / name


def trajectory(folder: Path) -> Path:
    return frames(folder, "frames.traj")


def cgcnn(folder: Path) -> Path:
    for crystal in CRYSTALS:
        (folder / f"{crystal.name}.cif").write_text(cif_of(crystal))
    lines = [f"{one.name},{'' if np.isnan(gap) else gap}" for one, gap in zip(CRYSTALS, GAPS, strict=True)]
    (folder / "id_prop.csv").write_text("\n".join(lines))
    (folder / "atom_init.json").write_text("{}")
    return folder


def csv_with_cif(folder: Path) -> Path:
    frame = pd.DataFrame({"material_id": [one.name for one in CRYSTALS], "gap pbe": GAPS})
    frame.assign(cif=list(map(cif_of, CRYSTALS))).to_csv(folder / "table.csv", index=False)
    return folder / "table.csv"


def parquet_with_cif(folder: Path) -> Path:
    frame = pd.DataFrame({"material_id": [one.name for one in CRYSTALS], "gap pbe": GAPS})
    frame.assign(cif=list(map(cif_of, CRYSTALS))).to_parquet(folder / "table.parquet")
    return folder / "table.parquet"


def frame_of(kind: Callable[[Crystal], Any], column: str = "structure") -> Callable[[Path], Any]:
    def make(folder: Path) -> Any:
        return pd.DataFrame({column: list(map(kind, CRYSTALS)), "gap pbe": GAPS}, index=[one.name for one in CRYSTALS])

    return make


SOURCES: dict[str, tuple[Callable[[Path], Any], str, list[str]]] = {
    "Matbench": (matbench, "gap pbe", ["0", "1", "2"]),
    "OPTIMADE": (optimade, "gap pbe", ["salt", "magnesia", "sylvite"]),
    "database of ASE": (database, "gap_pbe", ["1", "2", "3"]),
    "extended XYZ": (frames, "gap", ["salt", "magnesia", "sylvite"]),
    "trajectory": (trajectory, "gap", ["salt", "magnesia", "sylvite"]),
    "folder of CGCNN": (cgcnn, "target", ["salt", "magnesia", "sylvite"]),
    "CSV with CIFs": (csv_with_cif, "gap pbe", ["salt", "magnesia", "sylvite"]),
    "Parquet with CIFs": (parquet_with_cif, "gap pbe", ["salt", "magnesia", "sylvite"]),
    **{
        f"frame of {name}": (frame_of(kind, column), "gap pbe", ["salt", "magnesia", "sylvite"])
        for name, kind, column in [
            ("crystals", lambda crystal: crystal, "structure"),
            ("pymatgen structures", structure_of, "structure"),
            ("pymatgen dictionaries", lambda crystal: structure_of(crystal).as_dict(), "structure"),
            ("dictionaries as text", lambda crystal: json.dumps(structure_of(crystal).as_dict()), "structure"),
            ("atoms of ASE", atoms_of, "structure"),
            ("CIFs", cif_of, "cif"),
            ("CIFs called structure", cif_of, "structure"),
        ]
    },
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_crystals_and_labels(source: str, tmp_path: Path) -> None:
    make, column, ids = SOURCES[source]
    table = open_table(make(tmp_path), labels={column: "band_gap"})
    assert table.ids == ids
    assert table.columns.count("band_gap") == 1
    assert np.array_equal(table.labels("band_gap"), GAPS, equal_nan=True)
    for found, expected in zip(table, CRYSTALS, strict=True):
        assert sorted(found.numbers) == sorted(expected.numbers)
        assert found.volume == pytest.approx(expected.volume, rel=1e-6)
    assert table.check_rows() == {}


def test_labels_are_the_columns_that_describe_no_structure(tmp_path: Path) -> None:
    assert open_table(optimade(tmp_path)).columns == ["gap pbe"]
    assert open_table(matbench(tmp_path)).columns == ["gap pbe"]
    frame = frame_of(structure_of)(tmp_path).assign(flag=[True, None, False], note=["a", "b", None], other=[[1], [], 2])
    table = open_table(frame)
    assert table.columns == ["gap pbe", "flag", "note"]
    assert np.array_equal(table.labels("flag"), [1, np.nan, 0], equal_nan=True)


@pytest.mark.parametrize("make", [frames, trajectory, database])
def test_results_of_ase_are_labels(make: Callable[[Path], Path], tmp_path: Path) -> None:
    table = open_table(make(tmp_path))
    assert sorted(table.columns) == ["energy", "gap_pbe" if make is database else "gap"]
    assert table.labels("energy").tolist() == [-3.0, -3.0, -3.0]


def test_a_broken_frame_costs_itself(tmp_path: Path) -> None:
    path = frames(tmp_path)
    path.write_text(path.read_text().replace("Mg ", "Qq "))
    table = open_table(path)
    assert len(table) == 3
    assert list(table.check_rows()) == [1]
    assert "cannot be read" in table.check_rows()[1].reason


@pytest.mark.parametrize("make", [matbench, optimade, database])
def test_a_table_is_also_a_file_of_structures(make: Callable[[Path], Path], tmp_path: Path) -> None:
    found = list(read_structures([make(tmp_path)]))
    assert [sorted(one.symbols) for one in found if isinstance(one, Crystal)] == [
        ["Cl", "Na"],
        ["Mg", "O"],
        ["Cl", "K"],
    ]


@pytest.mark.parametrize("rows", ["Matbench", "OPTIMADE", "frame", "CIF"])
def test_a_bad_row_costs_itself(rows: str, tmp_path: Path) -> None:
    good: list[Any] = [structure_of(crystal).as_dict() for crystal in CRYSTALS]
    if rows == "Matbench":
        source: Any = write_matbench(tmp_path, [good[0], {"sites": 3}, good[2]])
        words = "not a pymatgen Structure"
    elif rows == "OPTIMADE":
        data = [optimade_of(crystal) for crystal in CRYSTALS]
        del data[1]["attributes"]["lattice_vectors"]
        source = tmp_path / "answer.json"
        source.write_text(json.dumps({"data": data}))
        words = "the structure cannot be read"
    else:
        column = "structure" if rows == "frame" else "cif"
        source = pd.DataFrame({column: [good[0], None if rows == "frame" else "data_x\n_cell_length_a 4\n", good[2]]})
        words = "there is no structure; add it" if rows == "frame" else "lists no atoms"
    table = open_table(source)
    rejected = table.check_rows()
    assert list(rejected) == [1]
    assert words in rejected[1].reason
    if isinstance(source, Path):
        first, bad, last = read_structures([source])
        assert isinstance(first, Crystal)
        assert isinstance(last, Crystal)
        assert isinstance(bad, Rejected)


def test_a_csv_may_begin_with_a_row_without_structure(tmp_path: Path) -> None:
    rows = [["none", ""], ["salt", cif_of(CRYSTALS[0])]]
    pd.DataFrame(rows, columns=["id", "cif"]).to_csv(tmp_path / "table.csv", index=False)
    assert list(open_table(tmp_path / "table.csv").check_rows()) == [0]


def test_a_long_cif_in_a_csv_is_read(tmp_path: Path) -> None:
    comment = "# a line that means nothing\n" * 10_000
    rows = [["salt", cif_of(CRYSTALS[0])], ["magnesia", comment + cif_of(CRYSTALS[1])]]
    pd.DataFrame(rows, columns=["id", "cif"]).to_csv(tmp_path / "table.csv", index=False)
    assert [len(crystal) for crystal in open_table(tmp_path / "table.csv")] == [2, 2]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "no rows"),
        ("[]", "no rows"),
        ("{", "neither a file of Matbench nor an answer of an OPTIMADE server"),
        ('{"data": [[1]]}', "there is no column 'structure'"),
        ('{"columns": ["structure", "y"], "data": [[1]]}', "neither a file of Matbench"),
        ('{"data": [{"id": 3}]}', "there is no column 'structure'"),
    ],
)
def test_other_json_is_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(content)
    with pytest.raises(TableError, match=words):
        open_table(tmp_path / "table.json")


def test_a_database_that_ase_has_not_written_is_refused_and_left_alone(tmp_path: Path) -> None:
    other, text = tmp_path / "other.db", tmp_path / "text.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE notes (x)")
    text.write_text("not a database")
    before = other.read_bytes()
    with pytest.raises(TableError, match="was not written by ASE"):
        open_table(other)
    with pytest.raises(TableError, match="not an SQLite database"):
        open_table(text)
    assert other.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.db", "text.db"]


def test_a_folder_without_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"only if it holds id_prop\.csv"):
        open_table(tmp_path)


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame({"struct": [1]}), "no column 'structure' or 'cif'; the columns are struct; rename"),
        (pd.DataFrame([[1, 2]], columns=["structure", "structure"]), "'structure' is repeated"),
        (pd.DataFrame({"structure": [rock_salt()] * 2}, index=["a", "a"]), "have the same id 'a'"),
        (pd.DataFrame({"structure": []}), "no rows"),
    ],
)
def test_a_frame_that_is_no_table_is_refused(frame: pd.DataFrame, words: str) -> None:
    with pytest.raises(TableError, match=words):
        open_table(frame)


def test_labels_get_other_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({"structure": CRYSTALS, "a": [1, 2, 3], "b": [4, 5, 6]})
    table = open_table(frame, labels={"a": "b", "b": "a"})
    assert table.labels("a").tolist() == [4, 5, 6]
    assert table.fingerprint != open_table(frame).fingerprint
    with pytest.raises(TableError, match="two columns would have the name 'b'"):
        open_table(frame, labels={"a": "b"})
    with pytest.raises(TableError, match=r"there is no column 'aa'\. Did you mean 'a'\?"):
        open_table(frame, labels={"aa": "c"})


def test_every_kind_of_table_is_named_where_a_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(TableError) as caught:
        open_table(tmp_path / "a.txt")
    assert all(ending in str(caught.value) for ending in TABLES)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return load_model(tiny_model(tmp_path / "model.safetensors"))


def test_a_prediction_keeps_the_index_of_a_frame(model: Model) -> None:
    expected = [one.values["energy"] for one in model.predict(CRYSTALS)]  # noqa: PD011
    frame = pd.DataFrame({"cif": list(map(cif_of, CRYSTALS)), "other": [1, 2, 3]}, index=[30, 10, 20])
    found = model.predict(frame)
    assert list(found.index) == [30, 10, 20]
    assert np.allclose(found["energy (eV/atom)"], expected, atol=1e-5)
    series = model.predict(pd.Series(CRYSTALS, index=list("abc")), as_frame=True)
    assert list(series.index) == list("abc")
    assert np.allclose(series["energy (eV/atom)"], expected)
    assert model.embed(frame).shape == (3, model.dim)


def test_a_bad_row_of_a_frame_keeps_its_place(model: Model) -> None:
    frame = pd.DataFrame({"structure": [CRYSTALS[0], 7, CRYSTALS[2]]}, index=[5, 6, 7])
    found = model.predict(frame, errors="report")
    assert list(found.index) == [5, 6, 7]
    assert found["energy (eV/atom)"].isna().tolist() == [False, True, False]
    assert "an int is not a structure" in found["error"][6]
    with pytest.raises(StructureError, match=r"^structure 1: 6: an int is not a structure"):
        model.predict(frame)


def test_labels_of_another_name_on_the_command_line(tmp_path: Path) -> None:
    crystals = many(12)
    labels: dict[str, Any] = {"E per atom": [float(crystal.numbers[0] % 7) for crystal in crystals]}
    table = write_table(tmp_path / "table.parquet", crystals, **labels)
    weights = tiny_model(tmp_path / "model.safetensors", [ENERGY])
    refused = invoke("evaluate", table, "-m", weights)
    assert refused.exit_code == 2
    assert "no column energy" in refused.stderr
    accepted = invoke("evaluate", table, "-m", weights, "--label", "E per atom=energy")
    assert accepted.exit_code == 0, accepted.output
    assert invoke("evaluate", table, "-m", weights, "--label", "energy").exit_code == 2
    twice = invoke("evaluate", table, "-m", weights, "--label", "a=energy", "--label", "a=gap")
    assert "twice" in twice.stderr
    quick = ["--set", "model.dim=8", "--set", "model.heads=2", "--set", "accelerator=cpu", "--epochs", 1]
    command = [
        "--target",
        "energy",
        "--unit",
        "eV/atom",
        "--label",
        "E per atom=energy",
        *quick,
        "-o",
        tmp_path / "run",
    ]
    trained = invoke("train", table, *command)
    assert trained.exit_code == 0, trained.output
    assert load_model(tmp_path / "run").units == {"energy": "eV/atom"}
