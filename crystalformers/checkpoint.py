"""Weights on disk: one safetensors file whose header carries the description as JSON.

One file rather than two, so that weights and description are replaced together by a single rename and can
never be torn apart. Nothing in it is executable; reading it needs neither the training code nor pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from crystalformers.crystal import SYMBOLS
from crystalformers.errors import CheckpointError, ConfigError, TargetError
from crystalformers.files import write_atomically
from crystalformers.models import MODELS, build_model
from crystalformers.target import Target

HEADER_KEY = "crystalformers"
FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """A model, what it predicts, and what is known about it.

    Attributes:
        model: the network with its weights, in evaluation mode.
        targets: one per output, in order.
        card: free JSON: training data, measured errors, seed, versions.
    """

    model: Any
    targets: tuple[Target, ...]
    card: dict[str, Any]


def save_model(path: Path, model: nn.Module, targets: Sequence[Target], card: dict[str, Any]) -> None:
    """Write weights and description to `path`, replacing an older file only once all bytes are on disk.

    Args:
        path: file to write, by custom ``*.safetensors``.
        model: a model of `crystalformers.models.MODELS`.
        targets: one per output of the model.
        card: JSON-serialisable description.

    Raises:
        CheckpointError: if the model is not of a known architecture or the targets do not fit it.
    """
    architecture = next((name for name, (_, cls) in MODELS.items() if type(model) is cls), None)
    if architecture is None:
        raise CheckpointError(f"{path}: {type(model).__name__} is not an architecture that can be saved.")
    config: Any = model.config
    if len(targets) != config.n_targets:
        raise CheckpointError(f"{path}: {len(targets)} targets do not fit {config.n_targets} model outputs.")
    description = {
        "format": FORMAT,
        "architecture": architecture,
        "config": asdict(config),
        "targets": [target.to_dict() for target in targets],
        "elements": _elements_hash(),
        "card": card,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomically(path, save(tensors, {HEADER_KEY: json.dumps(description, sort_keys=True)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file written by `save_model`.

    Raises:
        CheckpointError: if the file is absent, truncated, of another kind, or does not fit its architecture.
    """
    path = Path(path)
    description = read_description(path)
    if description.get("elements") != _elements_hash():
        raise CheckpointError(f"{path}: the weights order the elements differently from this library.")
    try:
        model = build_model(description["architecture"], description["config"])
        targets = tuple(Target.from_dict(target) for target in description["targets"])
        card = description["card"]
        if len(targets) != model.config.n_targets:
            raise TargetError(f"{len(targets)} targets do not fit {model.config.n_targets} outputs.")
    except (KeyError, TypeError, ConfigError, TargetError) as error:
        raise CheckpointError(f"{path}: the description in the file cannot be used: {error}") from error
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    for name in sorted(expected.keys() ^ tensors.keys()):
        problem = "is missing" if name in expected else "is not part of the architecture"
        raise CheckpointError(f"{path}: tensor '{name}' {problem}.")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"{path}: tensor '{name}' has shape {tuple(tensors[name].shape)}, expected {tuple(shape)}."
            )
        if not tensors[name].isfinite().all():
            raise CheckpointError(f"{path}: tensor '{name}' holds NaN or infinite numbers.")
    model.load_state_dict(tensors)
    return Checkpoint(model.eval(), targets, card)


def read_description(path: Path) -> dict[str, Any]:
    """The JSON of a weight file, without its tensors.

    Raises:
        CheckpointError: if the file is absent, not safetensors, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: there is no such weight file.")
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); it may be truncated, copy it again."
        ) from error
    if header is None:
        raise CheckpointError(f"{path}: a safetensors file, but not one that crystalformers wrote.")
    try:
        description: dict[str, Any] = json.loads(header)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: the description in the file is not JSON ({error}).") from error
    if not isinstance(description, dict):
        raise CheckpointError(f"{path}: the description in the file is not a JSON object.")
    if description.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {description.get('format')} is not known to this version (it reads {FORMAT}); "
            "update crystalformers."
        )
    return description


def _elements_hash() -> str:
    """Fingerprint of the order of elements in an embedding table."""
    return hashlib.sha256(" ".join(SYMBOLS).encode()).hexdigest()[:16]
