"""Tables of element vectors as the periodic table of the page shows them.

Shapes: E elements of a table.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from crystalformers.elements import load_elements
from crystalformers.elements.analysis import clusters, spaces
from crystalformers.elements.analysis.properties import PROPERTIES, places, values
from crystalformers.elements.library import bundled_names
from crystalformers.elements.report.periodic_table import tiles
from crystalformers.elements.similarity import cosines, nearest, oxidation_states, substitutes, substitutions
from crystalformers.errors import TableError
from crystalformers.periodic import ELEMENTS
from crystalformers.plots.style import BLOCK_COLOURS, FAMILY_COLOURS

DEFAULT = "crystaltransformer7-mp36k-seed0"
"""The table that is shown first: learned from seven properties."""

SEED = 0
"""Of the shuffling that tells components above the noise from the others."""


def bundled(name: str) -> str:
    """The name of a bundled table: neither a request nor an assistant opens another file.

    Raises:
        TableError: if no bundled table has it.
    """
    if name not in bundled_names():
        raise TableError(f"there is no table '{name[:60]}'", remedy=f"use one of {', '.join(bundled_names())}")
    return name


@cache
def table_data(name: str = DEFAULT) -> dict[str, Any]:
    """A table of element vectors, with what the page colours its elements by.

    Args:
        name: as of `load_elements`.

    Returns:
        `elements`, of each its symbol, number, place in the periodic table, block, family and number of training
        crystals; `properties`, each with name, unit and values (E,), null where unknown; `cosines` of the angles
        between the centred vectors, (E, E).

    Raises:
        TableError: if there is no such table.
    """
    table = load_elements(name)
    where, families = places(table.numbers), _families(table.vectors.astype(np.float64))
    column_row = tiles(int(table.numbers.max()))
    counts = table.counts_by_symbol or {}
    elements = [
        {
            "symbol": symbol,
            "number": number,
            "column": float(column_row[number - 1, 0]),
            "row": float(column_row[number - 1, 1]),
            "block": str(where.block[k]),
            "family": int(families[k]),
            "crystals": counts.get(symbol),
        }
        for k, (symbol, number) in enumerate(zip(table.symbols, table.numbers.tolist(), strict=True))
    ]
    measured = values(table.numbers)
    properties = [
        {"name": one.name, "unit": one.unit, "values": [_finite(value) for value in measured[:, k].tolist()]}
        for k, one in enumerate(PROPERTIES)
    ]
    empty = [
        {"symbol": ELEMENTS[z - 1], "number": z, "column": float(x), "row": float(y)}
        for z, (x, y) in enumerate(tiles(103), start=1)
        if z not in table.numbers
    ]
    return {
        "table": table.name,
        "tables": bundled_names(),
        "dim": table.dim,
        "elements": elements,
        "unknown": empty,
        "properties": properties,
        "family_colours": FAMILY_COLOURS,
        "block_colours": BLOCK_COLOURS,
        "cosines": np.round(cosines(table), 4).tolist(),
    }


def _families(vectors: spaces.Floats) -> clusters.Labels:
    """Ward's families, (E,), as many as have the best silhouette."""
    points = spaces.points_in("leading", vectors, SEED)
    best = clusters.CLUSTERS[int(clusters.silhouettes(points).argmax())]
    return clusters.cluster(points, best)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def neighbours(element: str, name: str = DEFAULT, count: int = 10) -> dict[str, Any]:
    """The most similar elements, and those of them that share an oxidation state.

    Args:
        element: its symbol.
        name: of the table.
        count: of neighbours.

    Raises:
        TableError: if there is no such table, or it has no vector of the element.
    """
    table = load_elements(name)
    found = nearest(table, element, count)  # refuses what is no element
    return {
        "table": table.name,
        "element": element,
        "oxidation_states": list(oxidation_states(element)),
        "nearest": [vars(one) for one in found],
        "substitutes": [vars(one) for one in substitutes(table, element, count=count)],
    }


def substituted(formula: str, name: str = DEFAULT, count: int = 10) -> dict[str, Any]:
    """Formulas with one element replaced by a similar one in the same oxidation state.

    Raises:
        TableError: if the formula cannot be read, or there is no vector of one of its elements.
    """
    table = load_elements(name)
    return {
        "table": table.name,
        "formula": formula,
        "substitutions": [vars(one) for one in substitutions(table, formula, count)],
    }
