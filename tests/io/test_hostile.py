"""What no reader may do: crash, hang, take much memory, or lose other structures over one that is bad."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from structures import CIF, POSCAR

from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError, StructureError
from crystalformers.io import Rejected, as_crystal, read_crystal, read_structures, text
from crystalformers.io.symmetry import MAX_LENGTH, MAX_OPERATIONS, parse_operation

CUBE = [4.0, 0, 0, 0, 4, 0, 0, 0, 4]


def structure(**changed: Any) -> str:
    """JSON of one sodium atom in a cube."""
    site = {"species": [{"element": "Na", "occu": 1}], "abc": [0, 0, 0]}
    data = {"lattice": {"matrix": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "pbc": [True] * 3}, "sites": [site]}
    return json.dumps(data | changed)


def row(name: Any, **changed: Any) -> str:
    """One line of a table."""
    return json.dumps({"id": name, "atomic_numbers": [11], "lattice": CUBE, "frac_coords": [0, 0, 0], "y": 1} | changed)


def xyz(position: str, lattice: str = "4 0 0 0 4 0 0 0 4") -> str:
    return f'1\nLattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"\nNa {position}\n'


# Numbers that overflow


@pytest.mark.parametrize("number", ["1e15", "1e16", "1e308", "-1e308", "nan", "inf", "1e400"])
def test_coordinates_without_digits_left_are_refused_in_every_format(tmp_path: Path, number: str) -> None:
    value = float(number)
    files = {
        "a.cif": CIF.replace("0.5 0.5 0.5", f"0.5 {number} 0.5"),
        "POSCAR": POSCAR.replace("0.5 0.5 0.5", f"0.5 {number} 0.5"),
        "b.vasp": POSCAR.replace("0.5 0.5 0.5", f"0.5 {number} 0.5").replace("Direct", "Cartesian"),
        "a.extxyz": xyz(f"0 {number} 0"),
        "a.json": structure().replace('"abc": [0', f'"abc": [{json.dumps(value)}'),
        "a.jsonl": row("a", frac_coords=[value, 0, 0]),
    }
    pq.write_table(pa.Table.from_pylist([json.loads(row("a", frac_coords=[value, 0, 0]))]), tmp_path / "a.parquet")
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    for name in (*files, "a.parquet"):
        (found,) = read_structures([tmp_path / name])
        assert isinstance(found, Rejected), name
        assert any(word in found.reason for word in ("too large", "NaN or infinite", "no numeric coordinates")), name
    with pytest.raises(StructureError):
        Crystal([11], [[value, 0, 0]], 4 * np.eye(3))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", ["1e308", "inf", "nan", "0", "1e-300"])
def test_cells_that_are_no_cells_are_refused_in_every_format(tmp_path: Path, number: str) -> None:
    value = float(number)
    files = {
        "a.cif": CIF.replace("_cell_length_a 5.6", f"_cell_length_a {number}"),
        "POSCAR": POSCAR.replace("4 0 0\n", f"{number} 0 0\n"),
        "a.extxyz": xyz("0 0 0", f"{number} 0 0 0 4 0 0 0 4"),
        "a.json": structure().replace("[[4,", f"[[{json.dumps(value)},"),
        "a.jsonl": row("a", lattice=[value, *CUBE[1:]]),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        (found,) = read_structures([tmp_path / name])
        assert isinstance(found, Rejected), name


def test_no_atoms_are_refused_in_every_format(tmp_path: Path) -> None:
    files = {
        "a.cif": CIF.split("Na1 Na+")[0],
        "POSCAR": POSCAR.replace("1 1\n", "0 0\n"),
        "a.extxyz": xyz("0 0 0").replace("1\n", "0\n", 1).replace("Na 0 0 0\n", ""),
        "a.json": structure(sites=[]),
        "a.jsonl": row("a", atomic_numbers=[], frac_coords=[]),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        (found,) = read_structures([tmp_path / name])
        assert isinstance(found, Rejected), name


# One bad file costs one row

DEEP = "[" * 100_000 + "]" * 100_000

BAD_FILES: dict[str, tuple[str, str]] = {
    "scalar type symbol of two sites": (
        "a.cif",
        CIF.replace("_atom_site_type_symbol\n", "").replace("Na1 Na+", "Na1").replace("Cl1 Cl-", "Cl1")
        + "_atom_site_type_symbol Na\n",
    ),
    "formula of 400 digits": ("a.cif", CIF.replace("'Na Cl'", f"'Na{'1' * 400} Cl'")),
    "formula of 5000 digits": ("a.cif", CIF.replace("'Na Cl'", f"'Na{'9' * 5000} Cl'")),
    "operation of 1500 digits": ("a.cif", CIF.replace("'x, y, z'", f"'x+{'1' * 1500}, y, z'")),
    "superscript count": ("POSCAR", POSCAR.replace("1 1\n", "² 1\n")),
    "count of 5000 digits": ("POSCAR", POSCAR.replace("1 1\n", f"{'1' * 5000} 1\n")),
    "count of a thousand million": ("POSCAR", POSCAR.replace("1 1\n", "999999999 1\n")),
    "nested JSON": ("a.json", DEEP),
    "integer of 5000 digits": ("a.json", structure().replace('"abc": [0', f'"abc": [{"1" * 5000}')),
    "integer of 400 digits": ("a.json", structure().replace('"abc": [0', f'"abc": [{"1" * 400}')),
    "occupancy null": ("a.json", structure().replace('"occu": 1', '"occu": null')),
    "occupancy missing": ("a.json", structure().replace(', "occu": 1', "")),
    "numeric element": ("a.json", structure().replace('"Na"', "11")),
    "pbc of 5": ("a.json", structure().replace("[true, true, true]", "5")),
    "XYZ of a thousand million atoms": ("a.xyz", xyz("0 0 0").replace("1\n", "1000000000\n", 1)),
    "XYZ of a number of 5000 digits": ("a.xyz", xyz("0 0 0").replace("1\n", "1" * 5000 + "\n", 1)),
    "latin text": ("a.json", structure().replace("Na", "\udce9")),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_one_bad_file_costs_one_row(tmp_path: Path, case: str) -> None:
    name, content = BAD_FILES[case]
    bad = tmp_path / name
    bad.write_bytes(content.encode("utf-8", "surrogateescape"))
    for k in "12":
        (tmp_path / f"good{k}.cif").write_text(CIF)
    first, found, last = read_structures([tmp_path / "good1.cif", bad, tmp_path / "good2.cif"])
    assert isinstance(first, Crystal)
    assert isinstance(last, Crystal)
    assert isinstance(found, Rejected)
    assert found.reason.startswith(str(bad))
    assert len(found.reason) < 600


BAD_ROWS = {
    "number of 400 digits": (row("a", frac_coords=[10**400, 0, 0]), "frac_coords must hold N, 9 and 3N numbers"),
    "half a character in the id": (row("\ud800"), "the line is not valid JSON"),
    "half a character in a label": (row("a", y="\udfff"), "the line is not valid JSON"),
    "half a character in a name": (row("a", **{"\ud800": 1}), "the line is not valid JSON"),
    "nesting": (row("a").replace('"y": 1', f'"y": {DEEP}'), "the line is not valid JSON"),
    "no object": ("[1]", "the line is not a JSON object"),
    "occupancy null": (json.dumps({"id": "a", "structure": {"lattice": None}}), "not a pymatgen Structure"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_one_bad_line_costs_one_row(tmp_path: Path, case: str) -> None:
    line, phrase = BAD_ROWS[case]
    (tmp_path / "a.jsonl").write_text("\n".join([row("first"), line, row("last")]))
    first, found, last = read_structures([tmp_path / "a.jsonl"])
    assert isinstance(first, Crystal)
    assert isinstance(last, Crystal)
    assert isinstance(found, Rejected)
    assert phrase in found.reason


def test_an_id_may_hold_any_character_that_is_one(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(row("a\0c") + "\n" + row("é\U0001f600"))
    assert [found.name for found in read_structures([tmp_path / "a.jsonl"])] == ["a\0c", "é\U0001f600"]


def not_utf8(*values: bytes) -> pa.Array:
    """A column that claims to be text, whatever its bytes."""
    offsets = np.cumsum([0, *map(len, values)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(b"".join(values)))


@pytest.mark.parametrize("column", ["id", "formula"])
def test_bytes_that_are_no_text_cost_one_row_of_a_parquet_table(tmp_path: Path, column: str) -> None:
    table = pa.table(
        {
            "id": ["a", "b"],
            "formula": ["Na", "Na"],
            "atomic_numbers": [[11], [11]],
            "lattice": [CUBE] * 2,
            "frac_coords": [[0.0] * 3] * 2,
        }
    )
    good = b"a" if column == "id" else b"Na"
    for kind in (pa.string(), pa.binary()):
        values = (
            not_utf8(b"\xff\xfe", good).cast(kind, safe=False) if kind == pa.string() else pa.array([b"\xff", good])
        )
        changed = table.set_column(table.schema.get_field_index(column), column, values)
        pq.write_table(changed, tmp_path / "a.parquet")
        bad, found = read_structures([tmp_path / "a.parquet"])
        assert isinstance(bad, Rejected)
        assert "is not UTF-8 text" in bad.reason
        assert isinstance(found, Crystal)


def test_labels_that_are_no_text_are_refused_by_name(tmp_path: Path) -> None:
    from crystalformers.data.table import open_table
    from crystalformers.errors import TableError

    columns = {"id": ["a"], "atomic_numbers": [[11]], "lattice": [CUBE], "frac_coords": [[0.0] * 3]}
    pq.write_table(pa.table({**columns, "y": not_utf8(b"\xff")}), tmp_path / "a.parquet")
    with pytest.raises(TableError, match=r"a\.parquet: the table cannot be read"):
        open_table(tmp_path / "a.parquet")


def test_links_that_lead_nowhere_and_loops_of_links_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIF)
    for link, target in (("b.cif", "c.cif"), ("c.cif", "b.cif"), ("d.cif", "nowhere.cif"), ("self", ".")):
        os.symlink(target, tmp_path / link)
    good, *bad = read_structures([tmp_path])
    assert isinstance(good, Crystal)
    assert [Path(found.name).name for found in bad] == ["b.cif", "c.cif", "d.cif"]
    reasons = [found.reason for found in bad if isinstance(found, Rejected)]
    assert ["Too many levels" in reason for reason in reasons] == [True, True, False]
    assert "No such file" in reasons[2]
    with pytest.raises(StructureError, match="Too many levels of symbolic links"):
        read_crystal(tmp_path / "b.cif")


def test_a_missing_file_costs_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIF)
    names = ["missing.cif", "missing.xyz", "missing.json", "missing.jsonl", "POSCAR", "x" * 300 + ".cif", "y" * 5000]
    for name in names:
        bad, good = read_structures([tmp_path / name, tmp_path / "a.cif"])
        assert isinstance(bad, Rejected), name
        assert isinstance(good, Crystal), name


def test_a_name_that_is_not_utf8_costs_one_row(tmp_path: Path) -> None:
    for name in (b"a.cif", b"\xff.cif"):
        (tmp_path / os.fsdecode(name)).write_text(CIF)
    good, bad = read_structures([tmp_path])
    assert isinstance(good, Crystal)
    assert isinstance(bad, Rejected)
    assert bad.name.endswith("\\udcff.cif")
    bad.reason.encode()
    assert bad.problem == "the name is not UTF-8"


def test_an_id_too_long_for_a_file_costs_one_row(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIF)
    (tmp_path / "a.csv").write_text(f"id,y\na,1\n{'x' * 5000},2\na,3\n")
    found = list(read_structures([tmp_path / "a.csv"]))
    assert [isinstance(item, Rejected) for item in found] == [False, True, False]


# Text in place of a path


@pytest.mark.parametrize("read", [read_crystal, as_crystal, lambda path: next(read_structures([path])).error()])
@pytest.mark.parametrize("content", [CIF, CIF * 20, POSCAR, "x" * 10_000, "a\0.cif"])
def test_the_text_of_a_structure_is_no_path(read: Callable[[str], Any], content: str) -> None:
    problem = None
    try:
        problem = read(content)
    except StructureError as error:
        problem = error
    assert "is no path; give the path of a structure file; write the text of a structure to one first" in str(problem)
    assert len(str(problem)) < 200


# Limits


def test_a_compressed_file_may_not_unpack_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(text.LIMIT_VARIABLE, "1")
    million = gzip.compress(b"\n" * 10**6)
    monkeypatch.setattr(text, "FREE_TEXT", 10**6)
    for name, content, phrase in (
        ("a.cif.gz", CIF, "the file is longer than 1 million characters"),
        ("a.json.gz", structure(), "the file is longer than 1 million characters"),
        ("POSCAR.gz", POSCAR, "the file is longer than 1 million characters"),
        ("a.xyz.gz", xyz("0 0 0"), "unpacks to more than 100 times its size; unpack it first"),
        ("a.jsonl.gz", row("a"), "unpacks to more than 100 times its size; unpack it first"),
        ("a.csv.gz", "id,y\n", "unpacks to more than 100 times its size; unpack it first"),
    ):
        (tmp_path / name).write_bytes(gzip.compress(content.encode()) + 20 * million)
        found = list(read_structures([tmp_path / name]))
        assert isinstance(found[-1], Rejected)
        assert phrase in found[-1].reason
        assert ("longer than" in phrase) == (text.LIMIT_VARIABLE in found[-1].reason)


def test_a_line_or_frame_may_not_be_without_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(text.LIMIT_VARIABLE, "1")
    (tmp_path / "a.jsonl").write_text(row("a") + " " * 10**6)
    (tmp_path / "a.csv").write_text("id," + "y" * 10**6)
    (tmp_path / "a.xyz").write_text("100000\n" + "Na 0 0 0 0 0 0 0 0\n" * 100_001)
    for name, what in (("a.jsonl", "a line"), ("a.csv", "a line"), ("a.xyz", "a frame")):
        (found,) = read_structures([tmp_path / name])
        assert isinstance(found, Rejected)
        assert f"{what} is longer than 1 million characters" in found.reason


def test_what_is_below_the_limit_is_read_from_compressed_files(tmp_path: Path) -> None:
    lines = "\n".join(row(f"x{k}") for k in range(3000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    assert sum(isinstance(found, Crystal) for found in read_structures([tmp_path / "a.jsonl.gz"])) == 3000


@pytest.mark.parametrize("value", ["0", "-1", "x", "1e9", "", "10000000", "²"])
def test_a_limit_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(text.LIMIT_VARIABLE, value)
    (tmp_path / "a.cif").write_text(CIF)
    with pytest.raises(ConfigError, match=f"{text.LIMIT_VARIABLE} is '.*', expected a positive number"):
        read_crystal(tmp_path / "a.cif")


def test_symmetry_operations_are_limited_in_number_and_length(tmp_path: Path) -> None:
    start, rest = CIF.split("'x, y, z'")
    for n_operations in (MAX_OPERATIONS - 3, MAX_OPERATIONS - 2):
        many = "\n".join(f"'x+{k}/{10 * MAX_OPERATIONS}, y, z'" for k in range(n_operations))
        (tmp_path / "a.cif").write_text(start + many + rest)
        with pytest.raises(StructureError) as caught:
            read_crystal(tmp_path / "a.cif")
        refused = f"{MAX_OPERATIONS + 1} symmetry operations are more than {MAX_OPERATIONS}" in caught.value.problem
        assert refused == (n_operations == MAX_OPERATIONS - 2)
    zeros = "0" * (MAX_LENGTH - len("x+0.,y,z"))
    assert parse_operation(f"x+0.{zeros},y,z", "a")[0].tolist() == [1, 0, 0, 0]
    with pytest.raises(StructureError, match="cannot be read"):
        parse_operation(f"x+0.{zeros}0,y,z", "a")


def test_a_large_cif_is_read_without_a_search_of_all_pairs(tmp_path: Path) -> None:
    """10,000 atoms would take a minute where every site is compared with every atom."""
    edge = 22
    axis = np.arange(edge) / edge
    frac = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    head = CIF.split("_chemical")[0].replace("5.6", str(2.5 * edge)) + "_space_group_name_H-M_alt 'P 1'\n"
    columns = "loop_\n_atom_site_label\n" + "".join(f"_atom_site_fract_{x}\n" for x in "xyz")
    rows = "".join(f"Fe{k} {x} {y} {z}\n" for k, (x, y, z) in enumerate(frac))
    (tmp_path / "a.cif").write_text(head + columns + rows)
    assert len(read_crystal(tmp_path / "a.cif")) == edge**3
    (tmp_path / "a.cif").write_text(head + columns + rows + "Fe 0.5 0.5 0.5\n")
    with pytest.raises(StructureError, match="several listed sites share one spot"):
        read_crystal(tmp_path / "a.cif")
