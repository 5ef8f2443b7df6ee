"""What both estimators share: a fitted model inside a scikit-learn estimator, and checks of X."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from sklearn.base import BaseEstimator

from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError
from crystalformers.io import Rejected
from crystalformers.prediction.bundled import WEIGHTS
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import Model

LISTED = 10
"""Structures that a warning names."""


class FittedModel(BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """An estimator whose model is part of it as the bytes of a weight file, so that pickles hold no module.

    Attributes:
        weights_: the weight file (safetensors).
    """

    device: str
    weights_: bytes

    @cached_property
    def model_(self) -> Model:
        """The fitted model, read from `weights_`."""
        return self._load()

    def _load(self) -> Model:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / WEIGHTS
            path.write_bytes(self.weights_)
            model = load_model(path, self.device)
        model.name = type(self).__name__
        return model

    def _use(self, weights: bytes) -> None:
        """Take over the content of a weight file."""
        self.weights_ = weights
        self.model_ = self._load()

    def set_params(self, **params: Any) -> Self:
        """Set parameters; a new device holds for the next prediction."""
        self.__dict__.pop("model_", None)
        return super().set_params(**params)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "model_"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        return tags


def checked_collection(X: Any) -> Any:
    """X itself.

    Raises:
        ConfigError: if it is one structure or no collection at all.
    """
    single = isinstance(X, str | os.PathLike | Mapping | Crystal) or any(
        hasattr(X, name) for name in ("lattice", "cell")
    )
    if single or not hasattr(X, "__len__"):
        problem = f"a {type(X).__name__} is no collection of structures"
        raise ConfigError(problem, where="X", remedy="pass a list, a Series or a frame with a column 'structure'")
    return X


def warn_of_rejected(rows: Sequence[object]) -> None:
    """Name the structures that cannot be used."""
    bad = [row for row in rows if isinstance(row, Rejected)]
    if bad:
        listed = "\n".join(f"  {row}" for row in bad[:LISTED])
        more = f"\n  ... and {len(bad) - LISTED} more" if len(bad) > LISTED else ""
        warnings.warn(f"{len(bad)} of {len(rows)} structures could not be used:\n{listed}{more}", stacklevel=3)
