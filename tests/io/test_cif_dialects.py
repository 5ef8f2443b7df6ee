"""CIFs as programs write them are read, and bad ones are named."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path

import pytest
from structures import CIF, assert_same

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io import (
    Rejected,
    as_crystal,
    formula,
    read_crystal,
    read_structures,
)


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
