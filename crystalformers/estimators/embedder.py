"""`CrystalEmbedder`: structures to vectors, as scikit-learn does.

Shapes: n entries of X, D width of the vector of a crystal.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from crystalformers.checkpoint import save_model
from crystalformers.crystal import Crystal
from crystalformers.estimators.base import FittedModel, checked_collection, warn_of_rejected
from crystalformers.io.pandas_tables import structures_of
from crystalformers.prediction.bundled import WEIGHTS
from crystalformers.prediction.loading import load_model


class CrystalEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, FittedModel):  # type: ignore[misc] # no types
    """Turn structures into the vectors that a trained model computes before its property head.

    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.pipeline import make_pipeline
    >>> from crystalformers import CrystalEmbedder
    >>> model = make_pipeline(CrystalEmbedder(), Ridge())

    Args:
        model: as `load_model` takes it.
        device: where to compute.

    Attributes:
        weights_: the weight file of the model (safetensors).
        model_: the `Model`.
    """

    def __init__(self, model: str | os.PathLike[str] = "materials-project", device: str = "cpu") -> None:
        self.model = model
        self.device = device

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # always float32
        return tags

    def fit(self, X: Any = None, y: Any = None) -> Self:
        """Load the model; nothing is learned.

        Raises:
            CheckpointError: if there is no such model.
        """
        model = load_model(self.model)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / WEIGHTS
            save_model(path, model.network, model.targets, model.card, model.arrays)
            self._use(path.read_bytes())
        self._n_features_out = model.dim
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Vectors (n, D), the mean over the atoms of each crystal; NaN for a structure that cannot be used."""
        check_is_fitted(self)
        found = list(structures_of(checked_collection(X)))
        warn_of_rejected(found)
        vectors = np.full((len(found), self.model_.dim), np.nan, np.float32)
        good = [k for k, one in enumerate(found) if isinstance(one, Crystal)]
        vectors[good] = self.model_.embed([found[k] for k in good])
        return vectors
