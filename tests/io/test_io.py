"""Structures in: what is written comes back the same, and nothing wrong is accepted in silence."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io import (
    Rejected,
    as_crystal,
    check,
    count_structures,
    files,
    formula,
    read_crystal,
    read_structures,
)
from crystalformers.io.composition import atomic_number, contradicts, parse_formula
from crystalformers.io.files import FORMATS, Format
from crystalformers.io.overlap import overlapping
from crystalformers.io.poscar import read_poscar
from crystalformers.io.text import read_text

CELL = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]])

CIF = """data_rocksalt
_cell_length_a 5.6
_cell_length_b 5.6
_cell_length_c 5.6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_chemical_formula_sum 'Na Cl'
_cell_formula_units_Z 4
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'x, y+1/2, z+1/2'
'x+1/2, y, z+1/2'
'x+1/2, y+1/2, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na+ 0 0 0 1
Cl1 Cl- 0.5 0.5 0.5 1
"""

POSCAR = """rock salt
1.0
4 0 0
0 4 0
0 0 4
Na Cl
1 1
Direct
0 0 0
0.5 0.5 0.5
"""


@st.composite
def crystals(draw: st.DrawFn) -> Crystal:
    """Atoms on a jittered 3 x 3 x 3 grid of a triclinic cell: never closer than an Angstrom."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_atoms = draw(st.integers(1, 9))
    lattice = np.diag(rng.uniform(5, 8, 3)) + np.tril(rng.uniform(-2, 2, (3, 3)), k=-1)
    lattice = lattice @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    grid = np.stack(np.meshgrid(*[[0, 1, 2]] * 3), axis=-1).reshape(-1, 3)
    frac = (rng.permutation(grid)[:n_atoms] + rng.uniform(-0.2, 0.2, (n_atoms, 3))) / 3 + rng.integers(-2, 3, 3)
    return Crystal(rng.integers(1, 99, n_atoms), frac, lattice, "random")


def assert_same(found: Crystal, expected: Crystal, tolerance: float) -> None:
    """Equal up to orientation, order of atoms and lattice translations."""
    metric, reference = (c.lattice @ c.lattice.T for c in (found, expected))
    np.testing.assert_allclose(metric, reference, atol=100 * tolerance)
    assert len(found) == len(expected)
    delta = found.frac_coords[:, None] - expected.frac_coords[None]
    near = (np.abs(delta - np.round(delta)) < tolerance).all(-1) & (found.numbers[:, None] == expected.numbers)
    assert (near.sum(0) == 1).all()
    assert (near.sum(1) == 1).all()


def pymatgen_structure(crystal: Crystal) -> Any:
    from pymatgen.core import Structure

    return Structure(crystal.lattice, crystal.symbols, crystal.frac_coords)


def ase_atoms(crystal: Crystal) -> Any:
    from ase import Atoms

    return Atoms(crystal.numbers, positions=crystal.positions, cell=crystal.lattice, pbc=True)


@settings(max_examples=25, deadline=None)
@given(crystal=crystals())
def test_round_trip_through_files(crystal: Crystal, tmp_path_factory: pytest.TempPathFactory) -> None:
    import ase.io
    from pymatgen.io.cif import CifWriter
    from pymatgen.io.vasp import Poscar

    folder = tmp_path_factory.mktemp("round")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of noble gases when it sorts
        structure = pymatgen_structure(crystal)
        CifWriter(structure, significant_figures=12).write_file(folder / "pymatgen.cif")
        Poscar(structure).write_file(folder / "POSCAR_pymatgen", significant_figures=14)
        (folder / "pymatgen.json").write_text(json.dumps(structure.as_dict()))
    atoms = ase_atoms(crystal)
    ase.io.write(folder / "ase.cif", atoms, format="cif")
    ase.io.write(folder / "CONTCAR", atoms, format="vasp")
    ase.io.write(folder / "cartesian.vasp", atoms, format="vasp", direct=False)
    ase.io.write(folder / "ase.extxyz", atoms, format="extxyz")
    ase.io.write(folder / "ase.json", atoms, format="json")
    for path in sorted(folder.iterdir()):
        tolerance = 2e-5 if path.name == "ase.cif" else 1e-7
        assert_same(read_crystal(path), crystal, tolerance)
        assert read_crystal(path).name == str(path)


@settings(max_examples=25, deadline=None)
@given(crystal=crystals())
def test_round_trip_through_objects(crystal: Crystal) -> None:
    for structure in (pymatgen_structure(crystal), ase_atoms(crystal), pymatgen_structure(crystal).as_dict()):
        found = as_crystal(structure, name="mine")
        assert_same(found, crystal, 1e-10)
        assert found.name == "mine"
    assert as_crystal(crystal) is crystal
    assert as_crystal(crystal, name="other").name == "other"


def test_names_of_objects() -> None:
    crystal = Crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], CELL, "rock salt")
    assert as_crystal(pymatgen_structure(crystal)).name == "Na1 Cl1"
    assert as_crystal(ase_atoms(crystal)).name == "NaCl"
    assert as_crystal(crystal).name == "rock salt"


def test_formula_is_that_of_pymatgen() -> None:
    def of(symbols: str) -> str:
        from crystalformers.periodic import ATOMIC_NUMBERS

        numbers = [ATOMIC_NUMBERS[s] for s in symbols.split()]
        return formula(Crystal(numbers, np.linspace(0, 0.9, len(numbers))[:, None] * np.ones(3), 9 * CELL))

    assert of("Ti O O O Sr") == "SrTiO3"
    assert of("Cl Na Cl Na") == "NaCl"
    assert of("O O") == "O2"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert of("He Ar") in {"ArHe", "HeAr"}


# Formulas


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Ca3(PO4)2", {20: 3, 15: 2, 8: 8}),
        ("C6 H12 O6", {6: 6, 1: 12, 8: 6}),
        ("'Al2 O3'", {13: 2, 8: 3}),
        ("[Fe(CN)6]2 D0.5 H0.5", {26: 2, 6: 12, 7: 12, 1: 1}),
        ("Li0.333", {3: 0.333}),
        ("Xx2O", None),
        ("(CaO", None),
        ("CaO)", None),
        ("?", None),
        ("", None),
        ("C6 H6, 2(H2 O)", None),
    ],
)
def test_parse_formula(text: str, counts: dict[int, float] | None) -> None:
    assert parse_formula(text) == counts


def test_formula_contradicts_atoms() -> None:
    numbers = np.array([22] * 36 + [8] * 72)
    assert not contradicts({22: 1, 8: 2}, numbers)
    assert not contradicts({22: 0.3333, 8: 0.6667}, numbers)
    assert contradicts({22: 1, 8: 2}, numbers[:-1])
    assert contradicts({22: 1, 8: 2, 1: 1}, numbers)
    assert contradicts({22: 1}, numbers)


# Two atoms on one spot


@settings(max_examples=60, deadline=None)
@given(crystal=crystals(), distance=st.floats(0.05, 1.2), shear=st.integers(-9, 9), seed=st.integers(0, 999))
def test_overlap_is_found_in_any_cell(crystal: Crystal, distance: float, shear: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=3)
    clash = crystal.positions[0] + distance * direction / np.linalg.norm(direction)
    numbers = np.append(crystal.numbers, rng.integers(1, 99))
    crystal = Crystal.from_positions(numbers, np.vstack([crystal.positions, clash]), crystal.lattice)
    change = np.array([[1, 0, 0], [shear, 1, 0], [0, shear // 2, 1]])
    frac = crystal.frac_coords @ np.linalg.inv(change) + rng.integers(-3, 4, (len(crystal), 3))
    sheared = Crystal(crystal.numbers, frac, change @ crystal.lattice)
    limit = 0.8 if min(numbers[0], numbers[-1]) > 1 else 0.5
    assume(abs(distance - limit) > 1e-9)  # at the very limit rounding decides
    others = [limit] if distance < limit else _distances_below(crystal, 0.8)
    expected = bool(others)
    assert overlapping(sheared.numbers[None], sheared.frac_coords[None], sheared.lattice[None])[0] == expected
    if expected:
        with pytest.raises(StructureError, match="apart"):
            check(sheared)
    else:
        assert check(sheared) is sheared


def _distances_below(crystal: Crystal, cutoff: float) -> list[float]:
    """Too close pairs as ASE sees them."""
    from ase.neighborlist import neighbor_list

    i, j, distance = neighbor_list("ijd", ase_atoms(crystal), cutoff)
    heavy = (crystal.numbers[i] > 1) & (crystal.numbers[j] > 1)
    return list(distance[heavy | (distance < 0.5)])


def test_atom_on_its_own_image() -> None:
    with pytest.raises(StructureError, match=r"its own periodic image are only 0\.700 Å apart"):
        check(Crystal([26], [[0, 0, 0]], np.diag([0.7, 5, 5])))
    with pytest.raises(StructureError, match="cannot hold 1 atoms"):
        check(Crystal([26], [[0, 0, 0]], np.diag([0.1, 0.1, 0.1])))
    assert check(Crystal([1], [[0, 0, 0]], np.diag([0.7, 5, 5])))


def test_atoms_at_the_very_limit_are_judged_one_way_or_the_other() -> None:
    lattice = np.array(
        [
            [-6.4996683, 1.87565769, -1.41299419],
            [-2.12194832, -1.97549468, 5.05226289],
            [-1.15796271, 4.59028863, 2.90818012],
        ]
    )
    rng, verdicts = np.random.default_rng(1), []
    for _ in range(50):
        position, direction = rng.normal(size=(2, 3))
        other = position + 0.8 * direction / np.linalg.norm(direction)
        crystal = Crystal.from_positions([39, 39], np.vstack([position, other]), lattice)
        try:
            check(crystal)
        except StructureError as error:
            verdicts.append(str(error))
    assert all("only 0.800 Å apart" in verdict for verdict in verdicts)


# CIF


def test_cif(tmp_path: Path) -> None:
    (tmp_path / "salt.cif").write_text(CIF)
    crystal = read_crystal(tmp_path / "salt.cif")
    assert (formula(crystal), len(crystal)) == ("NaCl", 8)
    assert as_crystal(str(tmp_path / "salt.cif")).name == str(tmp_path / "salt.cif")
    with gzip.open(tmp_path / "salt.CIF.gz", "wt") as file:
        file.write(CIF)
    assert_same(read_crystal(tmp_path / "salt.CIF.gz"), crystal, 1e-9)


def test_cif_is_read_without_warnings(tmp_path: Path) -> None:
    (tmp_path / "salt.cif").write_text(CIF.replace("Na+", "Ar").replace("Na Cl", "Ar Cl").replace("'x, y, z'", "x,y,z"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert formula(read_crystal(tmp_path / "salt.cif")) == "ClAr"


@pytest.mark.parametrize(
    "text",
    [
        CIF.replace("_cell_", "_CELL_").replace("_atom_site_occupancy", "_Atom_Site_Occupancy"),
        CIF.replace("data_", "DATA_"),
        CIF.replace("0 0 0 1", "0.0(3) . 0 ?"),
        CIF.replace("Na+", "NA").replace("Na1", "OH1"),
        CIF.replace("'Na Cl'", "?").replace("Z 4", "Z ?"),
        CIF.replace("'Na Cl'", "'Na4 Cl4'"),
        "data_text\n_title\n;\ndata_not a block\n;\n" + CIF + "\ndata_pattern\nloop_\n_pd_x\n1\n2\n",
        CIF.replace("loop_", "_title\n;\ndata_not a block\n_cell_length_a 7\n;\nloop_", 1),
    ],
)
def test_cif_dialects(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.cif").write_text(text)
    crystal = read_crystal(tmp_path / "a.cif")
    assert sorted(crystal.numbers) == [11] * 4 + [17] * 4


def test_coordinates_near_a_third_stay_as_they_are_in_p1(tmp_path: Path) -> None:
    text = CIF.replace("'x, y+1/2, z+1/2'\n'x+1/2, y, z+1/2'\n'x+1/2, y+1/2, z'\n", "").replace("Z 4", "Z 1")
    (tmp_path / "a.cif").write_text(text.replace("0.5 0.5 0.5", "0.33335 0.66665 0.5"))
    crystal = read_crystal(tmp_path / "a.cif")
    assert list(crystal.frac_coords[crystal.numbers == 17][0]) == [0.33335, 0.66665, 0.5]


def test_deuterium_is_hydrogen(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIF.replace("Na+", "D").replace("'Na Cl'", "'D Cl'"))
    assert formula(read_crystal(tmp_path / "a.cif")) == "HCl"


BAD_CIF = {
    "partially occupied (occupancy 0.5)": CIF.replace("0 0 0 1", "0 0 0 0.5"),
    "partially occupied (occupancy 0)": CIF.replace("0 0 0 1", "0 0 0 0"),
    "site Na1 has no numeric coordinates": CIF.replace("0 0 0 1", "? 0 0 1"),
    "'X' is not an element": CIF.replace("Na+", "X"),
    "'Es' is not an element": CIF.replace("Na+", "Es"),
    "'OH2' is not an element": CIF.replace("Na+", "OH2"),
    "is shared by several species (0.8Nb + 0.2Zr)": CIF.replace("Na+", "'0.8Nb + 0.2Zr'"),
    "the file says 'Na Cl2' but its sites give 'Na4 Cl4'": CIF.replace("'Na Cl'", "'Na Cl2'"),
    "the file says 'Na Cl H' but its sites give 'Na4 Cl4'": CIF.replace("'Na Cl'", "'Na Cl H'"),
    "the file says Z = 4 of 'Na Cl', 8 atoms, but its sites and symmetry give 2": CIF.replace(
        "'x, y+1/2, z+1/2'\n'x+1/2, y, z+1/2'\n'x+1/2, y+1/2, z'\n", ""
    ),
    "the file says 'Na Cl3' but its sites": CIF.replace("'Na Cl'", "\n;\nNa Cl3\n;"),
    "gives no usable _cell_length_b": CIF.replace("_cell_length_b 5.6\n", ""),
    "gives no usable _cell_angle_beta": CIF.replace("beta 90", "beta ?"),
    "the cell has no volume": CIF.replace("beta 90", "beta 0"),
    "partially occupied (occupancy 0.99)": CIF.replace("0 0 0 1", "0 0 0 0.99"),
    "several listed sites share one spot": CIF.replace("0.5 0.5 0.5 1", "0 0 0 1"),
    "share one spot, by themselves or by symmetry": CIF + "Cl2 Cl- 0 0 0.5 1\n",
    "apart; remove the duplicate atom": CIF.replace("'Na Cl'", "?") + "Cl2 Cl- 0.5 0.5 0.51 1\n",
    "carries hydrogen atoms without positions": CIF.replace("_occupancy", "_attached_hydrogens"),
    "lists no atoms": CIF.split("loop_\n_atom", maxsplit=1)[0],
    "need _atom_site_label and _atom_site_fract_x": CIF.replace("_atom_site_fract_x", "_atom_site_Cartn_x"),
    "the CIF is malformed": CIF.replace("0.5 0.5 0.5 1", "0.5 0.5"),
    "no symmetry operations": CIF.replace("_symmetry_equiv_pos_as_xyz", "_other").replace("Z 4", "Z ?"),
    "label 'HO1' leaves the element in doubt": CIF.replace("_atom_site_type_symbol\n", "")
    .replace("Na1 Na+", "HO1")
    .replace("Cl1 Cl-", "Cl1")
    .replace("'Na Cl'", "?"),
    "site Na1 has '.' for a coordinate": CIF.replace("0 0 0 1", "0 . 0 1").replace("'Na Cl'", "?"),
}


@pytest.mark.parametrize("phrase", BAD_CIF)
def test_bad_cif(tmp_path: Path, phrase: str) -> None:
    path = tmp_path / "bad.cif"
    path.write_text(BAD_CIF[phrase])
    with pytest.raises(StructureError) as error:
        read_crystal(path)
    assert phrase in str(error.value)
    assert str(error.value).startswith(str(path))
    assert str(error.value).count(str(path)) == 1


def test_site_labelled_as_a_group_of_atoms_is_refused(tmp_path: Path) -> None:
    """Hydroxide or water without type symbol: where its hydrogen atoms are is not told."""
    text = CIF.replace("_atom_site_type_symbol\n", "").replace("Na1 Na+", "OH").replace("Cl1 Cl-", "Cl1")
    (tmp_path / "a.cif").write_text(text.replace("'Na Cl'", "'O Cl'"))
    with pytest.raises(StructureError, match=r"site OH \(O\) is lost"):
        read_crystal(tmp_path / "a.cif")


def test_space_group_without_operations_needs_confirmation(tmp_path: Path) -> None:
    start, rest = CIF.split("loop_\n_symmetry")
    text = start + "_symmetry_space_group_name_H-M 'F m -3 m'\nloop_\n_atom" + rest.split("loop_\n_atom")[1]
    (tmp_path / "a.cif").write_text(text)
    assert len(read_crystal(tmp_path / "a.cif")) == 8
    (tmp_path / "a.cif").write_text(text.replace("_cell_formula_units_Z 4\n", ""))
    with pytest.raises(StructureError, match="lists no symmetry operations"):
        read_crystal(tmp_path / "a.cif")
    (tmp_path / "a.cif").write_text(text.replace("F m -3 m", "unheard of"))
    with pytest.raises(StructureError, match="symmetry give 2"):
        read_crystal(tmp_path / "a.cif")


def test_cif_of_several_blocks(tmp_path: Path) -> None:
    path = tmp_path / "many.cif"
    path.write_text(CIF + BAD_CIF["'X' is not an element"].replace("rocksalt", "bad") + CIF)
    first, bad, last = read_structures([path])
    assert isinstance(first, Crystal)
    assert isinstance(last, Crystal)
    assert first.name == last.name == f"{path}#rocksalt"
    assert isinstance(bad, Rejected)
    assert bad.name == f"{path}#bad"
    with pytest.raises(StructureError, match="holds 3 structures, one is needed"):
        read_crystal(path)


# POSCAR


@pytest.mark.parametrize(
    "text",
    [
        POSCAR,
        POSCAR.replace("Direct", "Selective dynamics\ndirect").replace("0 0 0\n0.5", "0 0 0 T T F\n0.5"),
        POSCAR.replace("Na Cl", "Na_pv Cl/0123abc"),
        POSCAR.replace("Direct", "Cartesian").replace("0.5 0.5 0.5", "2 2 2"),
        POSCAR.replace("Direct", "cartesian").replace("0.5 0.5 0.5", "1 1 1").replace("1.0\n", "2\n").replace("4", "2"),
        POSCAR.replace("1.0\n", "-64\n"),
        POSCAR.replace("1.0\n4 0 0", "2 1 1\n2 0 0"),
        POSCAR.replace("Na Cl\n", "").replace("rock salt", "Na Cl"),
        POSCAR.replace("Na Cl\n", "").replace("0 0 0\n0.5 0.5 0.5", "0 0 0 # Na1\n0.5 0.5 0.5 # Cl1"),
        POSCAR.replace("Na Cl\n", "").replace("0 0 0\n0.5 0.5 0.5", "0 0 0 Na\n0.5 0.5 0.5 Cl"),
        POSCAR + "\n0.1 0.2 0.3\n0.1 0.2 0.3\n",
        POSCAR.replace("\n", "\r\n"),
        POSCAR.replace("0.5 0.5 0.5", "0.5D0 5.0d-1 .5"),
    ],
)
def test_poscar_dialects(text: str) -> None:
    expected = Crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], CELL)
    assert_same(check(read_poscar(text, "POSCAR")), expected, 1e-9)


BAD_POSCAR = {
    "the file names no elements (VASP 4 format)": POSCAR.replace("Na Cl\n", ""),
    "disagree with the atom counts": POSCAR.replace("Na Cl\n1 1", "2").replace(
        "0 0 0\n0.5 0.5 0.5", "0 0 0 Na\n0.5 0.5 0.5 Cl"
    ),
    "'Zz' is not an element": POSCAR.replace("Na", "Zz"),
    "2 element symbols but 3 atom counts": POSCAR.replace("1 1", "1 1 1") + "0.2 0.2 0.2\n",
    "the file is cut short, 2 atoms are counted": POSCAR.replace("0.5 0.5 0.5\n", "\n"),
    "more positions follow than the 2 atoms": POSCAR + "0.2 0.2 0.2\n",
    "the position '0.5 0.5' does not hold 3 numbers": POSCAR.replace("0.5 0.5 0.5", "0.5 0.5"),
    "the lattice vector '0 four 0'": POSCAR.replace("0 4 0", "0 four 0"),
    "neither 'Direct' nor 'Cartesian'": POSCAR.replace("Direct\n", ""),
    "the scaling factor '0' must be positive": POSCAR.replace("1.0", "0"),
    "the cell has no volume": POSCAR.replace("0 4 0", "4 0 0"),
    "NaN or infinite": POSCAR.replace("0.5 0.5 0.5", "nan 0.5 0.5"),
    "should hold the number of atoms": POSCAR.replace("1 1", "one one"),
    "Å apart": POSCAR.replace("0.5 0.5 0.5", "0.99 0.99 0.99"),
    "needs at least 8 lines": "a\nb\n",
    "the file is empty": " \n",
}


@pytest.mark.parametrize("phrase", BAD_POSCAR)
def test_bad_poscar(tmp_path: Path, phrase: str) -> None:
    path = tmp_path / "POSCAR-bad"
    path.write_text(BAD_POSCAR[phrase])
    with pytest.raises(StructureError) as error:
        read_crystal(path)
    assert phrase in str(error.value)
    assert str(error.value).startswith(str(path))


# ASE, pymatgen, JSON


def test_frames_of_extxyz(tmp_path: Path) -> None:
    import ase.io

    atoms = ase_atoms(Crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], CELL))
    slab = atoms.copy()
    slab.pbc = (True, True, False)
    path = tmp_path / "frames.extxyz"
    ase.io.write(path, [atoms, slab, atoms], format="extxyz")
    first, bad, last = read_structures([path])
    assert (first.name, bad.name, last.name) == (f"{path}#0", f"{path}#1", f"{path}#2")
    assert isinstance(bad, Rejected)
    assert "not periodic in all three directions" in bad.reason
    with gzip.open(tmp_path / "one.xyz.gz", "wt") as file:
        ase.io.write(file, atoms, format="extxyz")
    assert len(read_crystal(tmp_path / "one.xyz.gz")) == 2


def test_frames_after_a_broken_one_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "cut.xyz"
    path.write_text('1\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 0 0\n1\nLattice="4 0 0 0 4 0 0 0 4"\nQq 0 0 0\n')
    good, bad = read_structures([path])
    assert isinstance(good, Crystal)
    assert isinstance(bad, Rejected)
    assert "cannot be read" in bad.reason


def test_ase_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xyz").write_text("1\n\nNa 0 0 0\n")
    monkeypatch.setitem(sys.modules, "ase.io", None)
    with pytest.raises(StructureError, match=r"pip install crystalformers\[ase\]"):
        read_crystal(tmp_path / "a.xyz")


def test_bad_objects() -> None:
    from ase import Atoms
    from pymatgen.core import Lattice, Molecule, Structure

    cubic = Lattice.cubic(4)
    cases = {
        "site 1 is disordered (Na 0.5)": Structure(cubic, [{"Na": 0.5}], [[0, 0, 0]]),
        "site 1 is disordered (Na 0.5 + K 0.5)": Structure(cubic, [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]),
        "'X' is not an element": Structure(cubic, ["X"], [[0, 0, 0]]),
        "'Fm' is not an element": Structure(cubic, ["Fm"], [[0, 0, 0]]),
        "not periodic in all three": Structure(Lattice(4 * np.eye(3), pbc=(True, True, False)), ["Na"], [[0, 0, 0]]),
        "a Molecule is not a structure": Molecule(["H"], [[0, 0, 0]]),
        "an int is not a structure": 7,
        "not periodic in all": Atoms("Na", cell=CELL),
        "the cell has no volume": Atoms("Na", pbc=True),
        "atomic number 0": Atoms("X", cell=CELL, pbc=True),
        "the structure is disordered": Atoms("Na", cell=CELL, pbc=True, info={"occupancy": {"0": {"Na": 0.5}}}),
        "the structure holds no atoms": Atoms(cell=CELL, pbc=True),
        "NaN or infinite": Atoms("Na", positions=[[np.nan, 0, 0]], cell=CELL, pbc=True),
        "apart": Atoms("Na2", positions=[[0, 0, 0], [3.9, 0, 0]], cell=CELL, pbc=True),
        "not a pymatgen Structure": {"lattice": {}, "sites": []},
    }
    for phrase, structure in cases.items():
        with pytest.raises(StructureError) as error:
            as_crystal(structure, name="mine")
        assert phrase in str(error.value)
        assert str(error.value).startswith("mine: ")


def test_deuterium_and_oxidation_states_of_pymatgen() -> None:
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4), ["D+", "Fe3+"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert list(as_crystal(structure).numbers) == [1, 26]
    assert list(as_crystal(structure.as_dict()).numbers) == [1, 26]


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("{", "not valid JSON"),
        ("{}", "neither a pymatgen Structure"),
        ("[1, 2]", "neither a pymatgen Structure"),
        ("[]", "holds no structure"),
        ('{"sites": 3}', "not a pymatgen Structure"),
        ("", "the file is empty"),
        ('{"ids": [1], "nextid": 2, "1": {"numbers": 3}}', "cannot be read"),
    ],
)
def test_bad_json(tmp_path: Path, text: str, phrase: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StructureError) as error:
        read_crystal(tmp_path / "a.json")
    assert phrase in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "a.json"))


def test_json_list_and_encoded_atoms(tmp_path: Path) -> None:
    from ase.io.jsonio import encode

    crystal = Crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], CELL)
    (tmp_path / "two.json").write_text(json.dumps([pymatgen_structure(crystal).as_dict()] * 2))
    assert [len(found) for found in read_structures([tmp_path / "two.json"])] == [2, 2]
    (tmp_path / "atoms.json").write_text(encode(ase_atoms(crystal)))
    assert_same(read_crystal(tmp_path / "atoms.json"), crystal, 1e-9)


# Formats


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
