"""Similar elements, and which of them could substitute for each other in a compound."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalformers.elements.table import ElementTable
from crystalformers.errors import TableError
from crystalformers.extras import optional
from crystalformers.periodic import ELEMENTS, element_number


@dataclass(frozen=True)
class Neighbour:
    """A neighbour of an element.

    Attributes:
        symbol: of the neighbour.
        cosine: of the angle between the two centred vectors, -1 to 1.
    """

    symbol: str
    cosine: float


@dataclass(frozen=True)
class Substitution:
    """One element of a formula replaced by another in the same oxidation state.

    Attributes:
        formula: the new formula, reduced.
        replaced: symbol of the element that is replaced.
        by: symbol of the new element.
        oxidation_state: of both; None if the formula has no charge-neutral assignment.
        cosine: of the angle between their centred vectors.
    """

    formula: str
    replaced: str
    by: str
    oxidation_state: int | None
    cosine: float


def cosines(table: ElementTable) -> NDArray[np.float64]:
    """Cosine similarity of all pairs of centred vectors, (E, E); 0 for a vector at the centre.

    Without centring, a component that all vectors share, such as a bias, would make all pairs look alike.
    """
    vectors = table.vectors.astype(np.float64)
    vectors -= vectors.mean(axis=0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = vectors / np.where(lengths > 1e-6 * lengths.max(initial=0.0), lengths, np.inf)
    return np.clip(directions @ directions.T, -1, 1)


def nearest(table: ElementTable, element: str | int, count: int = 10) -> list[Neighbour]:
    """The `count` most similar elements by `cosines`, most similar first.

    Raises:
        TableError: if the table has no vector for the element.
    """
    number = element_number(element, table.name)
    table.rows([number])
    row = cosines(table)[np.searchsorted(table.numbers, number)]
    order = [k for k in np.argsort(-row, kind="stable") if table.numbers[k] != number]
    return [Neighbour(table.symbols[k], float(row[k])) for k in order[:count]]


def oxidation_states(symbol: str) -> tuple[int, ...]:
    """Common oxidation states of an element, as pymatgen lists them."""
    with optional("elements", "oxidation states"):
        from pymatgen.core import Element

    return tuple(Element(symbol).common_oxidation_states)


def substitutes(
    table: ElementTable, element: str | int, oxidation_state: int | None = None, count: int = 10
) -> list[Neighbour]:
    """The most similar elements with a common oxidation state.

    Args:
        table: element vectors.
        element: to be replaced.
        oxidation_state: that the others must have; None for any common state of the element.
        count: largest number of elements.

    Raises:
        TableError: if the table has no vector for the element.
    """
    symbol = ELEMENTS[element_number(element, table.name) - 1]
    wanted = set(oxidation_states(symbol)) if oxidation_state is None else {oxidation_state}
    candidates = nearest(table, symbol, len(table))
    return [other for other in candidates if wanted & set(oxidation_states(other.symbol))][:count]


def substitutions(table: ElementTable, formula: str, count: int = 10) -> list[Substitution]:
    """Formulas with one element replaced by a similar one in the same oxidation state, most similar first.

    Oxidation states are pymatgen's first guess for the formula. If it has none, the two elements only need a common
    oxidation state.

    Raises:
        TableError: if the formula cannot be read, or the table has no vector for one of its elements.
    """
    with optional("elements", "oxidation states"):
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
