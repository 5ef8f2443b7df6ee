"""Tables: every kind gives the same rows, a bad row is named and loses no good one, memory stays small."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import StructureError, TableError
from crystalformers.io import Rejected, count_structures, read_structures
from crystalformers.io.overlap import overlapping

Row = dict[str, Any]

POSCAR = "{name}\n1.0\n4 0 0\n0 4 0\n0 0 4\n{symbols}\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"


def salt(name: str = "salt", **other: Any) -> Row:
    return {
        "id": name,
        "formula": "NaCl",
        "atomic_numbers": [11, 17],
        "lattice": [4.0, 0, 0, 0, 4, 0, 0, 0, 4],
        "frac_coords": [0, 0, 0, 0.5, 0.5, 0.5],
    } | other


def write_parquet(path: Path, rows: list[Row], **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def write_jsonl(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


WRITERS = {"table.parquet": write_parquet, "table.jsonl": write_jsonl}


@pytest.fixture(params=WRITERS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[list[Row]], Path]:
    """Writes rows as Parquet, then as JSON lines."""
    return lambda rows: WRITERS[request.param](tmp_path / request.param, rows)


def random_rows(n_rows: int, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[[0, 1, 2]] * 3), axis=-1).reshape(-1, 3) / 3
    rows = []
    for index in range(n_rows):
        n_atoms = int(rng.integers(1, 20))
        frac = rng.permutation(grid)[:n_atoms] + rng.uniform(-0.05, 0.05, (n_atoms, 3))
        lattice = np.diag(rng.uniform(5, 9, 3)) + np.tril(rng.uniform(-2, 2, (3, 3)), -1)
        rows.append(
            {
                "id": f"row-{index}",
                "atomic_numbers": rng.integers(1, 99, n_atoms).tolist(),
                "lattice": lattice.reshape(-1).tolist(),
                "frac_coords": frac.reshape(-1).tolist(),
                "energy": float(rng.normal()),
            }
        )
    return rows


# What a table gives


def test_rows_come_back_exactly(make: Callable[[list[Row]], Path]) -> None:
    rows = random_rows(2500)
    path = make(rows)
    table = open_table(path)
    assert len(table) == 2500
    assert table.ids == [row["id"] for row in rows]
    assert table.columns == ["energy"]
    np.testing.assert_array_equal(table.labels("energy"), [row["energy"] for row in rows])
    np.testing.assert_array_equal(table.n_atoms, [len(row["atomic_numbers"]) for row in rows])
    for index in (0, 1023, 1024, 2048, 2499, -1):
        crystal, row = table[index], rows[index]
        assert crystal.name == row["id"]
        np.testing.assert_array_equal(crystal.numbers, row["atomic_numbers"])
        np.testing.assert_array_equal(crystal.lattice.reshape(-1), row["lattice"])
        np.testing.assert_array_equal(crystal.frac_coords.reshape(-1), row["frac_coords"])
    assert [crystal.name for crystal in read_structures([path])] == table.ids
    assert count_structures([path]) == 2500
    assert table.check_rows() == {}
    for index in (2500, -2501):
        with pytest.raises(IndexError):
            table[index]


def test_crystals_do_not_share_memory_with_the_table(make: Callable[[list[Row]], Path]) -> None:
    table = open_table(make([salt()]))
    table[0].frac_coords[:] = 7
    np.testing.assert_array_equal(table[0].frac_coords[0], [0, 0, 0])


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    table = open_table(write_parquet(tmp_path / "a.parquet", [salt()]), scratch=tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert len(table[0]) == 2
    with pytest.raises(TableError):
        open_table(write_parquet(tmp_path / "b.parquet", [salt(), salt()]), scratch=tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_parquet_types(tmp_path: Path) -> None:
    columns = {
        "material_id": pa.array(["a", "b"], pa.large_string()),
        "atomic_numbers": pa.array([[11, 17], [11, 17]], pa.list_(pa.int16())),
        "lattice": pa.array([salt()["lattice"]] * 2, pa.list_(pa.float32(), 9)),
        "frac_coords": pa.array([salt()["frac_coords"]] * 2, pa.large_list(pa.float32())),
        "whole": pa.array([1, None], pa.int8()),
        "flag": pa.array([True, False]),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
        "n_atoms": pa.array([2, 2]),
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    table = open_table(tmp_path / "a.parquet")
    assert table.ids == ["a", "b"]
    assert table.columns == ["whole", "flag", "kind"]
    np.testing.assert_array_equal(table.labels("whole"), [1, np.nan])
    np.testing.assert_array_equal(table.labels("flag"), [1, 0])
    assert table.column("kind") == ["x", "y"]
    assert table[1].lattice.dtype == np.float64


def test_json_lines(tmp_path: Path) -> None:
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).as_dict()
    path = tmp_path / "a.jsonl.gz"
    rows = [
        {"material_id": "a", "structure": structure, "gap": 1.25},
        {"id": 7, "structure": structure, "gap": None, "late": True},
        salt("c", gap="0.1", lattice=[[4, 0, 0], [0, 4, 0], [0, 0, 4]], nested={"x": 1}),
    ]
    with gzip.open(path, "wt") as file:
        file.write("\n\n".join(json.dumps(row) for row in rows))
    table = open_table(path)
    assert table.ids == ["a", "7", "c"]
    assert table.columns == ["gap", "late"]
    np.testing.assert_array_equal(table.labels("gap"), [1.25, np.nan, 0.1])
    np.testing.assert_array_equal(table.labels("late"), [np.nan, 1, np.nan])
    for row in range(3):
        np.testing.assert_array_equal(table[row].lattice, 4 * np.eye(3))
        assert sorted(table[row].numbers) == [11, 17]


def test_csv_beside_structure_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "salt.vasp").write_text(POSCAR.format(name="", symbols="Na Cl"))
    (tmp_path / "sub" / "POSCAR-k").write_text(POSCAR.format(name="", symbols="K Cl"))
    rows = [["name", "gap", "split"], ["salt", "5.0", "train"], ["sub/POSCAR-k", "", "Validation"]]
    table = open_table(write_csv(tmp_path / "data.csv", rows))
    assert table.ids == ["salt", "sub/POSCAR-k"]
    assert table.columns == ["gap", "split"]
    np.testing.assert_array_equal(table.labels("gap"), [5, np.nan])
    assert table.split == ["train", "val"]
    assert list(table[1].numbers) == [19, 17]
    assert table[1].name == "sub/POSCAR-k"


def test_csv_without_header(tmp_path: Path) -> None:
    (tmp_path / "1.vasp").write_text(POSCAR.format(name="", symbols="Na Cl"))
    table = open_table(write_csv(tmp_path / "id_prop.csv", [["1", "0.5"], ["2", "-1e-3"]]))
    assert table.ids == ["1", "2"]
    assert table.columns == ["target"]
    np.testing.assert_array_equal(table.labels("target"), [0.5, -1e-3])
    assert list(table.check_rows()) == [1]
    assert list(table.n_atoms) == [2, 0]
    good, bad = read_structures([tmp_path / "id_prop.csv"])
    assert good.name == "1"
    assert isinstance(bad, Rejected)
    assert bad.name == "2"
    with pytest.raises(TableError, match="without header line has two columns"):
        open_table(write_csv(tmp_path / "a.csv", [["1", "0.5", "0.5"]]))


def test_fingerprint_is_that_of_the_content(tmp_path: Path) -> None:
    def fingerprint(name: str, rows: list[Row], **options: Any) -> str:
        return open_table(write_parquet(tmp_path / name, rows, **options)).fingerprint

    rows = random_rows(50)
    first = fingerprint("a.parquet", rows)
    assert first == fingerprint("b.parquet", rows, compression="zstd")
    assert len(first) == 32
    for change in ({"energy": 0.0}, {"id": "x"}, {"lattice": [9.0, 0, 0, 0, 9, 0, 0, 0, 9]}):
        assert fingerprint("c.parquet", [rows[0] | change, *rows[1:]]) != first
    assert fingerprint("d.parquet", rows[::-1]) != first


# Bad rows

BAD_ROWS = {
    "2 atomic numbers, 5 coordinates and 9 lattice numbers do not fit": {"frac_coords": [0, 0, 0, 0.5, 0.5]},
    "2 atomic numbers, 6 coordinates and 6 lattice numbers": {"lattice": [4.0, 4, 4, 90, 90, 90]},
    "the structure holds no atoms": {"atomic_numbers": [], "frac_coords": []},
    "atomic number 0 is not an element": {"atomic_numbers": [0, 17]},
    "atomic number 99 is not an element": {"atomic_numbers": [11, 99]},
    "the cell has no volume": {"lattice": [4.0, 0, 0, 4, 0, 0, 0, 0, 4]},
    "frac_coords holds NaN": {"frac_coords": [0, 0, 0, 0.5, 0.5, float("nan")]},
    "lattice holds NaN": {"lattice": [4.0, 0, 0, 0, float("inf"), 0, 0, 0, 4]},
    "a fractional coordinate of 1e+15 is too large": {"frac_coords": [0, 0, 0, 0.5, -1e15, 0.5]},
    "a fractional coordinate of 1e+308 is too large": {"frac_coords": [0, 0, 0, 0.5, 1e308, 0.5]},
    "a lattice vector of 1e+200 Å is longer than": {"lattice": [1e200, 0, 0, 0, 1e200, 0, 0, 0, 1e200]},
    "Na (atom 1) and Cl (atom 2) are only 0.080 Å apart": {"frac_coords": [0.99, 0, 0, 0.01, 1, -3]},
    "the formula 'NaCl2' contradicts the 2 atoms of the row (Cl, Na)": {"formula": "NaCl2"},
    "the formula 'salt' contradicts": {"formula": "salt"},
}


def test_bad_rows_are_named_and_lose_no_good_ones(tmp_path: Path) -> None:
    rows = [salt("first"), *(salt(f"bad {i}", **bad) for i, bad in enumerate(BAD_ROWS.values())), salt("last")]
    path = write_parquet(tmp_path / "a.parquet", rows)
    table = open_table(path)
    rejected = table.check_rows()
    assert list(rejected) == list(range(1, len(rows) - 1))
    streamed = list(read_structures([path]))
    for row, phrase in enumerate(BAD_ROWS, start=1):
        assert phrase in rejected[row].reason
        assert rejected[row].reason.startswith(f"{path} row {row} (bad {row - 1}): ")
        assert rejected[row].name == f"bad {row - 1}"
        assert streamed[row] == rejected[row]
        with pytest.raises(StructureError) as error:
            table[row]
        assert str(error.value) == rejected[row].reason
    assert table[0].name == streamed[0].name == "first"
    assert table[-1].name == streamed[-1].name == "last"


def test_bad_rows_are_counted_through_the_whole_table(tmp_path: Path) -> None:
    rows = random_rows(2200)
    for row in (1023, 1024, 2100):
        rows[row]["lattice"] = rows[row]["lattice"][:3] * 3
    path = write_parquet(tmp_path / "a.parquet", rows)
    rejected = open_table(path).check_rows()
    assert list(rejected) == [1023, 1024, 2100]
    assert [item.reason.split(": ")[0] for item in rejected.values()] == [
        f"{path} row {row} (row-{row})" for row in rejected
    ]
    assert [item for item in read_structures([path]) if isinstance(item, Rejected)] == list(rejected.values())


def test_missing_values_in_lists_are_bad_rows(tmp_path: Path) -> None:
    rows = [
        salt("a"),
        salt("b", frac_coords=[0, 0, 0, None, 0.5, 0.5]),
        salt("c", atomic_numbers=[None, 17], formula=None),
        salt("d", lattice=None),
        salt("e", formula=None),
    ]
    assert list(open_table(write_parquet(tmp_path / "a.parquet", rows)).check_rows()) == [1, 2, 3]


def test_bad_json_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [
        json.dumps(salt("good")),
        "{broken",
        "[1]",
        json.dumps({"id": "x", "gap": 1}),
        json.dumps(salt("y", atomic_numbers=[11.5, 17])),
        json.dumps(salt("z", lattice=["four"])),
        json.dumps({"id": "w", "structure": {"sites": []}}),
        json.dumps(salt("dense", frac_coords=[0, 0, 0, 0, 0, 0])),
    ]
    path.write_text("\n".join(lines))
    table = open_table(path)
    reasons = {row: item.reason for row, item in table.check_rows().items()}
    assert list(reasons) == list(range(1, 8))
    phrases = (
        "row 1 (row 1): the line is not valid JSON",
        "row 2 (row 2): the line is not a JSON object",
        "row 3 (x): 'atomic_numbers' is missing",
        "lattice, frac_coords must hold N, 9 and 3N numbers (atomic numbers must be integers",
        "row 5 (z): atomic_numbers, lattice, frac_coords must hold",
        "row 6 (w): w: not a pymatgen Structure",
        "row 7 (dense): Na (atom 1) and Cl (atom 2) are only 0.000 Å apart",
    )
    for reason, phrase in zip(reasons.values(), phrases, strict=True):
        assert phrase in reason
    assert table[0].name == "good"


def test_bad_csv_rows_are_named(tmp_path: Path) -> None:
    (tmp_path / "two.vasp").write_text(POSCAR.format(name="", symbols="Na Cl"))
    (tmp_path / "two.poscar").write_text(POSCAR.format(name="", symbols="Na Cl"))
    (tmp_path / "bad.vasp").write_text(POSCAR.format(name="", symbols="Na Xx"))
    table = open_table(write_csv(tmp_path / "a.csv", [["id", "y"], ["two", 1], ["none", 1], ["bad", 1]]))
    reasons = [item.reason for item in table.check_rows().values()]
    assert "two.vasp and two.poscar both fit the id" in reasons[0]
    assert "row 1 (none): no structure file beside the table; expected none.cif" in reasons[1]
    assert "'Xx' is not an element" in reasons[2]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_suspects_are_exactly_the_bad(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The check of whole batches and the check of one row agree, clashes across cell borders included."""
    rng = np.random.default_rng(seed)
    rows = random_rows(30, seed)
    for row in rows[::2]:
        frac = np.array(row["frac_coords"]).reshape(-1, 3)
        lattice = np.array(row["lattice"]).reshape(3, 3)
        step = rng.normal(size=3)
        step *= rng.uniform(0.1, 1.0) / np.linalg.norm(step)
        new = frac[0] + step @ np.linalg.inv(lattice) + rng.integers(-2, 3, 3)
        row["atomic_numbers"].append(int(rng.choice([1, 8])))
        row["frac_coords"] += new.tolist()
        shear = np.array([[1, 0, 0], [rng.integers(-9, 10), 1, 0], [0, 0, 1]])
        row["frac_coords"] = (np.vstack([frac, new]) @ np.linalg.inv(shear)).reshape(-1).tolist()
        row["lattice"] = (shear @ lattice).reshape(-1).tolist()
    table = open_table(write_parquet(tmp_path_factory.mktemp("s") / "a.parquet", rows))
    bad = [row for row in range(30) if _clash(rows[row])]
    assert list(table.check_rows()) == bad
    assert bad
    assert len(bad) < 15


def _clash(row: Row) -> bool:
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    frac, lattice = np.reshape(row["frac_coords"], (-1, 3)), np.reshape(row["lattice"], (3, 3))
    numbers = np.array(row["atomic_numbers"])
    atoms = Atoms(numbers, scaled_positions=frac, cell=lattice, pbc=True)
    i, j, distance = neighbor_list("ijd", atoms, 0.8)
    return bool(((distance < 0.5) | (np.minimum(numbers[i], numbers[j]) > 1)).any())


def test_large_cells_are_checked_in_little_memory() -> None:
    axis = np.arange(15) / 15
    frac = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(1, -1, 3)
    numbers = np.full(frac.shape[:2], 26)
    lattice = np.eye(3)[None] * 15 * 2.0
    assert not overlapping(numbers, frac, lattice)[0]
    frac = np.concatenate([frac, frac[:, -1:] + 1 / 60], axis=1)
    assert not overlapping(np.full(frac.shape[:2], 26), frac, lattice)[0]
    frac[0, -1] = frac[0, -2] + 1 / 70
    assert overlapping(np.full(frac.shape[:2], 26), frac, lattice)[0]


# Tables that cannot be used


@pytest.mark.parametrize(
    ("rows", "phrase"),
    [
        ([salt("x"), salt("y"), salt("x")], "rows 0 and 2 have the same id 'x'"),
        ([salt("x"), salt(None)], "row 1: the id is missing"),
        ([{k: v for k, v in salt().items() if k != "id"}], "column 'id' is missing"),
        (
            [{k: v for k, v in salt().items() if k != "lattice"}],
            "column 'lattice' is missing; a table needs id, atomic",
        ),
        ([salt(atomic_numbers=["Na", "Cl"])], "column 'atomic_numbers' must hold flat lists of numbers"),
        ([salt(atomic_numbers=[11.5, 17.0])], "column 'atomic_numbers' must hold flat lists of numbers"),
        ([salt(frac_coords=[[0.0, 0, 0], [0.5, 0.5, 0.5]])], "column 'frac_coords' must hold flat lists"),
        ([salt(lattice=4.0)], "column 'lattice' must hold flat lists of numbers, its type is double"),
    ],
)
def test_unusable_parquet(tmp_path: Path, rows: list[Row], phrase: str) -> None:
    path = write_parquet(tmp_path / "a.parquet", rows)
    with pytest.raises(TableError) as error:
        open_table(path)
    assert phrase in str(error.value)
    assert str(path) in str(error.value)


BY_NAME = ("not a table; known are .parquet, .csv and .jsonl",)


@pytest.mark.parametrize(
    ("name", "content", "phrase"),
    [
        ("a.parquet", b"", "the file is empty"),
        ("a.parquet", b"PAR1 rubbish PAR1", "the table cannot be read"),
        ("a.csv", b"", "the file is empty"),
        ("a.csv", b"id,y\n", "the table has no rows"),
        ("a.csv", b"id,y\na,1\nb,1,2\n", "line 3: 3 fields, expected 2 (id, y)"),
        ("a.csv", b"id,y,y\na,1,2\n", "the column name 'y' is empty or repeated"),
        ("a.csv", b"id,y\n\xff,1\n", "cannot be read"),
        ("a.csv.gz", b"id,y\n", "cannot be read"),
        ("a.jsonl", b"\n\n", "the table has no rows"),
        ("a.txt", b"x", BY_NAME[0]),
        ("a.csv.gz", gzip.compress(b"id,y\n" + b"a,1\n" * 9999)[:-30], "cannot be read"),
        ("a.csv", b"id,y\n" + b"a,1\n" * 9999 + b"\xff,1\n", "cannot be read"),
        ("a.jsonl", b'{"id": 1}\n' * 9999 + b"\xff", "cannot be read"),
    ],
)
def test_unusable_files(tmp_path: Path, name: str, content: bytes, phrase: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TableError) as error:
        open_table(tmp_path / name)
    assert phrase in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    reasons = [item.reason for item in read_structures([tmp_path / name]) if isinstance(item, Rejected)]
    assert phrase in ("the table has no rows", *BY_NAME) or phrase in reasons[-1]


def test_empty_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([salt()]).slice(0, 0), tmp_path / "a.parquet")
    with pytest.raises(TableError, match="the table has no rows"):
        open_table(tmp_path / "a.parquet")


# Labels and splits


def test_labels(make: Callable[[list[Row]], Path]) -> None:
    table = open_table(make([salt("a", gap=1.5, text="x"), salt("b", gap=None, text="y")]))
    np.testing.assert_array_equal(table.labels("gap"), [1.5, np.nan])
    with pytest.raises(TableError, match=r"row 0 \(a\): 'x' in column 'text' is not a number"):
        table.labels("text")
    with pytest.raises(TableError, match=r"no column 'gpa'. Did you mean 'gap'\? The label columns are: gap, text"):
        table.labels("gpa")
    with pytest.raises(TableError, match=r"no column 'zzz'\. The label"):
        table.labels("zzz")
    assert table.split is None


def test_label_that_is_no_number_is_named(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", [["id", "y"], ["a", "1"], ["b", "n/a"]])
    with pytest.raises(TableError, match=r"a.csv row 1 \(b\): 'n/a' in column 'y' is not a number"):
        open_table(path).labels("y")


def test_labels_of_another_type(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [salt(forces=[1.0, 2.0])])
    with pytest.raises(TableError, match="column 'forces' holds no numbers, its type is list"):
        open_table(path).labels("forces")


def test_split_column(make: Callable[[list[Row]], Path], tmp_path: Path) -> None:
    names = ["train", "Valid", "validation", "val", "TEST"]
    table = open_table(make([salt(str(i), split=name) for i, name in enumerate(names)]))
    assert table.split == ["train", "val", "val", "val", "test"]
    bad = open_table(write_parquet(tmp_path / "bad.parquet", [salt("a", split="train"), salt("b", split=None)]))
    with pytest.raises(TableError, match=r"row 1 \(b\): 'None' in column 'split' is none of train, val, test"):
        _ = bad.split


# Real size


@pytest.mark.shared
def test_table_of_real_size(shared: Path) -> None:
    start = time.monotonic()
    table = open_table(shared / "data" / "mp36k.parquet")
    assert table.check_rows() == {}
    assert time.monotonic() - start < 30
    assert len(table) == 35353
    assert Counter(table.split) == {"train": 31619, "val": 2615, "test": 1119}
    assert np.isfinite(table.labels("formation_energy_per_atom")).all()
    assert np.isnan(table.labels("bulk_modulus")).any()
    assert isinstance(table, CrystalTable)


@pytest.mark.shared
def test_streaming_takes_little_memory(shared: Path) -> None:
    """What reading 20,000 structures adds to a process that has read a few."""
    code = f"""
import resource
from crystalformers.crystal import Crystal
from crystalformers.io import count_structures, read_structures
path = {str(shared / "data" / "mp2025_structures_20k.parquet")!r}
rows = read_structures([path])
first = [next(rows) for _ in range(10)]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
n_rows = 10 + sum(isinstance(row, Crystal) for row in rows)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(n_rows, count_structures([path]), (after - before) // 1024)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    n_rows, count, megabytes = map(int, result.stdout.split())
    assert n_rows == count == 20000
    assert megabytes < 150


def test_rows_lie_in_the_mapped_file(tmp_path: Path) -> None:
    """A table costs address space, not memory: what it holds is much more than what Arrow has allocated."""
    before = pa.total_allocated_bytes()
    table = open_table(write_parquet(tmp_path / "a.parquet", random_rows(3000)))
    held = sum(rows.batch.nbytes for rows in table._rows)
    assert held > 500_000
    assert pa.total_allocated_bytes() - before < held / 10
