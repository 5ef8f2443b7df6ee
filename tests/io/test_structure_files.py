"""Files of any format: how they are known, many of them, and the parts of errors."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structures import CIF, POSCAR

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io import (
    Rejected,
    as_crystal,
    check,
    count_structures,
    files,
    read_crystal,
    read_structures,
)
from crystalformers.io.composition import atomic_number
from crystalformers.io.files import FORMATS, Format
from crystalformers.io.text import read_text


def test_adding_a_format_takes_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy format: a line for each crystal, the edge of a cube and the element in its corner."""

    def read_cubes(path: Path) -> Iterator[Crystal | Rejected]:
        for index, line in enumerate(read_text(path).splitlines()):
            name = f"{path}#{index}"
            try:
                edge, symbol = line.split()
                number = atomic_number(symbol, name)
                yield check(Crystal(np.array([number]), np.zeros((1, 3)), float(edge) * np.eye(3), name))
            except StructureError as error:
                yield Rejected.of(name, error)

    (tmp_path / "two.cube").write_text("3.3 Po\n4 Xx\n")
    with gzip.open(tmp_path / "one.CUBE.gz", "wt") as file:
        file.write("3.3 Po\n")
    assert [type(item) for item in read_structures([tmp_path])] == [Rejected, Rejected]

    monkeypatch.setattr(files, "FORMATS", (*FORMATS, Format("cubes", ("*.cube",), read_cubes, many=True)))

    one, first, second = read_structures([tmp_path])
    assert (one.symbols, first.symbols) == (["Po"], ["Po"])
    assert second == Rejected(
        f"{tmp_path / 'two.cube'}#1",
        "'Xx' is not an element the models know (H to Cf)",
        f"{tmp_path / 'two.cube'}#1",
        "replace it by a chemical symbol or remove the atom",
    )
    assert read_crystal(tmp_path / "one.CUBE.gz").volume == pytest.approx(3.3**3)
    assert count_structures([tmp_path]) is None
    assert "cubes (*.cube)" in files.known_formats()
    (tmp_path / "alone.cube").write_text("3.3 Po\n")
    (tmp_path / "table.csv").write_text("id,y\nalone,1\n")
    (alone,) = read_structures([tmp_path / "table.csv"])
    assert (alone.name, alone.symbols) == ("alone", ["Po"])


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("a.cif", "CIF"),
        ("A.CIF.GZ", "CIF"),
        ("POSCAR.cif", "CIF"),
        ("a.mcif", "CIF"),
        ("POSCAR", "POSCAR"),
        ("contcar_1.gz", "POSCAR"),
        ("POSCAR.vasp", "POSCAR"),
        ("a.vasp", "POSCAR"),
        ("poscar.json", "pymatgen or ASE JSON"),
        ("a.xyz", "extended XYZ with a lattice"),
        ("CONTCAR.extxyz", "extended XYZ with a lattice"),
        ("notes.txt", None),
        ("cif", None),
        ("my-POSCAR", None),
    ],
)
def test_formats_by_name(name: str, label: str | None) -> None:
    known = files.format_of(Path("POSCAR-folder.cif") / name)
    assert (known and known.label) == label


def test_reading_files_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIF)
    (tmp_path / "POSCAR").write_text(POSCAR)
    code = f"""
import sys
from crystalformers.io import Rejected, read_structures
found = list(read_structures([{str(tmp_path)!r}]))
assert [len(crystal) for crystal in found] == [2, 8], found
loaded = sorted({{"torch", "pandas", "matplotlib", "scipy", "pymatgen", "ase", "lightning_fabric"}} & set(sys.modules))
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Errors


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", ["1e15", "1e308", "-1e300"])
def test_numbers_that_overflow_are_refused_in_every_format(tmp_path: Path, number: str) -> None:
    texts = {
        "a.cif": CIF.replace("0.5 0.5 0.5", f"0.5 {number} 0.5"),
        "b.cif": CIF.replace("_cell_length_b 5.6", f"_cell_length_b {number.removeprefix('-')}"),
        "a.vasp": POSCAR.replace("0.5 0.5 0.5", f"0.5 {number} 0.5"),
        "b.vasp": POSCAR.replace("0 4 0", f"0 {number} 0"),
        "c.vasp": POSCAR.replace("1.0\n", f"{number}\n"),
        "d.vasp": POSCAR.replace("1.0\n", f"{number}\n").replace("Direct", "Cartesian"),
        "e.vasp": POSCAR.replace("1.0\n", "inf\n"),
        "f.vasp": POSCAR.replace("0.5 0.5 0.5", f"0.5 {number} 0.5").replace("Direct", "Cartesian"),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(StructureError, match=r"too large|longer than|no volume|NaN or infinite|scaling factor"):
            read_crystal(tmp_path / name)


def test_errors_carry_their_parts(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"
    path.write_text(POSCAR.replace("Na", "Zz"))
    (rejected,) = read_structures([path])
    assert isinstance(rejected, Rejected)
    assert rejected.name == rejected.where == str(path)
    assert rejected.problem == "'Zz' is not an element the models know (H to Cf)"
    assert rejected.remedy == "replace it by a chemical symbol or remove the atom"
    with pytest.raises(StructureError) as caught:
        read_crystal(path)
    error = caught.value
    assert (error.problem, error.where, error.remedy) == (rejected.problem, rejected.where, rejected.remedy)
    assert str(error) == str(rejected) == rejected.reason


@pytest.mark.parametrize(
    ("structure", "kind"), [(7, "an int"), (3.5, "a float"), (None, "a NoneType"), (np.eye(3), "a ndarray")]
)
def test_what_is_not_a_structure_is_called_by_its_type(structure: Any, kind: str) -> None:
    with pytest.raises(StructureError, match=f"^structure: {kind} is not a structure; pass a Crystal"):
        as_crystal(structure)


# Many files


def test_directory(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "POSCAR-2").write_text(POSCAR)
    (tmp_path / "b" / "notes.txt").write_text("not a structure")
    (tmp_path / "a.cif").write_text(CIF)
    (tmp_path / "c.csv").write_text("id,y\na,1\n")
    (tmp_path / ".hidden.cif").write_text("rubbish")
    found = list(read_structures([tmp_path]))
    names = [str(Path(item.name).relative_to(tmp_path)) for item in found]
    assert names == ["a.cif", "b/POSCAR-2", "b/notes.txt", "c.csv"]
    assert [isinstance(item, Rejected) for item in found] == [False, False, True, True]
    assert "not a structure file by its name; known are CIF" in found[2].reason
    assert "a table inside a directory is not read" in found[3].reason
    assert count_structures([tmp_path]) == 4


def test_paths_that_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cut.cif.gz").write_bytes(gzip.compress(CIF.encode())[:-20])
    (tmp_path / "plain.cif.gz").write_text(CIF)
    (tmp_path / "latin.json").write_bytes('{"sites": "é"}'.encode("latin-1"))
    phrases = {
        "empty": "holds no files",
        "missing.cif": "No such file",
        "missing.parquet": "no such file",
        "cut.cif.gz": "cannot be read",
        "plain.cif.gz": "cannot be read",
        "latin.json": "cannot be read",
    }
    found = list(read_structures([tmp_path / name for name in phrases]))
    for item, (name, phrase) in zip(found, phrases.items(), strict=True):
        assert isinstance(item, Rejected)
        assert item.name == str(tmp_path / name)
        assert phrase in item.reason
        assert str(tmp_path / name) in item.reason


def test_stream_is_lazy(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIF)
    stream = read_structures([tmp_path / "a.cif", tmp_path / "later.cif"])
    assert isinstance(next(stream), Crystal)
    (tmp_path / "later.cif").write_text(CIF)
    assert isinstance(next(stream), Crystal)


def test_count_is_unknown_for_files_of_many_frames(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("")
    assert count_structures([tmp_path / "a.xyz"]) is None
    assert count_structures([tmp_path / "a.cif", tmp_path / "POSCAR"]) == 2
