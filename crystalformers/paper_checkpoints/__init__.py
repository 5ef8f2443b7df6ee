"""The authors' checkpoints, read into our model and written in their names, so that results travel both ways.

Read are Lightning checkpoints (`.ckpt`) and state dicts (`.pt`, `.pth`, `.safetensors`) of Crystalformer and
CrystalFramer, and the checkpoints (`.pth.tar`) and state dicts of CrystalTransformer. Only data is read: a file whose
pickle would run code is refused.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from crystalformers.checkpoint import Checkpoint
from crystalformers.errors import CheckpointError, ConfigError, TargetError
from crystalformers.files import write_atomically
from crystalformers.models import CrystalModel
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig
from crystalformers.models.crystaltransformer import CrystalTransformer, CrystalTransformerConfig
from crystalformers.models.presets import preset as preset_config
from crystalformers.paper_checkpoints import crystaltransformer
from crystalformers.paper_checkpoints.files import (
    AVERAGE,
    EMBEDDING,
    LAST,
    STEPS,
    TORCH,
    Content,
    Weights,
    choose,
    is_published,
    read_content,
)
from crystalformers.paper_checkpoints.params import agreed, config_of, differences, params_of
from crystalformers.paper_checkpoints.targets import Scale, targets_of
from crystalformers.paper_checkpoints.tensors import UNUSED, check_fits, statistics, to_ours, to_theirs
from crystalformers.target import Target

__all__ = [
    "Config",
    "Published",
    "Weights",
    "is_published",
    "load_published",
    "model_of",
    "read_published",
    "save_published",
]

LIGHTNING = "2.1.2"
"""Version of Lightning that the authors name, stored so that it reads our `.ckpt` without conversion."""

Network = Crystalformer | CrystalTransformer
Config = CrystalformerConfig | CrystalTransformerConfig


@dataclass(frozen=True)
class Published:
    """What a file of the authors holds.

    Attributes:
        model: the network, in evaluation mode.
        targets: one per output; empty where neither the file nor the caller tells their names and units.
        unmapped: what of the file is not in the model, one sentence each.
        params: the authors' hyper-parameters, if the file has them.
    """

    model: Network
    targets: tuple[Target, ...]
    unmapped: tuple[str, ...]
    params: dict[str, Any] | None


def read_published(
    path: Path,
    preset: str | Config | None = None,
    targets: Sequence[Target] | None = None,
    weights: Weights = "auto",
) -> Published:
    """Read a checkpoint or state dict of the authors' code.

    Args:
        path: `.ckpt`, `.pt`, `.pth`, `.pth.tar` or `.safetensors`.
        preset: name of a preset, or settings. Needed where the file holds no hyper-parameters, since tensors do not
            tell, for example, the space or the frame; checked against them otherwise. A CrystalTransformer needs none.
        targets: names and units. Mean and standard deviation are taken from the file if it has them; a state dict
            alone has none, and mean and std here are then those its training used (0 and 1 if they were multiplied
            into its last layer).
        weights: which set of weights, where there are two.

    Raises:
        CheckpointError: naming the file and what about it cannot be used.
        ConfigError: if there is no such preset.
    """
    config = preset_config(preset) if isinstance(preset, str) else preset
    try:
        return _read(Path(path), config, targets, weights)
    except (CheckpointError, ConfigError, TargetError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_published(
    path: Path, preset: str | Config | None = None, targets: Sequence[Target] | None = None
) -> Checkpoint:
    """The same as a checkpoint of ours, ready to predict; what could not be mapped stands in its card.

    Raises:
        CheckpointError: as `read_published`, and if the targets are not known or the model was never trained.
    """
    found = read_published(path, preset, targets)
    if not found.model.is_calibrated:
        raise CheckpointError(f"{path}: the width statistics are not set, so this model was never trained.")
    if not found.targets:
        raise CheckpointError(
            f"{path}: the file does not tell what the model predicts in which unit; give "
            "targets=[Target(name, unit, mean=..., std=...)] (`crystalformers convert` has options for them)."
        )
    card = {"source": "a checkpoint of the authors' code", "unmapped": list(found.unmapped), "params": found.params}
    return Checkpoint(found.model, found.targets, card)


def save_published(model: CrystalModel, path: Path, targets: Sequence[Target] = ()) -> None:
    """Write a model in the authors' names.

    Args:
        model: what to write; its `tie_width` has no counterpart there.
        path: `.safetensors`, `.pt` or `.pth` for the tensors alone; `.ckpt` for the layout of their Lightning
            checkpoints, with hyper-parameters and targets, which their scripts open (Crystalformer only).
        targets: one per output; needed for `.ckpt`, and no part of the others. Their code knows mean and standard
            deviation but neither units nor transforms.

    Raises:
        CheckpointError: if their code cannot express the model, the targets do not fit, or the suffix is unknown.
    """
    path = Path(path)
    if path.suffix not in (*TORCH, ".safetensors"):
        raise CheckpointError(f"{path}: name it .safetensors, .pt, .pth or .ckpt.")
    if isinstance(model, CrystalTransformer):
        _save_crystaltransformer(model, path)
        return
    if not isinstance(model, Crystalformer):
        raise CheckpointError(f"the authors' code has no {type(model).__name__}", where=str(path))
    if path.suffix == ".ckpt" and len(targets) != model.config.n_targets:
        raise CheckpointError(f"{path}: {len(targets)} targets do not fit {model.config.n_targets} model outputs.")
    try:
        params = params_of(model.config, [target.name for target in targets])
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    tensors = to_theirs(model.state_dict(), model.config)
    if path.suffix == ".safetensors":
        write_atomically(path, save(tensors))
        return
    buffer = io.BytesIO()
    torch.save(_lightning(tensors, params, targets) if path.suffix == ".ckpt" else tensors, buffer)
    write_atomically(path, buffer.getvalue())


def _save_crystaltransformer(model: CrystalTransformer, path: Path) -> None:
    if path.suffix == ".ckpt":
        raise CheckpointError(f"{path}: a CrystalTransformer has no Lightning checkpoint; name it .pt or .safetensors.")
    try:
        tensors = crystaltransformer.to_theirs(model)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if path.suffix == ".safetensors":
        write_atomically(path, save(tensors))
        return
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    write_atomically(path, buffer.getvalue())


def model_of(theirs: Mapping[str, Tensor], config: CrystalformerConfig) -> Crystalformer:
    """Our model with their weights, in the precision of their embedding table.

    Args:
        theirs: their state dict, without prefix.
        config: the settings that it was trained with.

    Raises:
        CheckpointError: if a tensor is missing, too many, of another shape, or not finite.
    """
    model = Crystalformer(config)
    check_fits(theirs, to_theirs(model.state_dict(), config))
    model = model.to(torch.promote_types(theirs[EMBEDDING].dtype, torch.float32))
    model.load_state_dict(model.state_dict() | to_ours(theirs, config) | statistics(theirs, config))
    return model.eval()


def _read(path: Path, given: Config | None, targets: Sequence[Target] | None, weights: Weights) -> Published:
    content = read_content(path)
    state = crystaltransformer.state_of(content.tensors)
    if state is not None:
        if isinstance(given, CrystalformerConfig):
            raise CheckpointError("it holds a CrystalTransformer, not a Crystalformer; leave out the preset.")
        return _read_crystaltransformer(content, state, given, targets)
    if isinstance(given, CrystalTransformerConfig):
        raise CheckpointError("it holds no CrystalTransformer; name the preset of another model.")
    return _read_crystalformer(content, given, targets, weights)


def _read_crystaltransformer(
    content: Content,
    state: Mapping[str, Tensor],
    given: CrystalTransformerConfig | None,
    targets: Sequence[Target] | None,
) -> Published:
    model = crystaltransformer.model_of(state, given)
    if targets is not None and len(targets) != model.config.n_targets:
        raise CheckpointError(f"{len(targets)} targets do not fit {model.config.n_targets} model outputs.")
    notes = [f"{name}: no line of their code uses it." for name in crystaltransformer.DEAD if name in state]
    return Published(model, crystaltransformer.scaled(targets or (), content.normalizer), tuple(notes), content.params)


def _read_crystalformer(
    content: Content, given: CrystalformerConfig | None, targets: Sequence[Target] | None, weights: Weights
) -> Published:
    tensors, params = content.tensors, content.params
    chosen = choose(tensors, weights)
    config = _settings(params, given, chosen.state)
    model = model_of(chosen.state, config)
    scale = Scale.of(tensors, chosen.outer, config.n_targets)
    notes = [
        *chosen.left_out,
        *_unmapped(chosen.state, model),
        *([] if params is None else differences(params, config)),
    ]
    return Published(model, targets_of(config.n_targets, params, scale, targets), tuple(notes), params)


def _settings(
    params: dict[str, Any] | None, given: CrystalformerConfig | None, state: Mapping[str, Tensor]
) -> CrystalformerConfig:
    if params is not None:
        return agreed(config_of(params), given)
    if given is None:
        raise CheckpointError(
            "it holds tensors without hyper-parameters; say which model it is, for example preset='crystalformer' "
            "(`crystalformers convert` has the option --preset)."
        )
    outputs = len(state["mlp.3.bias"]) if "mlp.3.bias" in state else given.n_targets
    return replace(given, n_targets=outputs)


def _unmapped(state: Mapping[str, Tensor], model: Crystalformer) -> list[str]:
    notes = []
    if any(name.endswith(UNUSED) for name in state):
        notes.append("atten_scale: the attention of the papers does not use it.")
    if model.config.space == "dual" and model.config.radial_functions:
        notes.append("pe_dist_proj: unused value encoding of reciprocal heads, at which their code does not look.")
    if not model.calibrated:
        notes.append("gauss_scale: not set, so the model was never trained; calibrate it before use.")
    return notes


def _lightning(tensors: dict[str, Tensor], params: dict[str, Any], targets: Sequence[Target]) -> dict[str, Any]:
    state = {LAST + name: tensor for name, tensor in tensors.items()}
    # Their scripts read the average, which here is the average of one set of weights.
    state |= {STEPS: torch.tensor(1)}
    state |= {AVERAGE + name: tensor for name, tensor in tensors.items()}
    state |= {
        "target_std": torch.tensor([target.std for target in targets]),
        "target_mean": torch.tensor([target.mean for target in targets]),
    }
    versions = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": LIGHTNING}
    return {**versions, "state_dict": state, "hyper_parameters": params}
