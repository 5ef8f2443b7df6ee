"""Structures in memory: pymatgen `Structure` and its dictionary, ASE `Atoms`. Neither package is imported here."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import numpy as np

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io.composition import OCCUPANCY_TOLERANCE, atomic_number


def from_object(structure: Any, name: str) -> Crystal:
    """A crystal from a pymatgen `Structure`, its dictionary or ASE `Atoms`; raises StructureError if it is neither."""
    if isinstance(structure, dict):
        return from_pymatgen_dict(structure, name)
    if _is(structure, "pymatgen.core.structure", "IStructure"):
        return _from_pymatgen(structure, name)
    if _is(structure, "ase.atoms", "Atoms"):
        return _from_ase(structure, name)
    kind = type(structure).__name__
    raise StructureError(
        f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind} is not a structure",
        where=name or "structure",
        remedy="pass a Crystal, a pymatgen Structure, ASE Atoms or the path of a structure file",
    )


def from_pymatgen_dict(data: Any, name: str) -> Crystal:
    """A crystal from `Structure.as_dict()`, read without pymatgen (tables hold many of them)."""
    try:
        lattice, sites = data["lattice"]["matrix"], data["sites"]
        periodic = [bool(flag) for flag in data["lattice"].get("pbc", (True, True, True))]
        species = [[(str(s["element"]), float(s["occu"])) for s in site["species"]] for site in sites]
        frac_coords = np.array([site["abc"] for site in sites], dtype=np.float64)
        lattice = np.array(lattice, dtype=np.float64)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise StructureError(
            f"not a pymatgen Structure ({type(error).__name__}: {error})",
            where=name,
            remedy="write it with Structure.as_dict()",
        ) from error
    return _ordered(species, frac_coords, lattice, periodic, name)


def _ordered(species: Iterable[Any], frac_coords: Any, lattice: Any, periodic: Iterable[bool], name: str) -> Crystal:
    """A crystal whose sites each hold one element entirely; `species` gives (symbol, occupancy) pairs per site."""
    _check_periodic(periodic, name)
    where, numbers = name or "structure", []
    for index, site in enumerate(species, start=1):
        if len(site) != 1 or not abs(site[0][1] - 1) <= OCCUPANCY_TOLERANCE:
            content = " + ".join(f"{symbol} {occupancy:g}" for symbol, occupancy in site)
            raise StructureError(
                f"site {index} is disordered ({content})",
                where=where,
                remedy="choose an ordered model of the structure",
            )
        numbers.append(atomic_number(site[0][0], f"{where}: site {index}"))
    return Crystal(np.array(numbers, dtype=np.int64), frac_coords, lattice, name)


def _check_periodic(periodic: Iterable[bool], name: str) -> None:
    if not all(periodic):
        raise StructureError(
            "the structure is not periodic in all three directions",
            where=name or "structure",
            remedy="give it a lattice, and a vacuum where it ends",
        )


def _from_pymatgen(structure: Any, name: str) -> Crystal:
    species = [[(s.symbol, amount) for s, amount in site.species.items()] for site in structure]
    lattice = structure.lattice
    return _ordered(species, structure.frac_coords, lattice.matrix, lattice.pbc, name or structure.formula)


def _from_ase(atoms: Any, name: str) -> Crystal:
    name = name or str(atoms.symbols)
    _check_periodic(atoms.pbc, name)
    partial = [
        site
        for site in dict(atoms.info.get("occupancy") or {}).values()
        if len(site) != 1 or min(site.values()) < 1 - OCCUPANCY_TOLERANCE
    ]
    if partial:
        raise StructureError(
            f"the structure is disordered ({partial[0]})", where=name, remedy="choose an ordered model of it"
        )
    return Crystal.from_positions(atoms.numbers, atoms.positions, atoms.cell.array, name)


def _is(structure: Any, module: str, name: str) -> bool:
    """Whether an object is of a foreign class, without importing the package: who made it has imported it."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(structure, getattr(loaded, name))
