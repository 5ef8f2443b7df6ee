"""Composition features as a step of a scikit-learn pipeline; this module needs scikit-learn."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.elements.composition import (
    STATISTICS,
    Features,
    check_statistics,
    composition_features,
    feature_names,
)
from crystalformers.elements.library import load_elements
from crystalformers.elements.table import ElementTable
from crystalformers.extras import optional

with optional("elements", "this step of a pipeline"):
    from sklearn.base import BaseEstimator, TransformerMixin


class CompositionFeaturizer(TransformerMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Transform formulas into statistics of their element vectors (`composition.composition_features`).

    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> model = make_pipeline(CompositionFeaturizer("one-hot", ("mean",)), Ridge())
    >>> model.fit(["NaCl", "MgO", "KCl"], [-2.1, -3.1, -2.2]).predict(["NaCl"]).shape
    (1,)

    Attributes:
        table: a table of elements, or its name or file.
        statistics: any of `composition.STATISTICS`.
    """

    def __init__(
        self, table: ElementTable | str | os.PathLike[str], statistics: Sequence[str] = tuple(STATISTICS)
    ) -> None:
        self.table = table
        self.statistics = statistics

    def fit(self, compositions: Iterable[str | Mapping[Any, float]], y: Any = None) -> CompositionFeaturizer:
        """Load the table; the compositions are not used.

        Raises:
            TableError: if there is no such table.
            ConfigError: if a statistic is unknown.
        """
        self.table_ = self.table if isinstance(self.table, ElementTable) else load_elements(self.table)
        check_statistics(self.statistics)
        return self

    def transform(self, compositions: Iterable[str | Mapping[Any, float]]) -> Features:
        """Features, (rows, statistics * D)."""
        return composition_features(compositions, self.table_, self.statistics)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the columns."""
        return np.array(feature_names(self.table_, self.statistics), dtype=object)
