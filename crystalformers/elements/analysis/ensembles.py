"""Tables of one training with several seeds, and the elements that tables have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from crystalformers.elements import sources
from crystalformers.elements.table import ElementTable
from crystalformers.errors import TableError
from crystalformers.periodic import named

LEAST_ELEMENTS = 10
"""Smallest number of common elements for a comparison."""

RANDOM_CONTROLS = 3
"""Number of random tables that are added if none is given."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Tables that differ only by the seed of their training, `NAME-seed0`, `NAME-seed1`..., or a single table."""

    name: str
    tables: tuple[ElementTable, ...]


def ensembles(tables: Sequence[ElementTable]) -> tuple[Ensemble, ...]:
    """Group tables by their names without the seed, in the order given, and add random ones as a control if none is.

    Raises:
        TableError: if there is no table, or two have the same name.
    """
    if not tables:
        raise TableError("There is no table to report on", remedy="name at least one")
    names = [table.name for table in tables]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise TableError(f"Two tables are called '{twice[0]}'", remedy="give one of them another name")
    grouped: dict[str, list[ElementTable]] = {}
    for table in tables:
        grouped.setdefault(_without_seed(table.name), []).append(table)
    if "random" not in grouped:
        grouped["random"] = [sources.random(seed, tables[0].dim) for seed in range(RANDOM_CONTROLS)]
    return tuple(
        Ensemble(name if len(members) > 1 else members[0].name, tuple(members)) for name, members in grouped.items()
    )


def _without_seed(name: str) -> str:
    return re.sub(r"-seed\d+$|(?<=^random)-\d+$", "", name)


def common_elements(tables: Sequence[ElementTable]) -> NDArray[np.int64]:
    """Atomic numbers of the elements in all tables, ascending.

    Raises:
        TableError: if there are fewer than ten.
    """
    shared = reduce(np.intersect1d, [table.numbers for table in tables])
    if len(shared) < LEAST_ELEMENTS:
        names = ", ".join(f"{table.name} ({len(table)})" for table in tables)
        has = f"{len(shared)} elements in common{f' ({named(shared)})' if len(shared) else ''}"
        remedy = f"at least {LEAST_ELEMENTS} are needed, leave out the smallest table"
        raise TableError(has, where=names, remedy=remedy)
    return shared
