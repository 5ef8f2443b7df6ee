"""CIF: space groups by name, by number and by operations; rounded coordinates, occupancies and dummies, as by gemmi."""

from __future__ import annotations

from pathlib import Path

import gemmi
import numpy as np
import pytest
from structures import CIF
from test_cif import same_atoms

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io import formula, read_crystal
from crystalformers.io.symmetry import count_different, is_invariant, operations_of, space_groups

OPERATIONS = {n: [op.triplet() for op in gemmi.find_spacegroup_by_number(225).operations()][:n] for n in (1, 48, 192)}


def written(
    cell: str, entries: str = "", sites: str = "", operations: list[str] | None = None, columns: str = ""
) -> str:
    """A CIF: six cell parameters, further entries, rows of label, element, x, y, z and more columns."""
    names = [f"length_{x}" for x in "abc"] + [f"angle_{x}" for x in ("alpha", "beta", "gamma")]
    rows = ["data_x", *(f"_cell_{name} {number}" for name, number in zip(names, cell.split(), strict=True)), entries]
    if operations is not None:
        rows += ["loop_", "_space_group_symop_operation_xyz", *(f"'{text}'" for text in operations)]
    tags = ["label", "type_symbol", *(f"fract_{x}" for x in "xyz"), *columns.split()]
    return "\n".join([*rows, "loop_", *(f"_atom_site_{tag}" for tag in tags), sites, ""])


def read(folder: Path, text: str) -> Crystal:
    (folder / "a.cif").write_text(text)
    return read_crystal(folder / "a.cif")


def by_gemmi(text: str) -> Crystal:
    """The structure as gemmi reads it, with the sites that it merges on special positions."""
    structure = gemmi.make_small_structure_from_block(gemmi.cif.read_string(text).sole_block())
    sites = structure.get_all_unit_cell_sites()
    frac = [site.fract.tolist() for site in sites]
    lattice = np.array(structure.cell.orth.mat.tolist()).T
    return Crystal([site.element.atomic_number for site in sites], frac, lattice)


def assert_as_by_gemmi(crystal: Crystal, text: str, tolerance: float = 1e-9) -> None:
    expected = by_gemmi(text)
    assert crystal.volume == pytest.approx(expected.volume, rel=1e-5)
    assert len(crystal) == len(expected)
    assert same_atoms(crystal, expected, tolerance)


SALT = "Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5"
CUBE = "5.64 5.64 5.64 90 90 90"
NAMED = ("_space_group_name_H-M_alt 'F m -3 m'", "_symmetry_Int_Tables_number 225", "_space_group_name_Hall '-F 4 2 3'")


# Operations that are missing


@pytest.mark.parametrize("entries", NAMED)
@pytest.mark.parametrize("n_listed", [1, 48])
def test_fewer_operations_than_the_named_group_has_are_refused(tmp_path: Path, entries: str, n_listed: int) -> None:
    with pytest.raises(StructureError) as caught:
        read(tmp_path, written(CUBE, entries, SALT, OPERATIONS[n_listed]))
    assert f"names space group F m -3 m of 192 symmetry operations but lists {n_listed}" in caught.value.problem
    assert "list all of them, name the group that they form" in caught.value.remedy


@pytest.mark.parametrize("entries", NAMED)
def test_all_operations_of_the_named_group_are_applied(tmp_path: Path, entries: str) -> None:
    text = written(CUBE, entries, SALT, OPERATIONS[192])
    crystal = read(tmp_path, text)
    assert len(crystal) == 8
    assert_as_by_gemmi(crystal, text)


def test_sites_that_have_the_missing_symmetry_anyway_are_read(tmp_path: Path) -> None:
    """Every atom of the cell is listed, and the name of the group is there to inform."""
    centred = ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0))
    rows = [f"Na{k} Na {x} {y} {z}" for k, (x, y, z) in enumerate(centred)]
    rows += [f"Cl{k} Cl {x + 0.5} {y} {z}" for k, (x, y, z) in enumerate(centred)]
    text = written(CUBE, NAMED[0], "\n".join(rows), ["x,y,z"])
    crystal = read(tmp_path, text)
    assert len(crystal) == 8
    assert_as_by_gemmi(crystal, text)
    with pytest.raises(StructureError, match="of 192 symmetry operations but lists 1"):
        read(tmp_path, text.replace("Na0 Na 0 0 0", "Na0 Na 0.02 0 0"))
    with pytest.raises(StructureError, match="of 192 symmetry operations but lists 1"):
        read(tmp_path, text.replace("Na0 Na", "Na0 K"))


def test_formula_and_z_confirm_a_primitive_cell_that_bears_the_name_of_its_group(tmp_path: Path) -> None:
    cell = "3.988 3.988 3.988 60 60 60"
    confirmed = f"{NAMED[0]}\n_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 1"
    assert len(read(tmp_path, written(cell, confirmed, SALT, ["x,y,z"]))) == 2
    with pytest.raises(StructureError, match="of 192 symmetry operations but lists 1"):
        read(tmp_path, written(cell, NAMED[0], SALT, ["x,y,z"]))


def test_count_and_invariance_of_operations() -> None:
    fcc = operations_of(gemmi.find_spacegroup_by_number(225))
    assert count_different(np.concatenate([fcc, fcc + np.array([0, 0, 0, 1])])) == 192
    numbers, frac = np.array([11, 17]), np.array([[0, 0, -1e-17], [0.5, 0.5, 0.5]])
    simple = operations_of(gemmi.find_spacegroup_by_number(221))
    assert is_invariant(numbers, frac, simple)
    assert not is_invariant(numbers, frac, fcc)
    assert not is_invariant(numbers, frac + np.array([0.01, 0, 0]), simple)


# Groups without operations


@pytest.mark.parametrize("entries", ["_space_group_name_H-M_alt 'F d -3 m'", "_symmetry_Int_Tables_number 227"])
def test_two_origin_choices_are_not_guessed(tmp_path: Path, entries: str) -> None:
    diamond = "_chemical_formula_sum 'C'\n_cell_formula_units_Z 8\n" + entries
    first, second = "C1 C 0 0 0", "C1 C 0.125 0.125 0.125"
    cell = "3.567 3.567 3.567 90 90 90"
    with pytest.raises(StructureError, match="may be 'F d -3 m:1' or 'F d -3 m:2'"):
        read(tmp_path, written(cell, diamond, first))
    for choice, site in (("1", first), ("2", second)):
        text = written(cell, f"{diamond}\n_space_group_IT_coordinate_system_code {choice}", site)
        assert len(read(tmp_path, text)) == 8
        named = written(cell, diamond.split("\n_sp")[0].split("\n_sy")[0] + f"\n{NAMED_CHOICE.format(choice)}", site)
        assert len(read(tmp_path, named)) == 8
        assert_as_by_gemmi(read(tmp_path, named), named)
    hall = written(cell, f"{diamond}\n_space_group_name_Hall '-F 4vw 2vw 3'", second)
    assert len(read(tmp_path, hall)) == 8
    listed = [op.triplet() for op in gemmi.find_spacegroup_by_name("F d -3 m:2").operations()]
    assert len(read(tmp_path, written(cell, diamond, second, listed))) == 8


NAMED_CHOICE = "_space_group_name_H-M_alt 'F d -3 m:{}'"


def test_all_groups_with_two_origin_choices_have_two_meanings() -> None:
    for group in gemmi.spacegroup_table():
        found = space_groups("", [group.hm], [], "?", (90, 90, 90))
        assert (len(found) == 2) == (group.ext in {"1", "2"}), group.xhm()
        assert space_groups(group.hall, [group.hm], [str(group.number)], "?", (90, 90, 90))[0].hall == group.hall


def test_names_that_contradict_each_other_are_not_guessed(tmp_path: Path) -> None:
    entries = f"{NAMED[0]}\n_space_group_IT_number 227\n_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 4"
    with pytest.raises(StructureError, match="its space group may be 'F m -3 m' or 'F d -3 m:1' or 'F d -3 m:2'"):
        read(tmp_path, written(CUBE, entries, SALT))


def test_a_cell_without_the_symmetry_of_the_named_group_is_refused(tmp_path: Path) -> None:
    entries = f"{NAMED[0]}\n_chemical_formula_sum 'Na Cl'\n_cell_formula_units_Z 4"
    assert len(read(tmp_path, written("5.64 5.641 5.64 90 90.1 90", entries, SALT))) == 8
    with pytest.raises(StructureError, match="the cell does not have the symmetry of space group F m -3 m"):
        read(tmp_path, written("5.64 6.64 5.64 90 90 90", entries, SALT))


def test_hexagonal_and_rhombohedral_axes_are_told_by_the_cell_for_numbers_too(tmp_path: Path) -> None:
    for cell, n_atoms in (("4.3 4.3 11.8 90 90 120", 6), ("4.66 4.66 4.66 55 55 55", 2)):
        for entries in ("_symmetry_Int_Tables_number 166", "_space_group_name_H-M_alt 'R -3 m'"):
            text = written(
                cell, f"{entries}\n_chemical_formula_sum Bi\n_cell_formula_units_Z {n_atoms}", "Bi Bi 0 0 .23"
            )
            sites = "Bi Bi 0.23 0.23 0.23" if n_atoms == 2 else "Bi Bi 0 0 0.23"
            assert len(read(tmp_path, text.replace("Bi Bi 0 0 .23", sites))) == n_atoms


def test_name_and_z_are_enough_without_formula_and_operations(tmp_path: Path) -> None:
    """Files of the Pauling File have a Hermann-Mauguin symbol without spaces, Z, and neither formula nor operations."""
    entries = "_symmetry_space_group_name_H-M 'P63/mmc'\n_symmetry_Int_Tables_number 194\n_cell_formula_units_Z 2"
    sites = "Mo Mo 0.33333 0.66667 0.25\nS S 0.33333 0.66667 0.621"
    text = written("3.16 3.16 12.29 90 90 120", entries, sites)
    crystal = read(tmp_path, text)
    assert (formula(crystal), len(crystal)) == ("MoS2", 6)
    assert_as_by_gemmi(crystal, text, 1e-4)
    for wrong in (text.replace("units_Z 2", "units_Z 4"), text.replace("units_Z 2", "units_Z ?")):
        with pytest.raises(StructureError, match="lists no symmetry operations, and has no formula and Z"):
            read(tmp_path, wrong)


# Coordinates that are rounded


@pytest.mark.parametrize("third", ["0.333", "0.3333", "0.33333", "0.3333333333"])
def test_thirds_of_any_digits_are_special_positions(tmp_path: Path, third: str) -> None:
    other = f"{1 - float(third):.{len(third) - 2}f}"
    entries = "_symmetry_space_group_name_H-M 'P 63 m c'\n_chemical_formula_sum 'Zn O'\n_cell_formula_units_Z 2"
    text = written("3.25 3.25 5.2 90 90 120", entries, f"Zn1 Zn {third} {other} 0\nO1 O {third} {other} 0.375")
    crystal = read(tmp_path, text)
    assert len(crystal) == 4
    assert_as_by_gemmi(crystal, text, 1e-3)
    exact = text.replace(third, str(1 / 3)).replace(other, str(2 / 3))
    assert same_atoms(crystal, read(tmp_path, exact), 1e-9)


def test_iron_phosphate_of_three_digits(tmp_path: Path) -> None:
    """FePO4 as berlinite: both cations lie on twofold axes at heights of 1/3 and 5/6."""
    entries = "_symmetry_space_group_name_H-M 'P 31 2 1'\n_chemical_formula_sum 'Fe P O4'\n_cell_formula_units_Z 3"
    sites = "Fe Fe 0.458 0 0.333\nP P 0.456 0 0.833\nO1 O 0.417 0.318 0.396\nO2 O 0.412 0.264 0.874"
    text = written("5.04 5.04 11.26 90 90 120", entries, sites)
    crystal = read(tmp_path, text)
    assert (formula(crystal), len(crystal)) == ("FePO4", 18)
    assert_as_by_gemmi(crystal, text, 1e-3)
    assert np.isin(crystal.frac_coords[crystal.numbers == 26][:, 2].round(9), np.round([0, 1 / 3, 2 / 3, 1], 9)).all()


def test_coordinates_of_three_digits_elsewhere_stay_as_they_are(tmp_path: Path) -> None:
    text = written(
        "5 6 7 90 90 90", "_space_group_name_H-M_alt 'P -1'", "Fe Fe 0.333 0.667 0.251", ["x,y,z", "-x,-y,-z"]
    )
    assert read(tmp_path, text).frac_coords[0].tolist() == [0.333, 0.667, 0.251]


# Sites


def test_dummies_are_no_atoms(tmp_path: Path) -> None:
    sites = "Na1 Na 0 0 0 d\nCl1 Cl 0.5 0.5 0.5 .\nCg1 C 0.25 0.25 0.25 dum"
    crystal = read(tmp_path, written(CUBE, "_space_group_name_H-M_alt 'P 1'", sites, columns="calc_flag"))
    assert crystal.symbols == ["Na", "Cl"]
    with pytest.raises(StructureError, match=r"lists no atoms \(all sites are dummies\)"):
        read(tmp_path, written(CUBE, "", "Cg1 C 0.25 0.25 0.25 dum", columns="calc_flag"))


@pytest.mark.parametrize("occupancy", [".", "?", "0.999", "1.001", "0.999(2)", "1.0000"])
def test_full_occupancies(tmp_path: Path, occupancy: str) -> None:
    text = CIF.replace("0 0 0 1", f"0 0 0 {occupancy}")
    crystal = read(tmp_path, text)
    assert len(crystal) == 8
    assert_as_by_gemmi(crystal, text)


@pytest.mark.parametrize("occupancy", ["0.99", "0.997", "1.01", "0", "-1", "nan", "x", "2"])
def test_partial_occupancies(tmp_path: Path, occupancy: str) -> None:
    with pytest.raises(StructureError, match="is partially occupied"):
        read(tmp_path, CIF.replace("0 0 0 1", f"0 0 0 {occupancy}"))


def test_full_occupancies_of_objects() -> None:
    from ase import Atoms
    from pymatgen.core import Lattice, Structure

    from crystalformers.io import as_crystal

    structure = Structure(Lattice.cubic(4), [{"Na": 0.999}], [[0, 0, 0]])
    atoms = Atoms("Na", cell=[4, 4, 4], pbc=True, info={"occupancy": {"0": {"Na": 0.999}}})
    for full in (structure, structure.as_dict(), atoms):
        assert as_crystal(full).symbols == ["Na"]


def test_a_cell_may_be_in_a_loop(tmp_path: Path) -> None:
    start, rest = CIF.split("_chemical", 1)
    tags, numbers = zip(*(row.split() for row in start.splitlines()[1:]), strict=True)
    text = "\n".join(["data_x", "loop_", *tags, " ".join(numbers), "_chemical" + rest])
    crystal = read(tmp_path, text)
    assert len(crystal) == 8
    assert_as_by_gemmi(crystal, text)
    with pytest.raises(StructureError, match="gives no usable _cell_length_a"):
        read(tmp_path, text.replace(" ".join(numbers), " ".join(numbers) + "\n5.7 5.7 5.7 90 90 90"))


@pytest.mark.parametrize("tag", ["_atom_site_type_symbol", "_atom_site_occupancy"])
def test_a_column_apart_from_the_sites_is_refused(tmp_path: Path, tag: str) -> None:
    column = 1 if "type" in tag else -1
    start, rows = CIF.replace(f"{tag}\n", "").split("_occupancy\n" if column == 1 else "_fract_z\n")
    sites = [row.split() for row in rows.splitlines()]
    values = [row.pop(column) for row in sites]
    start += "_occupancy\n" if column == 1 else "_fract_z\n"
    with pytest.raises(StructureError, match="the columns of the atom sites differ in length"):
        read(tmp_path, start + "\n".join(map(" ".join, sites)) + f"\n{tag} {values[0]}\n")
