"""CIF files: pymatgen's parser between two sets of checks, since a CIF can be read wrongly without a sign of it.

Before parsing: cell, elements, occupancies and coordinates as the file lists them. After parsing: every listed
site is there, and formula and Z of the file agree with the atoms of the cell.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import SYMBOLS, Crystal
from crystalformers.errors import StructureError
from crystalformers.io.composition import ATOMIC_NUMBERS, atomic_number, contradicts, parse_formula
from crystalformers.io.overlap import MIN_VOLUME, check
from crystalformers.io.rejected import Rejected

if TYPE_CHECKING:
    from pymatgen.core import Structure

SITE_TOLERANCE = 2e-3
"""Largest difference of a fractional coordinate between a listed site and the parsed one."""

_TAGS = """_cell_length_a _cell_length_b _cell_length_c _cell_angle_alpha _cell_angle_beta _cell_angle_gamma
_cell_formula_units_Z _chemical_formula_sum _symmetry_equiv_pos_as_xyz _space_group_symop_operation_xyz
_symmetry_space_group_name_H-M _space_group_name_H-M_alt _space_group_name_Hall _symmetry_Int_Tables_number
_space_group_IT_number _symmetry_cell_setting _atom_site_label _atom_site_type_symbol _atom_site_fract_x
_atom_site_fract_y _atom_site_fract_z _atom_site_occupancy _atom_site_attached_hydrogens""".split()
_SPELLING = {tag.lower(): tag for tag in _TAGS}
_OPERATIONS = (
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_operation_xyz",
    "_space_group_symop_magn_operation.xyz",
    "_space_group_symop_magn_operation_xyz",
)
_HARMLESS = re.compile(
    r"rounded to ideal values|Spacegroup from .* used|Defaulting to P1|1-line symmetry op|parsed as|"
    r"stoichiometry|magCIF specification|electronegativity"
)
"""What pymatgen warns of and the checks of this file cover or do not need; any other warning is an error."""


@dataclass(frozen=True)
class Site:
    """One row of the `_atom_site_` loop."""

    label: str
    number: int
    frac_coords: NDArray[np.float64]
    doubt: str
    """What the file leaves open and only its formula can confirm; empty if nothing."""


def read_cif(text: str, name: str) -> Iterator[Crystal | Rejected]:
    """Every crystal of a CIF, or the reason why a data block holds none that can be used.

    Blocks without atoms (powder patterns, publication data) are passed over if another block has some. In a file
    with several structures each is called `name#block`.

    Raises:
        StructureError: if not one block holds atoms.
    """
    blocks = [
        (header, block, data)
        for header, block in _blocks(text)
        if re.search(r"^\s*_atom_site_", block, re.M)
        for data in [_parse(block, f"{name}#{header}")]
        if isinstance(data, Rejected) or set(_column(data, "_atom_site_label")) != {"?"}
    ]
    if not blocks:
        raise StructureError(f"{name}: the CIF lists no atoms (no _atom_site_ loop); export the structure again.")
    for header, block, data in blocks:
        label = name if len(blocks) == 1 else f"{name}#{header}"
        try:
            yield data if isinstance(data, Rejected) else check(_read_block(block, data, label))
        except StructureError as error:
            yield Rejected(label, str(error))


def _blocks(text: str) -> Iterator[tuple[str, str]]:
    """Name and text of each data block; tags in the spelling pymatgen expects, text fields passed over."""
    header, lines, in_text = "", list[str](), False
    for line in text.splitlines():
        start = None if in_text else re.match(r"\s*data_(\S*)", line, re.I)
        if start:
            if header:
                yield header, "\n".join(lines)
            header, lines = start.group(1) or "unnamed", [f"data_{start.group(1)}"]
            continue
        if line.startswith(";"):
            in_text = not in_text
        elif in_text:
            lines.append(f"- {line}" if line.lstrip().startswith("data_") else line)  # no block begins in a text
            continue
        tag = re.match(r"\s*(_\S+)", line)
        if tag and tag.group(1).lower() in _SPELLING:
            lines.append(line.replace(tag.group(1), _SPELLING[tag.group(1).lower()], 1))
        else:
            lines.append(line)
    if header:
        yield header, "\n".join(lines)


def _parse(block: str, name: str) -> dict[str, Any] | Rejected:
    """Tags and values of one data block; loops give lists."""
    from pymatgen.io.cif import CifBlock

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the same warnings come again from the parser
            data: dict[str, Any] = CifBlock.from_str(block).data
    except (ValueError, IndexError, ZeroDivisionError) as error:
        return Rejected(name, f"{name}: the CIF is malformed ({error}); export it again.")
    return data


def _read_block(block: str, data: dict[str, Any], name: str) -> Crystal:
    """The crystal of one data block; raises StructureError."""
    from pymatgen.io.cif import CifParser

    _check_cell(data, name)
    sites = _sites(data, name)
    # Rounding 0.3333 to 1/3 is right where symmetry operations act on it, and falsifies data elsewhere.
    tolerance = 0.0 if len(_column(data, *_OPERATIONS)) == 1 or _is_p1(data) else 1e-4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            parser = CifParser.from_str(block, frac_tolerance=tolerance, check_cif=False)
            structures = parser.parse_structures(primitive=False, on_error="raise")
        except Exception as error:  # a foreign parser on foreign input: any exception means "cannot be read"
            reason = str(error).split("\n")[-1] or type(error).__name__
            if reason.startswith("Occupancy"):
                raise StructureError(
                    f"{name}: several listed sites share one spot, by themselves or by symmetry; remove the duplicates "
                    "or choose an ordered model of the structure."
                ) from error
            raise StructureError(f"{name}: the CIF cannot be read ({reason}); export it again.") from error
    troubles = [str(w.message) for w in caught if issubclass(w.category, UserWarning)] + parser.warnings
    trouble = next((message for message in troubles if not _HARMLESS.search(message)), None)
    if trouble:
        raise StructureError(f"{name}: the CIF is ambiguous ({trouble.splitlines()[0]}); correct the file.")
    if len(structures) != 1 or not structures[0].is_ordered:
        raise StructureError(
            f"{name}: the CIF is disordered (several species share a site); choose an ordered model of it."
        )
    crystal = _crystal(structures[0], name)
    _check_sites(crystal, sites)
    _check_contents(crystal, data, next((site.doubt for site in sites if site.doubt), ""))
    return crystal


def _crystal(structure: Structure, name: str) -> Crystal:
    numbers = [atomic_number(site.specie.symbol, name) for site in structure]
    return Crystal(np.array(numbers), structure.frac_coords, structure.lattice.matrix, name)


def _check_cell(data: dict[str, Any], name: str) -> None:
    """Refuse a missing or flat cell before any parser works on it."""
    tags = [f"_cell_length_{x}" for x in "abc"] + [f"_cell_angle_{x}" for x in ("alpha", "beta", "gamma")]
    cell = [_number(str(data.get(tag, "?"))) for tag in tags]
    missing = [tag for tag, value in zip(tags, cell, strict=True) if not math.isfinite(value)]
    if missing:
        raise StructureError(f"{name}: the CIF gives no usable {missing[0]}; add all six cell parameters.")
    ca, cb, cg = np.cos(np.deg2rad(cell[3:]))
    volume = math.prod(cell[:3]) * math.sqrt(max(0.0, 1 - ca**2 - cb**2 - cg**2 + 2 * ca * cb * cg))
    if min(cell) <= 0 or volume < MIN_VOLUME:
        raise StructureError(
            f"{name}: the cell has no volume ({volume:.2g} Å³); correct the cell lengths (Å) and angles (°)."
        )


def _sites(data: dict[str, Any], name: str) -> list[Site]:
    """The listed atom sites: refuses unknown elements, partial occupancy, missing coordinates, hidden hydrogen."""
    labels = _column(data, "_atom_site_label")
    columns = [_column(data, f"_atom_site_fract_{x}") for x in "xyz"]
    if not labels or any(len(column) != len(labels) for column in columns):
        raise StructureError(
            f"{name}: the atom sites need _atom_site_label and _atom_site_fract_x, _y and _z; export the file again."
        )
    types = _column(data, "_atom_site_type_symbol") or [""] * len(labels)
    occupancies = _column(data, "_atom_site_occupancy") or ["1"] * len(labels)
    hydrogens = _column(data, "_atom_site_attached_hydrogens") or ["0"] * len(labels)
    sites = []
    for label, symbol, occupancy, hydrogen, *xyz in zip(labels, types, occupancies, hydrogens, *columns, strict=True):
        where = f"{name}: site {label}"
        if occupancy != "?" and _number(occupancy) != 1:
            raise StructureError(
                f"{where} is partially occupied (occupancy {occupancy}); choose an ordered model of the structure."
            )
        if hydrogen not in {".", "?"} and _number(hydrogen) != 0:
            raise StructureError(f"{where} carries hydrogen atoms without positions; add them to the structure.")
        # The CIF dictionary makes 0 the default of a coordinate, and ICSD relies on it; others write '.' for unknown.
        frac_coords = np.array([0.0 if x == "." else _number(x) for x in xyz])
        if not np.isfinite(frac_coords).all():
            raise StructureError(f"{where} has no numeric coordinates; add them or remove the site.")
        number, doubt = _element(label, symbol, where)
        if "." in xyz:
            doubt = f"site {label} has '.' for a coordinate; write it as a number"
        sites.append(Site(label, number, frac_coords, doubt))
    return sites


def _element(label: str, symbol: str, where: str) -> tuple[int, str]:
    """Atomic number of a site, and the doubt if its label alone has to tell (`HO1`: holmium, or hydrogen on O1?)."""
    if symbol not in {"", ".", "?"}:
        if re.search(r"\s\+\s|,", symbol):
            raise StructureError(
                f"{where} is shared by several species ({symbol}); choose an ordered model of the structure."
            )
        letters = re.fullmatch(r"([A-Za-z]{1,2})([\d.]*[+-]?|[+-][\d.]*)", symbol)
        known = letters is not None and letters.group(1).title() in ATOMIC_NUMBERS
        return atomic_number(letters.group(1) if letters and known else symbol, where), ""
    letters = re.match(r"[A-Za-z]+", label)
    word = letters.group() if letters else label
    if word in ATOMIC_NUMBERS:
        return ATOMIC_NUMBERS[word], ""
    number = atomic_number(word[:2] if word[:2].title() in ATOMIC_NUMBERS else word[:1], where)
    return number, f"label '{label}' leaves the element in doubt; add _atom_site_type_symbol"


def _check_sites(crystal: Crystal, sites: Sequence[Site]) -> None:
    """Every listed site must be in the crystal: parsers are known to drop and to merge some."""
    for site in sites:
        delta = crystal.frac_coords - site.frac_coords
        there = (np.abs(delta - np.round(delta)) < SITE_TOLERANCE).all(axis=1)
        if not (crystal.numbers[there] == site.number).any():
            raise StructureError(
                f"{crystal.name}: site {site.label} ({SYMBOLS[site.number - 1]}) is lost when the CIF is read; "
                "give the site an _atom_site_type_symbol that is a chemical symbol."
            )


def _check_contents(crystal: Crystal, data: dict[str, Any], doubt: str) -> None:
    """Hold the atoms of the cell against formula and Z of the file, which must decide what else is in doubt."""
    text = str(data.get("_chemical_formula_sum", "")).strip()
    counts = parse_formula(text)
    if counts is not None and contradicts(counts, crystal.numbers):
        raise StructureError(
            f"{crystal.name}: the file says '{text}' but its sites give '{_formula_sum(crystal)}'; "
            "add the missing atoms or correct _chemical_formula_sum."
        )
    z = _number(str(data.get("_cell_formula_units_Z", "?")))
    confirmed = counts is not None and z >= 1
    if counts is not None and confirmed and not _fits(len(crystal), z, counts):
        raise StructureError(
            f"{crystal.name}: the file says Z = {z:g} of '{text}', {z * sum(counts.values()):g} atoms, but its sites "
            f"and symmetry give {len(crystal)}; correct _cell_formula_units_Z or list all symmetry operations."
        )
    if doubt and counts is None:
        raise StructureError(f"{crystal.name}: {doubt} (the file has no formula that would confirm it).")
    if not _column(data, *_OPERATIONS) and not confirmed and not _is_p1(data):
        raise StructureError(
            f"{crystal.name}: the CIF lists no symmetry operations, and has no formula and Z to confirm what its space "
            "group gives; add _space_group_symop_operation_xyz."
        )


def _is_p1(data: dict[str, Any]) -> bool:
    """Whether the file names its space group P1, in which nothing can be misunderstood."""
    groups = _column(data, "_symmetry_space_group_name_H-M", "_space_group_name_H-M_alt")
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


def _column(data: dict[str, Any], *tags: str) -> Sequence[str]:
    """Values of the first of the tags that is present; a single value counts as a column of one."""
    values: str | list[str] = next((data[tag] for tag in tags if data.get(tag)), [])
    return [values] if isinstance(values, str) else values


def _number(text: str) -> float:
    """A CIF number with or without its uncertainty, `1.234(5)`; NaN if it is none."""
    try:
        return float(re.sub(r"\(.*", "", text.strip()))
    except ValueError:
        return math.nan
