"""Structures in memory: pymatgen `Structure` and its dictionary, ASE `Atoms`. Neither package is imported here."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping
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


def from_optimade(attributes: Any, name: str) -> Crystal:
    """A crystal from an OPTIMADE structure: lattice vectors (rows), Cartesian positions, the species at each site."""
    return guarded(_from_optimade, attributes, name)


def _from_optimade(attributes: Any, name: str) -> Crystal:
    if not all(attributes.get("dimension_types") or (1, 1, 1)):
        raise StructureError(f"{name}: the structure is not periodic in all three directions.")
    symbols = attributes["species_at_sites"]
    species = attributes.get("species") or []
    species = json.loads(species) if isinstance(species, str) else species
    element = {kind["name"]: _only_element(kind, name) for kind in species}
    numbers = np.array([atomic_number(element.get(symbol, symbol), name) for symbol in symbols], dtype=np.int64)
    positions = np.array(attributes["cartesian_site_positions"], dtype=np.float64).reshape(len(numbers), 3)
    lattice = np.array(attributes["lattice_vectors"], dtype=np.float64).reshape(3, 3)
    return Crystal.from_positions(numbers, positions, lattice, name)


def _only_element(kind: Mapping[str, Any], name: str) -> str:
    """The element of a species; raises StructureError if several share its site."""
    symbols, shares = kind["chemical_symbols"], kind.get("concentration") or [1.0]
    if len(symbols) != 1 or abs(shares[0] - 1) > 1e-8:
        held = " + ".join(f"{symbol} {share:g}" for symbol, share in zip(symbols, shares, strict=False))
        raise StructureError(f"{name}: a site is disordered ({held}); choose an ordered model of the structure.")
    return str(symbols[0])


def guarded(build: Callable[[Any, str], Crystal], data: Any, name: str) -> Crystal:
    """A crystal from data that may hold anything; raises StructureError if they hold no crystal."""
    try:
        return build(data, name)
    except StructureError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise StructureError(
            f"{name}: the structure cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})."
        ) from error


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
