"""Which elements lie close together, and which could stand in for one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalformers.elements.table import ElementTable
from crystalformers.errors import TableError
from crystalformers.periodic import ELEMENTS, element_number


@dataclass(frozen=True)
class Neighbour:
    """An element seen from another.

    Attributes:
        symbol: of the neighbour.
        cosine: between the two centred vectors, -1 to 1.
    """

    symbol: str
    cosine: float


@dataclass(frozen=True)
class Substitution:
    """One element of a formula replaced by another in the same oxidation state.

    Attributes:
        formula: what comes out, reduced.
        replaced: symbol of the element that goes.
        by: symbol of the element that comes.
        oxidation_state: what both have; None where the formula has no charge-neutral assignment.
        cosine: between their centred vectors.
    """

    formula: str
    replaced: str
    by: str
    oxidation_state: int | None
    cosine: float


def cosines(table: ElementTable) -> NDArray[np.float64]:
    """Cosine between the centred vectors of every two elements, (E, E); 0 for a vector at the centre itself.

    Centred, because a part that all vectors share (a bias, say) would make every pair look alike.
    """
    vectors = table.vectors.astype(np.float64)
    vectors -= vectors.mean(axis=0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths > 1e-6 * lengths.max(initial=0.0), lengths, np.inf)
    return np.clip(directions @ directions.T, -1, 1)


def nearest(table: ElementTable, element: str | int, count: int = 10) -> list[Neighbour]:
    """The elements most like one, by `cosines`, best first.

    Raises:
        TableError: if the table has no vector for it.
    """
    number = element_number(element, table.name)
    table.rows([number])
    row = cosines(table)[np.searchsorted(table.numbers, number)]
    order = [k for k in np.argsort(-row, kind="stable") if table.numbers[k] != number]
    return [Neighbour(table.symbols[k], float(row[k])) for k in order[:count]]


def oxidation_states(symbol: str) -> tuple[int, ...]:
    """Common oxidation states of an element, as pymatgen lists them."""
    from pymatgen.core import Element

    return tuple(Element(symbol).common_oxidation_states)


def substitutes(
    table: ElementTable, element: str | int, oxidation_state: int | None = None, count: int = 10
) -> list[Neighbour]:
    """The elements most like one among those that commonly have the oxidation state.

    Args:
        table: the vectors.
        element: what is to be replaced.
        oxidation_state: which state; None: any of those it commonly has.
        count: how many at most.

    Raises:
        TableError: if the table has no vector for the element.
    """
    symbol = ELEMENTS[element_number(element, table.name) - 1]
    wanted = set(oxidation_states(symbol)) if oxidation_state is None else {oxidation_state}
    candidates = nearest(table, symbol, len(table))
    return [other for other in candidates if wanted & set(oxidation_states(other.symbol))][:count]


def substitutions(table: ElementTable, formula: str, count: int = 10) -> list[Substitution]:
    """Formulas that differ in one element, the most alike first; charges stay balanced.

    Oxidation states are pymatgen's first guess for the formula. Where there is none, the new element shares a common
    state with the one it replaces.

    Raises:
        TableError: if the formula cannot be read, or the table has no vector for one of its elements.
    """
    from pymatgen.core import Composition

    from crystalformers.io.composition import parse_formula

    if parse_formula(formula) is None:
        raise TableError(f"'{formula}' is no formula", remedy="write one such as LiFePO4")
    composition = Composition(formula)
    guesses = composition.oxi_state_guesses()
    states = guesses[0] if guesses else {}
    found = []
    for symbol in (element.symbol for element in composition.elements):
        state = round(states[symbol]) if symbol in states and float(states[symbol]).is_integer() else None
        for other in substitutes(table, symbol, state, len(table)):
            if other.symbol not in composition:
                replaced = composition.replace({symbol: other.symbol}).reduced_formula
                found.append(Substitution(replaced, symbol, other.symbol, state, other.cosine))
    return sorted(found, key=lambda substitution: -substitution.cosine)[:count]
