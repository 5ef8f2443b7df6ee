"""The atom sites that a CIF lists, before symmetry is applied to them: elements, occupancies and coordinates."""

from __future__ import annotations

import re
from dataclasses import dataclass

import gemmi
import numpy as np
from numpy.typing import NDArray

from crystalformers.errors import StructureError
from crystalformers.io.cif_text import column
from crystalformers.io.composition import OCCUPANCY_TOLERANCE, atomic_number
from crystalformers.periodic import ATOMIC_NUMBERS, SYMBOLS


@dataclass(frozen=True)
class Site:
    """One row of the `_atom_site_` loop."""

    label: str
    number: int
    frac_coords: NDArray[np.float64]
    doubt: str
    """What the file leaves open and only its formula can confirm; empty if nothing."""


def read_sites(block: gemmi.cif.Block, name: str) -> list[Site]:
    """The listed atom sites.

    Sites whose `_atom_site_calc_flag` is `dum` (centres of rings, ends of vectors) are no atoms and left out.

    Raises:
        StructureError: for unknown elements, partial occupancy, missing coordinates, hidden hydrogen.
    """
    labels = column(block, "_atom_site_label")
    columns = [column(block, f"_atom_site_fract_{x}") for x in "xyz"]
    if not labels or not all(columns):
        raise StructureError(
            "the atom sites need _atom_site_label and _atom_site_fract_x, _y and _z",
            where=name,
            remedy="export the file again",
        )
    # The CIF dictionary makes 1 the default of an occupancy.
    for tag, default in (("type_symbol", ""), ("occupancy", "1"), ("attached_hydrogens", "0"), ("calc_flag", ".")):
        columns.append(column(block, f"_atom_site_{tag}") or [default] * len(labels))
    if any(len(values) != len(labels) for values in columns):
        raise StructureError(
            "the columns of the atom sites differ in length", where=name, remedy="put all of them into one loop_"
        )
    *described, flags = columns
    rows = zip(flags, zip(labels, *described, strict=True), strict=True)
    sites = [_site(name, *row) for flag, row in rows if flag != "dum"]
    if not sites:
        raise StructureError("the CIF lists no atoms (all sites are dummies)", where=name, remedy="export it again")
    return sites


def _site(name: str, label: str, x: str, y: str, z: str, symbol: str, occupancy: str, hydrogen: str) -> Site:
    """One site, from its row of the loop."""
    if occupancy not in {".", "?"} and not abs(gemmi.cif.as_number(occupancy) - 1) <= OCCUPANCY_TOLERANCE:
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
    frac_coords = np.array([0.0 if text == "." else gemmi.cif.as_number(text) for text in (x, y, z)])
    if not np.isfinite(frac_coords).all():
        raise StructureError(
            f"site {label} has no numeric coordinates", where=name, remedy="add them or remove the site"
        )
    number, doubt = _element(label, symbol, name)
    if "." in (x, y, z):
        doubt = f"site {label} has '.' for a coordinate; write it as a number"
    return Site(label, number, frac_coords, doubt)


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
