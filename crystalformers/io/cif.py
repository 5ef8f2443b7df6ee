"""CIF files: gemmi parses the text, two sets of checks follow, since a CIF can be read wrongly without a sign of it.

Before symmetry is applied: cell, elements, occupancies and coordinates as the file lists them. Afterwards: every listed
site is there once, and formula and Z of the file agree with the atoms of the cell.
Shapes: G symmetry operations. Lengths in Angstrom.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal, check_coordinates
from crystalformers.errors import StructureError
from crystalformers.io.cif_text import column, parse_block, split_blocks, value
from crystalformers.io.composition import atomic_number, contradicts, parse_formula
from crystalformers.io.overlap import MIN_VOLUME, check
from crystalformers.io.rejected import Rejected
from crystalformers.io.symmetry import images, listed_operations, same_spot, space_group_operations
from crystalformers.io.text import read_text
from crystalformers.periodic import ATOMIC_NUMBERS, SYMBOLS

IDEAL_TOLERANCE = 1e-4
"""Relative difference up to which a coordinate such as 0.3333 is read as one third where symmetry operations act."""

_CELL = [f"_cell_length_{x}" for x in "abc"] + [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]
_OPERATIONS = (
    "_space_group_symop_magn_operation.xyz",
    "_space_group_symop_magn_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
)
_CENTERINGS = ("_space_group_symop_magn_centering.xyz", "_space_group_symop_magn_centering_xyz")
_GROUP_NAMES = ("_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt")
_GROUP_NUMBERS = ("_space_group_IT_number", "_symmetry_Int_Tables_number")
_UNKNOWN = frozenset({"?", "."})
_MODULATION = ("_cell_modulation_dimension", "_cell_wave_vector_seq_id", "_cell_wave_vector_x")


@dataclass(frozen=True)
class Site:
    """One row of the `_atom_site_` loop."""

    label: str
    number: int
    frac_coords: NDArray[np.float64]
    doubt: str
    """What the file leaves open and only its formula can confirm; empty if nothing."""


def read_cif_file(path: Path) -> Iterator[Crystal | Rejected]:
    """Every crystal of a CIF, or the reason why a data block holds none that can be used.

    Blocks without atoms (powder patterns, publication data) are passed over if another block has some. In a file
    with several structures each is called `path#block`.

    Raises:
        StructureError: if not one block holds atoms.
    """
    texts = [text for text in split_blocks(read_text(path, errors="replace")) if text.has_sites]
    parsed = [(text.header, parse_block(text)) for text in texts]
    blocks = [
        (header, block)
        for header, block in parsed
        if isinstance(block, str) or set(column(block, "_atom_site_label")) != {"?"}
    ]
    if not blocks:
        raise StructureError(
            "the CIF lists no atoms (no _atom_site_ loop)", where=str(path), remedy="export the structure again"
        )
    for header, block in blocks:
        name = str(path) if len(blocks) == 1 else f"{path}#{header}"
        try:
            if isinstance(block, str):
                raise StructureError(f"the CIF is malformed ({block})", where=name, remedy="export it again")
            yield check(_read_block(block, name))
        except StructureError as error:
            yield Rejected.of(name, error)


def _read_block(block: gemmi.cif.Block, name: str) -> Crystal:
    """The crystal of one data block; raises StructureError."""
    cell = _cell(block, name)
    sites = _sites(block, name)
    operations = _operations(block, cell, name)
    coordinates = np.array([site.frac_coords for site in sites])
    check_coordinates(coordinates, name)
    coordinates %= 1.0
    # Rounding 0.3333 to 1/3 is right where symmetry operations act on it, and falsifies data elsewhere.
    if len(operations) > 1 and not _is_p1(block):
        for ideal in (1 / 3, 2 / 3):
            coordinates[np.abs(coordinates / ideal - 1) <= IDEAL_TOLERANCE] = ideal
    atoms = [images(coordinate, operations) for coordinate in coordinates]
    site_of_atom = np.repeat(np.arange(len(sites)), [len(found) for found in atoms])
    numbers = np.array([site.number for site in sites])[site_of_atom]
    crystal = Crystal(numbers, np.concatenate(atoms), _lattice(cell), name)
    _check_sites(crystal, site_of_atom, coordinates, sites)
    _check_contents(crystal, block, next((site.doubt for site in sites if site.doubt), ""))
    return crystal


def _cell(block: gemmi.cif.Block, name: str) -> list[float]:
    """Lengths and angles (degrees); refuses what is missing or has no volume."""
    cell = [gemmi.cif.as_number(value(block, tag)) for tag in _CELL]
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


def _sites(block: gemmi.cif.Block, name: str) -> list[Site]:
    """The listed atom sites: refuses unknown elements, partial occupancy, missing coordinates, hidden hydrogen."""
    labels = column(block, "_atom_site_label")
    columns = [column(block, f"_atom_site_fract_{x}") for x in "xyz"]
    if not labels or any(len(coordinates) != len(labels) for coordinates in columns):
        raise StructureError(
            "the atom sites need _atom_site_label and _atom_site_fract_x, _y and _z",
            where=name,
            remedy="export the file again",
        )
    types = column(block, "_atom_site_type_symbol") or [""] * len(labels)
    occupancies = column(block, "_atom_site_occupancy") or ["1"] * len(labels)
    hydrogens = column(block, "_atom_site_attached_hydrogens") or ["0"] * len(labels)
    sites = []
    for label, symbol, occupancy, hydrogen, *xyz in zip(labels, types, occupancies, hydrogens, *columns, strict=True):
        if occupancy != "?" and gemmi.cif.as_number(occupancy) != 1:
            raise StructureError(
                f"site {label} is partially occupied (occupancy {occupancy})",
                where=name,
                remedy="choose an ordered model of the structure",
            )
        if hydrogen not in {".", "?"} and gemmi.cif.as_number(hydrogen) != 0:
            raise StructureError(
                f"site {label} carries hydrogen atoms without positions",
                where=name,
                remedy="add them to the structure",
            )
        # The CIF dictionary makes 0 the default of a coordinate, and ICSD relies on it; others write '.' for unknown.
        frac_coords = np.array([0.0 if x == "." else gemmi.cif.as_number(x) for x in xyz])
        if not np.isfinite(frac_coords).all():
            raise StructureError(
                f"site {label} has no numeric coordinates", where=name, remedy="add them or remove the site"
            )
        number, doubt = _element(label, symbol, name)
        if "." in xyz:
            doubt = f"site {label} has '.' for a coordinate; write it as a number"
        sites.append(Site(label, number, frac_coords, doubt))
    return sites


def _element(label: str, symbol: str, name: str) -> tuple[int, str]:
    """Atomic number of a site, and the doubt if its label alone has to tell (`HO1`: holmium, or hydrogen on O1?)."""
    where = f"{name}: site {label}"
    if symbol not in {"", ".", "?"}:
        if re.search(r"\s\+\s|,", symbol):
            raise StructureError(
                f"site {label} is shared by several species ({symbol})",
                where=name,
                remedy="choose an ordered model of the structure",
            )
        letters = re.fullmatch(r"([A-Za-z]{1,2})([\d.]*[+-]?|[+-][\d.]*)", symbol)
        known = letters is not None and letters.group(1).title() in ATOMIC_NUMBERS
        return atomic_number(letters.group(1) if letters and known else symbol, where), ""
    letters = re.match(r"[A-Za-z]+", label)
    word = letters.group() if letters else label
    if word in ATOMIC_NUMBERS:
        return ATOMIC_NUMBERS[word], ""
    number = atomic_number(word[:2] if word[:2].title() in ATOMIC_NUMBERS else word[:1], where)
    if re.match(r"OH|[Ww]at|NO3", label):
        raise StructureError(
            f"site {label} ({SYMBOLS[number - 1]}) is lost: its label names a group of atoms, not an element",
            where=name,
            remedy="give the site an _atom_site_type_symbol that is a chemical symbol",
        )
    return number, f"label '{label}' leaves the element in doubt; add _atom_site_type_symbol"


def _operations(block: gemmi.cif.Block, cell: Sequence[float], name: str) -> NDArray[np.float64]:
    """Rotations and translations, (G, 3, 4): those that the file lists, else those of its space group, else none."""
    if not {*_UNKNOWN, "0"}.issuperset(column(block, *_MODULATION)):
        raise StructureError(
            "the structure is modulated, no cell holds all of it",
            where=name,
            remedy="choose a commensurate model of it",
        )
    listed = _listed(block)
    if listed:
        return listed_operations(listed, column(block, *_CENTERINGS), name)
    names, numbers = ([value(block, tag) for tag in tags] for tags in (_GROUP_NAMES, _GROUP_NUMBERS))
    operations = space_group_operations(names, numbers, cell[3:])
    return np.eye(3, 4)[None] if operations is None else operations


def _listed(block: gemmi.cif.Block) -> list[str]:
    """The symmetry operations of the file, as it writes them."""
    return [text for text in column(block, *_OPERATIONS) if text not in _UNKNOWN]


def _check_sites(
    crystal: Crystal, site_of_atom: NDArray[np.int64], coordinates: NDArray[np.float64], sites: Sequence[Site]
) -> None:
    """Every listed site must be in the crystal, and be there alone."""
    for index, site in enumerate(sites):
        found = site_of_atom[same_spot(crystal.frac_coords, coordinates[index])]
        if (found != index).any():
            raise StructureError(
                "several listed sites share one spot, by themselves or by symmetry",
                where=crystal.name,
                remedy="remove the duplicates or choose an ordered model of the structure",
            )
        if not len(found):
            raise StructureError(
                f"site {site.label} ({SYMBOLS[site.number - 1]}) is lost when the symmetry operations are applied",
                where=crystal.name,
                remedy="list all symmetry operations, x, y, z among them",
            )


def _check_contents(crystal: Crystal, block: gemmi.cif.Block, doubt: str) -> None:
    """Compare the atoms of the cell with formula and Z of the file, which must decide what else is in doubt."""
    text = value(block, "_chemical_formula_sum")
    counts = parse_formula(text)
    if counts is not None and contradicts(counts, crystal.numbers):
        raise StructureError(
            f"the file says '{text}' but its sites give '{_formula_sum(crystal)}'",
            where=crystal.name,
            remedy="add the missing atoms or correct _chemical_formula_sum",
        )
    z = gemmi.cif.as_number(value(block, "_cell_formula_units_Z"))
    confirmed = counts is not None and z >= 1
    if counts is not None and confirmed and not _fits(len(crystal), z, counts):
        raise StructureError(
            f"the file says Z = {z:g} of '{text}', {z * sum(counts.values()):g} atoms, but its sites and symmetry give "
            f"{len(crystal)}",
            where=crystal.name,
            remedy="correct _cell_formula_units_Z or list all symmetry operations",
        )
    if doubt and counts is None:
        raise StructureError(f"{doubt} (the file has no formula that would confirm it)", where=crystal.name)
    if not _listed(block) and not confirmed and not _is_p1(block):
        raise StructureError(
            "the CIF lists no symmetry operations, and has no formula and Z to confirm what its space group gives",
            where=crystal.name,
            remedy="add _space_group_symop_operation_xyz",
        )


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
