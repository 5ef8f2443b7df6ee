"""Formats that are read through ASE: what ASE writes comes back the same; bad files are named and stop no other."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from structures import CIF, ase_atoms, assert_same

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError, TableError
from crystalformers.io import Rejected, count_structures, read_crystal, read_structures
from crystalformers.io.ase_files import ASE_FORMATS
from crystalformers.io.files import format_of
from crystalformers.io.tables import open_source

LATTICE = [[5.0, 0, 0], [1.0, 5.5, 0], [0.5, -0.7, 6.0]]
CRYSTAL = Crystal([11, 11, 17], [[0.01, 0.02, 0.03], [0.5, 0.5, 0.1], [0.3, 0.7, 0.6]], LATTICE, "written")

WRITTEN = {
    "a.traj": 1e-9,
    "XDATCAR": 1e-6,
    "a.pwi": 1e-6,
    "geometry.in": 1e-6,
    "a.magres": 1e-6,
    "a.gen": 1e-6,
    "a.res": 1e-3,
    "a.cfg": 1e-4,
    "a.xsd": 1e-6,
    "a.f34": 1e-6,
    "a.rmc6f": 1e-4,
    "a.xsf": 1e-4,
}
"""Files that ASE can also write, and how precisely."""


def ase_format(name: str) -> str:
    found = format_of(Path(name))
    assert found is not None
    assert found.label == "formats of ASE"
    return next(form for pattern, form in ASE_FORMATS.items() if Path(name.lower()).match(pattern))


@pytest.mark.parametrize("name", WRITTEN)
def test_what_ase_writes_comes_back_the_same(name: str, tmp_path: Path) -> None:
    options = {"espresso-in": {"pseudopotentials": {"Na": "Na.upf", "Cl": "Cl.upf"}}}
    form = ase_format(name)
    atoms = ase_atoms(CRYSTAL)
    atoms.info["name"] = "a"
    ase.io.write(tmp_path / name, atoms, format=form, **options.get(form, {}))
    found = read_crystal(tmp_path / name)
    assert found.name == str(tmp_path / name)
    assert_same(found, CRYSTAL, WRITTEN[name])


def test_every_format_is_one_that_ase_can_read() -> None:
    known = ase.io.formats.ioformats
    assert all(known[form].can_read for form in ASE_FORMATS.values())
    assert not {"bundletrajectory", "json", "db"} & set(ASE_FORMATS.values())


@pytest.mark.parametrize(
    ("source", "name", "symbols"),
    [
        ("OUTCAR_example_1", "OUTCAR", None),
        ("OUTCAR_example_1", "run@1_OUTCAR", None),
        ("vasprun_pstress.xml", "vasprun.xml", ["C", "C"]),
        ("vasprun_dfpt.xml", "my_vasprun.xml.gz", ["Na", "Cl"]),
    ],
)
def test_output_of_vasp(source: str, name: str, symbols: list[str] | None, tmp_path: Path) -> None:
    """Files that come with ASE."""
    content = (Path(ase.__file__).parent / "test" / "testdata" / "vasp" / source).read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    *_, last = read_structures([tmp_path / name])
    assert isinstance(last, Crystal), str(last)
    expected = ase.io.read(
        Path(ase.__file__).parent / "test" / "testdata" / "vasp" / source, format=ase_format(name.removesuffix(".gz"))
    )
    assert last.symbols == expected.get_chemical_symbols()
    assert symbols is None or last.symbols == symbols
    assert np.allclose(last.positions, expected.positions)
    assert np.allclose(last.lattice, expected.cell.array)


def test_a_trajectory_gives_all_its_steps(tmp_path: Path) -> None:
    steps = [ase_atoms(CRYSTAL), ase_atoms(CRYSTAL), ase_atoms(CRYSTAL)]
    steps[1].pbc = (True, True, False)
    steps[2].calc = SinglePointCalculator(steps[2], energy=-3.0)
    path = tmp_path / "relax.traj"
    ase.io.write(path, steps)
    first, bad, last = read_structures([path])
    assert [first.name, bad.name, last.name] == [f"{path}#{k}" for k in range(3)]
    assert isinstance(bad, Rejected)
    assert "not periodic" in bad.reason
    assert_same(last, CRYSTAL, 1e-9) if isinstance(last, Crystal) else pytest.fail(str(last))
    assert count_structures([path]) is None


def test_text_formats_are_read_compressed(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "XDATCAR", ase_atoms(CRYSTAL), format="vasp-xdatcar")
    with gzip.open(tmp_path / "XDATCAR.gz", "wb") as file:
        file.write((tmp_path / "XDATCAR").read_bytes())
    assert_same(read_crystal(tmp_path / "XDATCAR.gz"), CRYSTAL, 1e-6)
    (tmp_path / "a.traj.gz").write_bytes(b"x")
    with pytest.raises(StructureError, match="read unpacked only; unpack it"):
        read_crystal(tmp_path / "a.traj.gz")


@pytest.mark.parametrize("name", ["OUTCAR", "vasprun.xml", "a.pwo", "a.traj", "a.xsd", "geometry.in", "a.res"])
@pytest.mark.parametrize("content", [b"", b"rubbish\n", b"\x00\xff\x00" * 50])
def test_a_bad_file_is_named_and_stops_no_other(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "z.cif").write_text(CIF)
    bad, good = read_structures([tmp_path / name, tmp_path / "z.cif"])
    assert isinstance(bad, Rejected)
    assert str(tmp_path / name) in str(bad)
    assert isinstance(good, Crystal)


@pytest.mark.parametrize("name", ["a.traj", "OUTCAR", "geometry.in"])
def test_a_missing_file_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="No such file"):
        read_crystal(tmp_path / name)


def test_ase_is_named_where_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ase.io.write(tmp_path / "a.traj", ase_atoms(CRYSTAL))
    (tmp_path / "a.db").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "ase.io", None)
    monkeypatch.setitem(sys.modules, "ase.db", None)
    with pytest.raises(StructureError, match=r"pip install 'crystalformers\[ase\]'"):
        read_crystal(tmp_path / "a.traj")
    with pytest.raises(TableError, match=r"pip install 'crystalformers\[ase\]'"):
        open_source(tmp_path / "a.db")


def test_ase_is_imported_only_for_its_formats(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIF)
    (tmp_path / "b.jsonl").write_text("")
    code = f"""
import sys
from crystalformers import open_table, read_structures
next(read_structures([{str(tmp_path / "a.cif")!r}]))
assert not {{"ase", "torch", "pandas", "sklearn"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_positions_do_not_depend_on_the_format(tmp_path: Path) -> None:
    distances = []
    for name in ("a.traj", "a.xsf", "XDATCAR"):
        ase.io.write(tmp_path / name, ase_atoms(CRYSTAL), format=ase_format(name))
        crystal = read_crystal(tmp_path / name)
        delta = crystal.frac_coords[1] - crystal.frac_coords[0]
        distances.append(np.linalg.norm((delta - np.round(delta)) @ crystal.lattice))
    assert np.ptp(distances) < 1e-3
