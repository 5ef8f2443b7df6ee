"""CIF files: gemmi parses the text, two sets of checks follow, since a CIF can be read wrongly without a sign of it.

Before symmetry is applied: cell, elements, occupancies and coordinates as the file lists them. Afterwards: every listed
site is there once, and formula and Z of the file agree with the atoms of the cell.
Shapes: G symmetry operations. Lengths in Angstrom.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal, check_coordinates
from crystalformers.errors import StructureError
from crystalformers.io.cif_sites import Site, read_sites
from crystalformers.io.cif_text import column, parse_block, split_blocks, value
from crystalformers.io.composition import contradicts, parse_formula
from crystalformers.io.overlap import MIN_VOLUME, check
from crystalformers.io.rejected import Rejected
from crystalformers.io.symmetry import (
    count_different,
    images,
    is_invariant,
    listed_operations,
    operations_of,
    same_spot,
    share_a_spot,
    space_groups,
    special_position,
)
from crystalformers.io.text import excerpt, read_text
from crystalformers.periodic import SYMBOLS

IDEAL_TOLERANCE = 1e-4
"""Relative difference up to which a coordinate such as 0.3333 is read as one third where symmetry operations act."""

CELL_TOLERANCE = 0.02
"""Share of the longest squared length by which a cell may miss the symmetry of its space group."""

_CELL = [f"_cell_length_{x}" for x in "abc"] + [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]
_OPERATIONS = (
    "_space_group_symop_magn_operation.xyz",
    "_space_group_symop_magn_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
)
_CENTERINGS = ("_space_group_symop_magn_centering.xyz", "_space_group_symop_magn_centering_xyz")
_GROUP_NAMES = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt")
_HALL = ("_symmetry_space_group_name_Hall", "_space_group_name_Hall")
_GROUP_NUMBERS = ("_space_group_IT_number", "_symmetry_Int_Tables_number")
_UNKNOWN = frozenset({"?", "."})
_MODULATION = ("_cell_modulation_dimension", "_cell_wave_vector_seq_id", "_cell_wave_vector_x")


def read_cif_file(path: Path) -> Iterator[Crystal | Rejected]:
    """Every crystal of a CIF file, as `read_cif_text` gives them."""
    return read_cif_text(read_text(path, errors="replace"), str(path))


def read_cif_text(text: str, source: str) -> Iterator[Crystal | Rejected]:
    """Every crystal of a CIF, or the reason why a data block holds none that can be used.

    Blocks without atoms (powder patterns, publication data) are passed over if another block has some.

    Args:
        text: the CIF.
        source: what to call its structure; of several structures each is called `source#block`.

    Raises:
        StructureError: if not one block holds atoms.
    """
    texts = [block for block in split_blocks(text) if block.has_sites]
    parsed = [(block_text.header, parse_block(block_text)) for block_text in texts]
    blocks = [
        (header, block)
        for header, block in parsed
        if isinstance(block, str) or set(column(block, "_atom_site_label")) != {"?"}
    ]
    if not blocks:
        raise StructureError(
            "the CIF lists no atoms (no _atom_site_ loop)", where=source, remedy="export the structure again"
        )
    for header, block in blocks:
        name = source if len(blocks) == 1 else f"{source}#{header}"
        try:
            if isinstance(block, str):
                raise StructureError(f"the CIF is malformed ({block})", where=name, remedy="export it again")
            yield check(_read_block(block, name))
        except StructureError as error:
            yield Rejected.of(name, error)


def _read_block(block: gemmi.cif.Block, name: str) -> Crystal:
    """The crystal of one data block; raises StructureError."""
    if not {*_UNKNOWN, "0"}.issuperset(column(block, *_MODULATION)):
        raise StructureError(
            "the structure is modulated, no cell holds all of it",
            where=name,
            remedy="choose a commensurate model of it",
        )
    cell = _cell(block, name)
    sites = read_sites(block, name)
    listed, groups = _listed(block), _space_groups(block, cell)
    operations = listed_operations(listed, column(block, *_CENTERINGS), name) if listed else _named(groups, cell, name)
    coordinates = np.array([site.frac_coords for site in sites])
    check_coordinates(coordinates, name)
    coordinates %= 1.0
    if len(operations) > 1 and not _is_p1(block):
        # Rounding 0.3333 to 1/3 is right where symmetry operations act on it, and falsifies data elsewhere.
        for ideal in (1 / 3, 2 / 3):
            coordinates[np.abs(coordinates / ideal - 1) <= IDEAL_TOLERANCE] = ideal
        coordinates = np.array([special_position(coordinate, operations) for coordinate in coordinates])
    atoms = [images(coordinate, operations) for coordinate in coordinates]
    site_of_atom = np.repeat(np.arange(len(sites)), [len(found) for found in atoms])
    numbers = np.array([site.number for site in sites])[site_of_atom]
    crystal = Crystal(numbers, np.concatenate(atoms), _lattice(cell), name)
    _check_sites(crystal, site_of_atom, coordinates, sites)
    confirmed = _check_contents(crystal, block, next((site.doubt for site in sites if site.doubt), ""))
    if listed and not confirmed:
        _check_complete(crystal, operations, groups)
    if not listed and not confirmed and not _is_p1(block):
        _check_units(crystal, block, groups)
    return crystal


def _cell(block: gemmi.cif.Block, name: str) -> list[float]:
    """Lengths and angles (degrees); refuses what is missing or has no volume."""
    given = [set(column(block, tag)) for tag in _CELL]
    cell = [gemmi.cif.as_number(texts.pop()) if len(texts) == 1 else math.nan for texts in given]
    missing = next((tag for tag, number in zip(_CELL, cell, strict=True) if not math.isfinite(number)), None)
    if missing:
        raise StructureError(f"the CIF gives no usable {missing}", where=name, remedy="add all six cell parameters")
    ca, cb, cg = np.cos(np.deg2rad(cell[3:]))
    volume = math.prod(cell[:3]) * math.sqrt(max(0.0, 1 - ca**2 - cb**2 - cg**2 + 2 * ca * cb * cg))
    if min(cell) <= 0 or volume < MIN_VOLUME:
        raise StructureError(
            f"the cell has no volume ({volume:.2g} Å³)",
            where=name,
            remedy="correct the cell lengths (Å) and angles (°)",
        )
    return cell


def _lattice(cell: Sequence[float]) -> NDArray[np.float64]:
    """Lattice vectors as rows, (3, 3): c along z, a in the plane of x and z."""
    a, b, c = cell[:3]
    (ca, cb, cg), (sa, sb, _) = np.cos(np.deg2rad(cell[3:])), np.sin(np.deg2rad(cell[3:]))
    gamma_star = np.arccos(np.clip((ca * cb - cg) / (sa * sb), -1, 1))
    return np.array(
        [
            [a * sb, 0.0, a * cb],
            [-b * sa * np.cos(gamma_star), b * sa * np.sin(gamma_star), b * ca],
            [0.0, 0.0, c],
        ]
    )


def _listed(block: gemmi.cif.Block) -> list[str]:
    """The symmetry operations of the file, as it writes them."""
    return [text for text in column(block, *_OPERATIONS) if text not in _UNKNOWN]


def _space_groups(block: gemmi.cif.Block, cell: Sequence[float]) -> list[gemmi.SpaceGroup]:
    """The settings that the file's name of its space group may mean."""
    names, numbers, halls = ([value(block, tag) for tag in tags] for tags in (_GROUP_NAMES, _GROUP_NUMBERS, _HALL))
    hall = next((text for text in halls if text not in _UNKNOWN), "")
    return space_groups(hall, names, numbers, value(block, "_space_group_IT_coordinate_system_code"), cell[3:])


def _named(groups: Sequence[gemmi.SpaceGroup], cell: Sequence[float], name: str) -> NDArray[np.float64]:
    """The operations of the space group of a file that lists none, (G, 3, 4); of P1 if it names none."""
    if not groups:
        return np.eye(3, 4)[None]
    if len(groups) > 1:
        choices = " or ".join(f"'{group.xhm()}'" for group in groups)
        raise StructureError(
            f"the CIF lists no symmetry operations, and its space group may be {choices}",
            where=name,
            remedy="add _space_group_symop_operation_xyz, or name the space group as above",
        )
    operations, lattice = operations_of(groups[0]), _lattice(cell)
    metric, rotations = lattice @ lattice.T, operations[:, :, :3]
    if np.abs(rotations.swapaxes(1, 2) @ metric @ rotations - metric).max() > CELL_TOLERANCE * metric.max():
        raise StructureError(
            f"the cell does not have the symmetry of space group {groups[0].xhm()}",
            where=name,
            remedy="correct the cell or the space group, or add _space_group_symop_operation_xyz",
        )
    return operations


def _check_complete(crystal: Crystal, listed: NDArray[np.float64], groups: Sequence[gemmi.SpaceGroup]) -> None:
    """The operations must not be fewer than those of the space group, unless the atoms have the missing ones anyway."""
    n_listed, n_named = count_different(listed), min((len(operations_of(group)) for group in groups), default=0)
    if n_listed >= n_named:
        return
    if not any(is_invariant(crystal.numbers, crystal.frac_coords, operations_of(group)) for group in groups):
        raise StructureError(
            f"the CIF names space group {groups[0].hm} of {n_named} symmetry operations but lists {n_listed}",
            where=crystal.name,
            remedy="list all of them, name the group that they form, or add formula and Z that confirm the sites",
        )


def _check_sites(
    crystal: Crystal, site_of_atom: NDArray[np.int64], coordinates: NDArray[np.float64], sites: Sequence[Site]
) -> None:
    """Every listed site must be in the crystal, and be there alone."""
    there = np.bincount(site_of_atom, same_spot(crystal.frac_coords, coordinates[site_of_atom]), len(sites)) > 0
    if not there.all():
        site = sites[int(there.argmin())]
        raise StructureError(
            f"site {site.label} ({SYMBOLS[site.number - 1]}) is lost when the symmetry operations are applied",
            where=crystal.name,
            remedy="list all symmetry operations, x, y, z among them",
        )
    if share_a_spot(crystal.frac_coords):
        raise StructureError(
            "several listed sites share one spot, by themselves or by symmetry",
            where=crystal.name,
            remedy="remove the duplicates or choose an ordered model of the structure",
        )


def _check_contents(crystal: Crystal, block: gemmi.cif.Block, doubt: str) -> bool:
    """Compare the atoms of the cell with formula and Z of the file, which must decide what else is in doubt.

    Returns:
        Whether both are there and confirm the atoms.
    """
    text = value(block, "_chemical_formula_sum")
    counts = parse_formula(text)
    if counts is not None and contradicts(counts, crystal.numbers):
        raise StructureError(
            f"the file says '{excerpt(text)}' but its sites give '{_formula_sum(crystal)}'",
            where=crystal.name,
            remedy="add the missing atoms or correct _chemical_formula_sum",
        )
    z = _formula_units(block)
    confirmed = counts is not None and z >= 1
    if counts is not None and confirmed and not _fits(len(crystal), z, counts):
        raise StructureError(
            f"the file says Z = {z:g} of '{excerpt(text)}', {z * sum(counts.values()):g} atoms, but its sites and "
            f"symmetry give {len(crystal)}",
            where=crystal.name,
            remedy="correct _cell_formula_units_Z or list all symmetry operations",
        )
    if doubt and counts is None:
        raise StructureError(f"{doubt} (the file has no formula that would confirm it)", where=crystal.name)
    return confirmed


def _check_units(crystal: Crystal, block: gemmi.cif.Block, groups: Sequence[gemmi.SpaceGroup]) -> None:
    """Where neither operations nor a formula are given, the name of the space group must give whole formula units."""
    z = _formula_units(block)
    counts = np.unique(crystal.numbers, return_counts=True)[1]
    if not groups or z < 1 or (counts % z).any():
        raise StructureError(
            "the CIF lists no symmetry operations, and has no formula and Z to confirm what its space group gives",
            where=crystal.name,
            remedy="add _space_group_symop_operation_xyz",
        )


def _formula_units(block: gemmi.cif.Block) -> float:
    """Z, the formula units of a cell; NaN if the file does not tell."""
    return float(gemmi.cif.as_number(value(block, "_cell_formula_units_Z")))


def _is_p1(block: gemmi.cif.Block) -> bool:
    """Whether the file names its space group P1, in which nothing can be misunderstood."""
    groups = column(block, *_GROUP_NAMES)
    return bool(groups) and re.fullmatch(r"P\s*1", groups[0].strip()) is not None


def _fits(n_atoms: int, z: float, counts: dict[int, float]) -> bool:
    """Whether a cell holds Z formula units; or one, where a file gives the formula of the whole cell.

    pymatgen writes such files: Z is then the number of reduced formulas in the cell, half of it (rounded down) for O2,
    Li2O2 and their like.
    """
    per_unit = sum(counts.values())
    units = math.gcd(*(round(count) for count in counts.values()))
    whole_cell = units % z == 0 or units // 2 == z
    return abs(n_atoms - z * per_unit) < 0.5 or (whole_cell and abs(n_atoms - per_unit) < 0.5)


def _formula_sum(crystal: Crystal) -> str:
    numbers, counts = np.unique(crystal.numbers, return_counts=True)
    return " ".join(f"{SYMBOLS[z - 1]}{n}" for z, n in zip(numbers, counts, strict=True))
