"""Are the three vectors of a lattice the rows or the columns of its matrix?

With the wrong ones atoms lie where they should not: in four of five crystals of the Materials Project whose matrix is
not symmetric the shortest distance shrinks by more than a tenth, in one of 500 it grows by as much.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError

SYMMETRIC = 1e-3
"""Difference of a matrix from its transpose below which it tells nothing, Angstrom."""

REACH = 4.0
"""Distance up to which neighbours are looked for, Angstrom."""

CHANGE = 0.1
"""Relative change of the shortest distance that counts."""

LEAST = 10
"""Crystals whose shortest distance must change before anything is concluded."""

ENOUGH = 200
"""Crystals that are looked at, at most."""


def vectors_are_columns(crystals: Iterable[Crystal]) -> bool:
    """Whether most crystals make more sense with the columns of their lattice as its vectors, positions unchanged.

    False where too few crystals tell, as in a set of orthogonal cells.
    """
    shrinks = grows = seen = 0
    for crystal in crystals:
        if abs(crystal.lattice - crystal.lattice.T).max() < SYMMETRIC:
            continue
        try:
            other = Crystal.from_positions(crystal.numbers, crystal.positions, crystal.lattice.T, crystal.name)
            given, turned = shortest_distance(crystal), shortest_distance(other)
        except StructureError:
            continue
        shrinks += turned < (1 - CHANGE) * given
        grows += given < (1 - CHANGE) * turned
        seen += 1
        if seen == ENOUGH:
            break
    return grows + shrinks >= LEAST and grows > shrinks


def shortest_distance(crystal: Crystal) -> float:
    """Distance of the two nearest atoms, images included, Angstrom; at most `REACH`."""
    from crystalformers.images import CrystalBatch, build_images

    images = build_images(CrystalBatch.from_crystals([crystal]), REACH)
    itself = images.ptr[:-1]  # the nearest image of an atom is the atom itself
    others = np.delete(images.distance.numpy(), itself.numpy())
    return float(others.min(initial=REACH))
