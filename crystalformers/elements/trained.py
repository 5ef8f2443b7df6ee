"""The table inside a trained model: its vectors of the elements in the training crystals, and of no others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalformers.checkpoint import load_checkpoint
from crystalformers.elements.table import ElementTable
from crystalformers.errors import TableError
from crystalformers.periodic import NUMBER_OF
from crystalformers.prediction.bundled import find_weights
from crystalformers.prediction.card import ElementCounts, read_card

if TYPE_CHECKING:
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
        counts: number of training crystals with each element, by symbol; by default those of the model's card.
            Elements without any still have their random initial vectors and are left out.
        name: of the table; by default the model's.
        about: further metadata, for example licence and citation.

    Raises:
        TableError: if the card has no counts and none are given.
        ConfigError: if the model has no vectors of elements.
        CheckpointError: if the weight file cannot be used.
    """
    if isinstance(model, str | os.PathLike):
        path = find_weights(model)
        checkpoint = load_checkpoint(path)
        network, targets, card, known_as = checkpoint.model, checkpoint.targets, checkpoint.card, _name(path)
    else:
        network, targets, card, known_as = model.network, model.targets, model.card, model.name
    counts = counts or read_card(card, "element_counts", ElementCounts | None)
    if not counts:
        raise TableError(
            "the model does not tell which elements it was trained on",
            where=known_as,
            remedy="give its training table",
        )
    vectors = network.element_vectors().cpu().numpy()
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
