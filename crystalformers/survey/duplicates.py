"""Crystals that are nearly the same, whatever cell, origin and orientation they are given in.

Two crystals are compared if they have the same reduced formula. Each is described by its average minimum distances:
the distance from an atom to its k-th nearest neighbour, averaged over the atoms (Widdowson et al., MATCH 2022). They do
not depend on the cell and change little when atoms move little. Different crystals may share them, mirror images
always do.

Shapes: K neighbours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.data.split import IntArray
from crystalformers.data.table import CrystalTable
from crystalformers.images import CrystalBatch, build_images
from crystalformers.training.exclusion import composition

NEIGHBOURS = 12
REACH = 8.0
"""Distance up to which neighbours are looked for, Angstrom; what lies beyond counts as lying there."""

TOLERANCE = 0.02
"""Largest difference of any average minimum distance of two crystals that count as nearly the same, Angstrom."""

AT_ONCE = 256
"""Crystals whose distances are computed at once."""


@dataclass(frozen=True)
class Overlap:
    """What a part of a split shares with the training rows.

    Attributes:
        part: `val` or `test`.
        rows: of that part.
        same_formula: of these, rows whose reduced formula a training row has.
        same_crystal: of these, rows that are nearly the same crystal as a training row.
    """

    part: str
    rows: int
    same_formula: int
    same_crystal: int


@dataclass(frozen=True)
class Duplicates:
    """Rows that are nearly the same crystal.

    Attributes:
        groups: ids of rows that are nearly the same crystal, at least two each.
        formulas: number of different reduced formulas.
        overlaps: of validation and test rows with the training rows; empty without a split.
    """

    groups: tuple[tuple[str, ...], ...]
    formulas: int
    overlaps: tuple[Overlap, ...]

    @property
    def rows(self) -> int:
        """Rows that are nearly the same as an earlier one."""
        return sum(len(group) - 1 for group in self.groups)


def find_duplicates(table: CrystalTable, rows: IntArray, part: NDArray[np.str_] | None = None) -> Duplicates:
    """Compare all usable rows of a table.

    Args:
        table: the table.
        rows: its usable rows, (R,).
        part: train, val, test or unused of each, (R,); None if there is no split.
    """
    by_formula: dict[object, list[int]] = defaultdict(list)
    for place, row in enumerate(rows.tolist()):
        by_formula[composition(table.numbers(row))].append(place)
    shared = [places for places in by_formula.values() if len(places) > 1]
    several = sorted(place for places in shared for place in places)
    distances = average_minimum_distances(table[int(rows[place])] for place in several)
    described = dict(zip(several, distances, strict=True))
    pairs = [pair for places in shared for pair in _close(places, np.array([described[place] for place in places]))]
    groups = tuple(tuple(table.ids[int(rows[place])] for place in group) for group in _joined(pairs))
    overlaps = () if part is None else _overlaps(part, shared, pairs)
    return Duplicates(groups, len(by_formula), overlaps)


def average_minimum_distances(crystals: Iterable[Crystal]) -> NDArray[np.float64]:
    """Mean distance to the k-th nearest neighbour over the atoms of each crystal, (crystals, K), Angstrom."""
    found, waiting = [np.zeros((0, NEIGHBOURS))], iter(crystals)
    while chunk := list(islice(waiting, AT_ONCE)):
        batch = CrystalBatch.from_crystals(chunk)
        images = build_images(batch, REACH)
        first = images.ptr[:-1, None]
        place = first + torch.arange(1, NEIGHBOURS + 1)  # the nearest image of an atom is the atom itself
        there = place < images.ptr[1:, None]
        distance = images.distance[place.clamp(max=len(images.distance) - 1)]
        distance = torch.where(there, distance, REACH)
        total = distance.new_zeros(len(batch), NEIGHBOURS).index_add(0, batch.crystal_of_atom, distance)
        found.append((total / batch.ptr.diff()[:, None]).numpy())
    return np.concatenate(found)


def _close(places: list[int], distances: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of places whose distances (places, K) agree."""
    close = abs(distances[:, None] - distances[None]).max(axis=2) <= TOLERANCE
    return [(places[i], places[j]) for i, j in zip(*np.nonzero(np.triu(close, 1)), strict=True)]


def _joined(pairs: Sequence[tuple[int, int]]) -> list[list[int]]:
    """The groups that pairs connect, in the order of their first members."""
    group_of: dict[int, list[int]] = {}
    for a, b in pairs:
        one, other = group_of.get(a, [a]), group_of.get(b, [b])
        if one is not other:
            one.extend(other)
            group_of |= dict.fromkeys(one, one)
    distinct = {id(group): sorted(group) for group in group_of.values()}
    return sorted(distinct.values())


def _overlaps(
    part: NDArray[np.str_], shared: Sequence[Sequence[int]], pairs: Sequence[tuple[int, int]]
) -> tuple[Overlap, ...]:
    formula, crystal = (np.zeros(len(part), dtype=bool) for _ in range(2))
    for places in shared:
        formula[places] = (part[places] == "train").any()
    for a, b in pairs:
        crystal[a] |= part[b] == "train"
        crystal[b] |= part[a] == "train"
    found = []
    for name in ("val", "test"):
        here = part == name
        if here.any() and (part == "train").any():
            found.append(Overlap(name, int(here.sum()), int((formula & here).sum()), int((crystal & here).sum())))
    return tuple(found)
