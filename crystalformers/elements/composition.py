"""Features of compositions: statistics of the element vectors over the atoms of a formula.

Mean and standard deviation weight each element by its share of the atoms (Ward et al., npj Comput. Mater. 2016).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.elements.table import ElementTable
from crystalformers.errors import ConfigError, TableError
from crystalformers.periodic import element_number

Features = NDArray[np.float64]

STATISTICS: dict[str, Callable[[Features, Features], Features]] = {
    "mean": lambda share, vectors: share @ vectors,
    "std": lambda share, vectors: np.sqrt(share @ (vectors - share @ vectors) ** 2),
    "min": lambda share, vectors: vectors.min(axis=0),
    "max": lambda share, vectors: vectors.max(axis=0),
    "range": lambda share, vectors: np.ptp(vectors, axis=0),
}
"""Functions of the shares (n,) and vectors (n, D) of the n elements of a formula; each gives (D,)."""


def composition_features(
    compositions: Iterable[str | Mapping[Any, float]],
    table: ElementTable,
    statistics: Sequence[str] = tuple(STATISTICS),
) -> Features:
    """Features of compositions, (rows, statistics * D): each statistic has D columns, in the order given.

    Args:
        compositions: formulas (`LiFePO4`) or mappings from elements to amounts, for example pymatgen's `Composition`.
        table: element vectors.
        statistics: any of `STATISTICS`.

    Raises:
        ConfigError: if a statistic is unknown.
        TableError: naming the row, if a formula cannot be read or an element has no vector.
    """
    check_statistics(statistics)
    rows = [_features(row, composition, table, statistics) for row, composition in enumerate(compositions)]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(statistics) * table.dim)


def feature_names(table: ElementTable, statistics: Sequence[str] = tuple(STATISTICS)) -> list[str]:
    """Names of the columns: `mean 0`, `mean 1`, ..."""
    check_statistics(statistics)
    return [f"{statistic} {column}" for statistic in statistics for column in range(table.dim)]


def check_statistics(statistics: Sequence[str]) -> None:
    """Refuse an unknown statistic.

    Raises:
        ConfigError: naming the statistic.
    """
    for statistic in statistics:
        if statistic not in STATISTICS:
            raise ConfigError(f"Statistic '{statistic}' is not one of {', '.join(STATISTICS)}")


def _features(
    row: int, composition: str | Mapping[Any, float], table: ElementTable, statistics: Sequence[str]
) -> Features:
    amounts = _amounts(row, composition)
    try:
        vectors = table.rows(list(amounts)).astype(np.float64)
    except TableError as error:
        raise TableError.within(f"row {row} ({composition})", error) from None
    share = np.array(list(amounts.values()))
    share /= share.sum()
    return np.concatenate([STATISTICS[statistic](share, vectors) for statistic in statistics])


def _amounts(row: int, composition: str | Mapping[Any, float]) -> dict[int, float]:
    """Atomic number -> amount, of the elements whose amount is positive."""
    where = f"row {row} ({composition})"
    if isinstance(composition, str):
        from crystalformers.io.composition import parse_formula

        amounts = parse_formula(composition) or {}
    else:
        amounts = {element_number(str(element), where): float(amount) for element, amount in composition.items()}
    amounts = {number: amount for number, amount in amounts.items() if amount > 0}
    if not amounts or not np.isfinite(list(amounts.values())).all():
        raise TableError("is no composition", where=where, remedy="write a formula such as LiFePO4")
    return amounts
