"""One file tells a whole model; this table names them."""

from __future__ import annotations

from typing import Any

from torch import nn

from crystalformers.errors import ConfigError
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

MODELS: dict[str, tuple[type[Any], type[nn.Module]]] = {
    "crystalformer": (CrystalformerConfig, Crystalformer),
}
"""Name of an architecture, as checkpoints store it, to its settings and its module."""


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
