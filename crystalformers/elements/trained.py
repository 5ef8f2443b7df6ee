"""The table inside a trained model: its vectors of the elements that training has seen, and of no others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalformers.checkpoint import load_checkpoint
from crystalformers.elements.table import ElementTable
from crystalformers.errors import TableError
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.models.crystaltransformer import CrystalTransformer
from crystalformers.models.element_vectors import ElementVectors
from crystalformers.periodic import NUMBER_OF
from crystalformers.prediction.bundled import find_weights

if TYPE_CHECKING:
    from torch import Tensor

    from crystalformers.prediction.model import Model


def from_model(
    model: Model | str | os.PathLike[str],
    counts: Mapping[str, int] | None = None,
    *,
    name: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> ElementTable:
    """The element vectors of a trained model.

    Args:
        model: a loaded model, or its bundled name, run folder or weight file.
        counts: training crystals that hold each element, by symbol; by default the model's own card tells. Elements
            that are not in it kept their random beginning and are left out.
        name: of the table; by default the model's.
        about: further metadata, for example licence and citation.

    Raises:
        TableError: if the card tells no counts and none are given, or the model has no vectors of elements.
        CheckpointError: if the weight file cannot be used.
    """
    if isinstance(model, str | os.PathLike):
        path = find_weights(model)
        checkpoint = load_checkpoint(path)
        network, targets, card, known_as = checkpoint.model, checkpoint.targets, checkpoint.card, _name(path)
    else:
        network, targets, card, known_as = model.network, model.targets, model.card, model.name
    counts = counts or card.get("element_counts")
    if not counts:
        raise TableError(
            f"{known_as}: the model does not tell which elements it was trained on; give its training table."
        )
    vectors = _vectors(network, known_as).detach().cpu().numpy()
    symbols = [symbol for symbol, count in counts.items() if count > 0]
    numbers = np.array([NUMBER_OF[symbol] for symbol in symbols], dtype=np.int64)
    metadata: dict[str, Any] = {
        "architecture": type(network).__name__,
        "targets": [{"name": t.name, "unit": t.unit, "basis": t.basis, "transform": t.transform} for t in targets],
        **{key: card[key] for key in ("library", "data", "seed", "errors", "recipe") if key in card},
        **(about or {}),
    }
    seen = np.array([counts[symbol] for symbol in symbols], dtype=np.int64)
    return ElementTable(name or known_as, numbers, vectors[numbers - 1], seen, metadata)


def _name(path: Path) -> str:
    """`mp` for mp.safetensors, and for the weights in a run folder mp/."""
    return path.resolve().parent.name if path.stem == "model" else path.stem


def _vectors(network: Any, name: str) -> Tensor:
    """Row Z - 1 belongs to atomic number Z."""
    match network:
        case CrystalTransformer():
            return network.element_vectors()
        case Crystalformer() if network.elements is None:
            return network.embedding.weight
        case _ if isinstance(vectors := getattr(network, "elements", None), ElementVectors):
            return vectors.vectors
    raise TableError(f"{name}: a {type(network).__name__} has no vectors of elements.")
