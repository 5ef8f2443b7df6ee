"""CIF: symmetry as pymatgen understands it, malformed blocks named and passed over, nothing ambiguous accepted."""

from __future__ import annotations

import warnings
from pathlib import Path

import gemmi
import numpy as np
import pytest
from structures import CIF

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io import Rejected, read_crystal, read_structures
from crystalformers.io.symmetry import images, listed_operations, operations_of, parse_operation, space_groups

IDENTITY = np.eye(3, 4)


# Symmetry


def test_operations_of_all_space_groups_are_read_as_by_gemmi() -> None:
    triplets = {op.triplet() for group in gemmi.spacegroup_table() for op in group.operations()}
    assert len(triplets) > 800
    for triplet in triplets:
        op = gemmi.Op(triplet)
        expected = np.column_stack([op.rot, op.tran]) / gemmi.Op.DEN
        for text in (triplet, triplet.upper().replace(",", " , ")):
            np.testing.assert_allclose(parse_operation(text, "a"), expected, atol=1e-15)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("1/2+x,-y,.5-z", [[1, 0, 0, 0.5], [0, -1, 0, 0], [0, 0, -1, 0.5]]),
        ("x+1/5, y+0.2, z-0.25", [[1, 0, 0, 0.2], [0, 1, 0, 0.2], [0, 0, 1, -0.25]]),
        ("-x+y,2x,1/2*z", [[-1, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0.5, 0]]),
        ("x,y,z,-1", IDENTITY),
    ],
)
def test_operations_of_other_spellings(text: str, rows: list[list[float]]) -> None:
    np.testing.assert_allclose(parse_operation(text, "a"), rows, atol=1e-15)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x,y",
        "x,y,",
        "x,y,q",
        "x,y,z,1,1",
        "x+/2,y,z",
        "x/0,y,z",
        "x,,z",
        "x y z",
        "--x,y,z",
        "-,y,z",
        "x+,y,z",
        "3/0,y,z",
    ],
)
def test_operations_that_cannot_be_read_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(StructureError, match=r"^a\.cif: the symmetry operation '.*' cannot be read; correct it"):
        parse_operation(text, "a.cif")
    (tmp_path / "a.cif").write_text(CIF.replace("'x+1/2, y+1/2, z'", f"'{text}'"))
    with pytest.raises(StructureError, match="cannot be read"):
        read_crystal(tmp_path / "a.cif")


def space_group_operations(
    names: list[str], numbers: list[str], angles: tuple[float, float, float]
) -> np.ndarray | None:
    """Operations of the first setting that is meant."""
    groups = space_groups("", names, numbers, "?", angles)
    return operations_of(groups[0]) if groups else None


def operations_of_pymatgen(number: int) -> set[tuple[float, ...]]:
    from pymatgen.symmetry.groups import SpaceGroup

    operations = SpaceGroup.from_int_number(number).symmetry_ops
    return {as_tuple(np.column_stack([op.rotation_matrix, op.translation_vector])) for op in operations}


def as_tuple(operation: np.ndarray) -> tuple[float, ...]:
    rotation, translation = operation[:, :3], operation[:, 3]
    return (*rotation.ravel().round(6).tolist(), *((translation.round(6) + 1e-9) % 1).round(4).tolist())


@pytest.mark.parametrize("number", range(1, 231))
def test_operations_of_a_space_group_are_those_of_pymatgen(number: int) -> None:
    symbol = gemmi.find_spacegroup_by_number(number).hm
    expected = operations_of_pymatgen(number)
    for names, numbers in (([symbol], []), ([symbol.replace(" ", ""), "?"], []), (["unheard of"], [str(number)])):
        found = space_group_operations(names, numbers, (90, 90, 120))
        assert found is not None
        assert {as_tuple(operation) for operation in found} == expected


def test_unknown_space_groups() -> None:
    assert space_group_operations(["?", "nonsense"], ["?", ".", "0", "231", "-1"], (90, 90, 90)) is None
    rhombohedral = space_group_operations(["R -3 m"], [], (60, 60, 60))
    assert rhombohedral is not None
    assert len(rhombohedral) == 12


def test_images_on_special_positions_are_counted_once() -> None:
    operations = space_group_operations(["F m -3 m"], [], (90, 90, 90))
    assert operations is not None
    for coordinate, multiplicity in (([0, 0, 0], 4), ([0.25, 0.25, 0.25], 8), ([0.11, 0.23, 0.38], 192)):
        found = images(np.array(coordinate), operations)
        assert len(found) == multiplicity
        assert ((found >= 0) & (found <= 1)).all()
    assert len(images(np.array([1 / 3 + 3e-5, 2 / 3, 0.5]), listed_operations(["x,y,z", "-y,x-y,z"], [], "a"))) == 1


def same_atoms(first: Crystal, second: Crystal, tolerance: float = 1e-9) -> bool:
    """Whether two crystals hold the same atoms in any order."""
    delta = first.frac_coords[:, None] - second.frac_coords[None]
    near = (np.abs(delta - np.round(delta)) < tolerance).all(-1) & (first.numbers[:, None] == second.numbers)
    return bool((near.sum(0) == 1).all() and (near.sum(1) == 1).all())


def read_with_pymatgen(path: Path) -> Crystal:
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (structure,) = CifParser(path, check_cif=False).parse_structures(primitive=False)
    return Crystal(np.array(structure.atomic_numbers), structure.frac_coords, structure.lattice.matrix)


@pytest.mark.shared
def test_cifs_agree_with_pymatgen(shared: Path) -> None:
    compared = 0
    for path in sorted((shared / "data" / "robustness").rglob("*.cif")):
        found = list(read_structures([path]))
        if len(found) == 1 and isinstance(found[0], Crystal):
            expected = read_with_pymatgen(path)
            np.testing.assert_allclose(found[0].lattice, expected.lattice, atol=1e-12)
            # pymatgen rounds 0.3333 to 1/3 in P1, too.
            assert same_atoms(found[0], expected, tolerance=7e-5), path
            compared += 1
    assert compared > 55


def test_atoms_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = CIF.replace("Na1 Na+ 0 0 0 1\nCl1 Cl- 0.5 0.5 0.5 1", "Cl1 Cl- 0.5 0.5 0.5 1\nNa1 Na+ 0 0 0 1")
    (tmp_path / "a.cif").write_text(text)
    assert read_crystal(tmp_path / "a.cif").symbols == ["Cl"] * 4 + ["Na"] * 4


MAGNETIC = """data_magnetic
_cell_length_a 4
_cell_length_b 4
_cell_length_c 8
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_chemical_formula_sum 'Mn O2'
loop_
_space_group_symop_magn_operation.id
_space_group_symop_magn_operation.xyz
1 x,y,z,+1
2 -x,-y,-z,+1
loop_
_space_group_symop_magn_centering.id
_space_group_symop_magn_centering.xyz
1 x,y,z,+1
2 x,y,z+1/2,-1
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Mn1 Mn 0 0 0
O1 O 0.5 0.5 0.15
loop_
_atom_site_moment.label
_atom_site_moment.crystalaxis_x
_atom_site_moment.crystalaxis_y
_atom_site_moment.crystalaxis_z
Mn1 0 0 1
"""


@pytest.mark.parametrize("dot", [".", "_"])
def test_a_magnetic_cif_gives_the_positions_of_its_atoms(tmp_path: Path, dot: str) -> None:
    (tmp_path / "a.mcif").write_text(MAGNETIC.replace("tion.", f"tion{dot}").replace("ring.", f"ring{dot}"))
    crystal = read_crystal(tmp_path / "a.mcif")
    assert crystal.symbols == ["Mn"] * 2 + ["O"] * 4
    assert same_atoms(crystal, read_with_pymatgen(tmp_path / "a.mcif"))


def test_a_modulated_structure_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mcif").write_text(MAGNETIC + "_cell_modulation_dimension 1\n")
    with pytest.raises(StructureError, match="the structure is modulated"):
        read_crystal(tmp_path / "a.mcif")


def test_operations_without_the_identity_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.cif").write_text(CIF.replace("'x, y, z'\n", "").replace("Z 4", "Z 3"))
    with pytest.raises(StructureError, match=r"site Na1 \(Na\) is lost when the symmetry operations are applied"):
        read_crystal(tmp_path / "a.cif")


def test_placeholders_are_no_operations(tmp_path: Path) -> None:
    start, rest = CIF.split("loop_\n_symmetry")
    text = (
        f"{start}_symmetry_equiv_pos_as_xyz ?\n_space_group_IT_number 225\nloop_\n_atom" + rest.split("loop_\n_atom")[1]
    )
    (tmp_path / "a.cif").write_text(text)
    assert len(read_crystal(tmp_path / "a.cif")) == 8
    (tmp_path / "a.cif").write_text(text.replace("_cell_formula_units_Z 4\n", ""))
    with pytest.raises(StructureError, match="lists no symmetry operations"):
        read_crystal(tmp_path / "a.cif")


# Text


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("0.5 0.5 0.5 1", "0.5 0.5", "line 16: Wrong number of values in loop _atom_site_"),
        ("_cell_length_b 5.6", "_cell_length_b 5.6\n_cell_length_b 5.7", "line 4: duplicate tag _cell_length_b"),
        ("_cell_length_b 5.6", "_cell_length_b", "line 3: _cell_length_b has no value"),
        ("_cell_length_b 5.6", "_cell_length_b 5.6 5.7", "line 3: parse error"),
        ("'Na Cl'", "'Na Cl", "line 8: unterminated 'string'"),
        ("0.5 0.5 0.5 1", "0.5 0.5 0.5 1\n_title\n;\nno end", "unterminated text field"),
        ("_cell_length_b 5.6", "_cell_length_b \x00", "line 3: parse error"),
    ],
)
def test_what_is_malformed_is_named_with_its_line(tmp_path: Path, old: str, new: str, reason: str) -> None:
    path = tmp_path / "a.cif"
    for leading in (0, 3):
        path.write_text("# a comment\n" * leading + CIF.replace(old, new))
        with pytest.raises(StructureError) as error:
            read_crystal(path)
        line, rest = reason.split(":") if ":" in reason else ("", reason)
        number = f"line {int(line.split()[1]) + leading}:" if line else ""
        assert str(error.value).startswith(f"{path}: the CIF is malformed (")
        assert number in str(error.value)
        assert rest in str(error.value)
        assert str(error.value).endswith("; export it again.")


def test_a_malformed_block_costs_no_other(tmp_path: Path) -> None:
    path = tmp_path / "many.cif"
    broken = CIF.replace("rocksalt", "broken").replace("0.5 0.5 0.5 1", "0.5 0.5")
    pattern = "data_pattern\nloop_\n_pd_x\n_pd_y\n1 2 3\n"
    path.write_text(CIF + broken + pattern + CIF.replace("rocksalt", "last one"))
    first, bad, last = read_structures([path])
    assert isinstance(first, Crystal)
    assert isinstance(bad, Rejected)
    assert bad.name == bad.where == f"{path}#broken"
    assert isinstance(last, Crystal)
    assert last.name == f"{path}#last"


@pytest.mark.parametrize(
    "text",
    [
        "a line of text before\n" + CIF,
        "\ufeff" + CIF,
        CIF.replace("\n", "\r\n"),
        CIF.replace("data_rocksalt", "data_rock salt, ordered"),
        CIF.replace("data_rocksalt", "data_"),
        CIF.replace("data_rocksalt", "data_rocksalt\n_publ_author_name Müller\n_title 'α-phase'\n# β"),
        CIF.replace("loop_\n_symm", "loop_\n_citation_id\n_citation_year\nloop_\n_symm"),
        CIF.replace("data_rocksalt", "data_rocksalt\n_title\n;\n_atom_site_label in a text\n;\n"),
        CIF + "data_text\n_title\n;\n_atom_site_label in a text\n;\n",
        CIF.replace("Na1 Na+ 0 0 0 1", "Na1 Na+ '0' 0.0(2) 1e-9 1.0(0)"),
    ],
)
def test_text_that_is_not_quite_a_cif_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.cif").write_bytes(text.encode())
    assert sorted(read_crystal(tmp_path / "a.cif").numbers) == [11] * 4 + [17] * 4


def test_a_single_site_need_not_be_in_a_loop(tmp_path: Path) -> None:
    cell = CIF.split("_chemical")[0]
    site = "_atom_site_label Fe1\n" + "".join(f"_atom_site_fract_{x} 0.25\n" for x in "xyz")
    (tmp_path / "a.cif").write_text(f"{cell}_space_group_name_H-M_alt 'P 1'\n{site}")
    crystal = read_crystal(tmp_path / "a.cif")
    assert crystal.symbols == ["Fe"]
    assert crystal.frac_coords.tolist() == [[0.25] * 3]
