"""Element vectors as a data source for matminer's featurizers; this module needs matminer."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from crystalformers.elements.library import load_elements
from crystalformers.elements.table import ElementTable
from crystalformers.errors import ConfigError, TableError

try:
    from matminer.featurizers.composition import ElementProperty
    from matminer.utils.data import AbstractData
except ImportError as error:
    raise ConfigError("matminer is not installed", remedy="pip install matminer") from error


class ElementTableData(AbstractData):  # type: ignore[misc] # matminer has no types
    """A table of element vectors as a data source of matminer, which asks for one number at a time.

    Attributes:
        table: the vectors.
        impute_nan: give an element without a vector the mean of all vectors instead of NaN.
        prop_names: `embedding 1` to `embedding D`, as matminer names those of MEGNet.
    """

    def __init__(self, table: ElementTable | str | os.PathLike[str], *, impute_nan: bool = False) -> None:
        self.table = table if isinstance(table, ElementTable) else load_elements(table)
        self.impute_nan = impute_nan
        self.prop_names = [f"embedding {column + 1}" for column in range(self.table.dim)]
        self._column = {name: column for column, name in enumerate(self.prop_names)}
        self._mean = self.table.vectors.mean(axis=0)

    def get_elemental_property(self, elem: Any, property_name: str) -> float:
        """One number of the vector of a pymatgen element.

        Raises:
            TableError: if there is no such property.
        """
        if property_name not in self._column:
            remedy = f"it has 1 to {self.table.dim}"
            raise TableError(f"has no '{property_name}'", where=self.table.name, remedy=remedy)
        column = self._column[property_name]
        if elem.symbol in self.table:
            return float(self.table[elem.symbol][column])
        return float(self._mean[column]) if self.impute_nan else math.nan


def featurizer(
    table: ElementTable | str | os.PathLike[str],
    statistics: Sequence[str] = ("mean", "std_dev", "minimum", "maximum", "range"),
    *,
    impute_nan: bool = False,
) -> ElementProperty:
    """An `ElementProperty` of matminer over all columns of a table."""
    source = ElementTableData(table, impute_nan=impute_nan)
    return ElementProperty(source, source.prop_names, list(statistics), impute_nan=impute_nan)
