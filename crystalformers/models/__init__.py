"""One file tells a whole model; this table names them."""

from __future__ import annotations

from typing import Any

from torch import nn

from crystalformers.errors import ConfigError
from crystalformers.models.alignn import ALIGNN, ALIGNNConfig
from crystalformers.models.cgcnn import CGCNN, CGCNNConfig
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig
from crystalformers.models.crystaltransformer import CrystalTransformer, CrystalTransformerConfig
from crystalformers.models.megnet import MEGNet, MEGNetConfig

MODELS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    "crystalformer": (CrystalformerConfig, Crystalformer),
    "crystaltransformer": (CrystalTransformerConfig, CrystalTransformer),
    "cgcnn": (CGCNNConfig, CGCNN),
    "megnet": (MEGNetConfig, MEGNet),
    "alignn": (ALIGNNConfig, ALIGNN),
}
"""Name of an architecture, as checkpoints store it, to its settings and its module."""


def architecture_of(config_or_model: object) -> str | None:
    """The name that `MODELS` gives to settings or a module; None if it is not listed."""
    return next((name for name, classes in MODELS.items() if type(config_or_model) in classes), None)


def build_model(architecture: str, config: dict[str, Any]) -> Any:
    """A model with fresh weights from the plain settings of a checkpoint or recipe.

    Raises:
        ConfigError: if the architecture or a setting is unknown, or a value is out of range.
    """
    if architecture not in MODELS:
        raise ConfigError(f"Architecture '{architecture}' is not one of {', '.join(MODELS)}.")
    config_class, model_class = MODELS[architecture]
    unknown = sorted(set(config) - set(config_class.__dataclass_fields__))
    if unknown:
        known = ", ".join(config_class.__dataclass_fields__)
        raise ConfigError(f"Unknown model setting '{unknown[0]}' for {architecture}; known are {known}.")
    return model_class(config_class(**config))
