"""Bad rows are named and lose no good ones; tables that cannot be used are refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_files import POSCAR, Row, random_rows, salt, write_csv, write_parquet

from crystalformers.data.table import open_table
from crystalformers.errors import StructureError, TableError
from crystalformers.io import Rejected, read_structures
from crystalformers.io.overlap import overlapping

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
        ("a.csv.gz", gzip.compress(b"id,y\n" + b"a,1\n" * 9999, mtime=0)[:-30], "cannot be read"),
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
