"""Which tables belong together, and which elements they can be compared on."""

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
"""Elements that tables must have in common to be compared."""

RANDOM_CONTROLS = 3
"""Random tables that are added where none is given."""


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Tables that differ by the seed of their training only: `NAME-seed0`, `NAME-seed1`..., or a single one."""

    name: str
    tables: tuple[ElementTable, ...]


def ensembles(tables: Sequence[ElementTable]) -> tuple[Ensemble, ...]:
    """Put tables of several seeds together, in the order given; random ones are added as a control if there is none.

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
    """Atomic numbers that all tables hold.

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
