"""Transformer encoders for crystals: predict properties, train on your own data, reuse atom vectors.

>>> from crystalformers import load_model
>>> model = load_model()  # doctest: +SKIP
>>> model.predict("NaCl.cif")  # doctest: +SKIP

Public names are imported on first use, so that `import crystalformers` costs nothing.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crystalformers.crystal import Crystal
    from crystalformers.data.table import CrystalTable, open_table
    from crystalformers.errors import CrystalformersError, StructureError
    from crystalformers.estimators import CrystalEmbedder, CrystalRegressor
    from crystalformers.images import CrystalBatch
    from crystalformers.io import Rejected, as_crystal, read_crystal, read_structures
    from crystalformers.prediction.evaluation import evaluate_model
    from crystalformers.prediction.loading import load_model
    from crystalformers.prediction.model import Model
    from crystalformers.prediction.rows import Prediction
    from crystalformers.target import Target
    from crystalformers.training.fit import fit
    from crystalformers.training.recipe import Recipe

if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
    # Read when PyTorch is imported; see `csrc.openmp`. A tenth of the usual spin, about a millisecond, still spans the
    # gap between two operations: with a hundredth of that, image lists on two threads took a fifth longer.
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

_MODULE_OF = {
    "Crystal": "crystal",
    "CrystalBatch": "images",
    "CrystalEmbedder": "estimators",
    "CrystalRegressor": "estimators",
    "CrystalTable": "data.table",
    "CrystalformersError": "errors",
    "Model": "prediction.model",
    "Prediction": "prediction.rows",
    "Recipe": "training",
    "Rejected": "io",
    "StructureError": "errors",
    "Target": "target",
    "as_crystal": "io",
    "evaluate_model": "prediction.evaluation",
    "fit": "training",
    "load_model": "prediction.loading",
    "open_table": "data.table",
    "read_crystal": "io",
    "read_structures": "io",
}
"""The module that defines each public name."""

__all__ = [
    "Crystal",
    "CrystalBatch",
    "CrystalEmbedder",
    "CrystalRegressor",
    "CrystalTable",
    "CrystalformersError",
    "Model",
    "Prediction",
    "Recipe",
    "Rejected",
    "StructureError",
    "Target",
    "as_crystal",
    "evaluate_model",
    "fit",
    "load_model",
    "open_table",
    "read_crystal",
    "read_structures",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("crystalformers")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'crystalformers' has no attribute '{name}'")
    return getattr(import_module(f"crystalformers.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
