"""The models, one file each, and the table that lists them by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crystalformers.errors import ConfigError
from crystalformers.models.alignn import ALIGNN
from crystalformers.models.base import CrystalModel, ModelConfig
from crystalformers.models.cgcnn import CGCNN
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.models.crystaltransformer import CrystalTransformer
from crystalformers.models.ensemble import Ensemble
from crystalformers.models.megnet import MEGNet

__all__ = ["MODELS", "CrystalModel", "ModelConfig", "architecture_of", "build_model"]

MODELS: dict[str, type[CrystalModel]] = {
    "crystalformer": Crystalformer,
    "crystaltransformer": CrystalTransformer,
    "cgcnn": CGCNN,
    "megnet": MEGNet,
    "alignn": ALIGNN,
    "ensemble": Ensemble,
}
"""Name of an architecture, as recipes and weight files give it, to its class."""


def architecture_of(config: ModelConfig) -> str:
    """The name of the architecture that has settings of this class."""
    return next(name for name, listed in MODELS.items() if listed.Config is type(config))


def build_model(architecture: str, config: Mapping[str, Any]) -> CrystalModel:
    """A model with fresh weights from the plain settings of a weight file or recipe.

    Raises:
        ConfigError: if the architecture or a setting is unknown, or a value is out of range.
    """
    if architecture not in MODELS:
        raise ConfigError(f"Architecture '{architecture}' is not one of {', '.join(MODELS)}.")
    model_class = MODELS[architecture]
    known = model_class.Config.__dataclass_fields__
    unknown = sorted(set(config) - set(known))
    if unknown:
        raise ConfigError(f"Unknown model setting '{unknown[0]}' for {architecture}; known are {', '.join(known)}.")
    return model_class.of(model_class.Config(**config), build_model)
