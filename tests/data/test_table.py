"""Tables: every kind gives the same rows, labels and splits; memory stays small."""

from __future__ import annotations

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
from table_files import POSCAR, Row, random_rows, salt, write_csv, write_parquet

from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import TableError
from crystalformers.io import Rejected, count_structures, read_structures

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
