"""Checkpoints of the papers' authors: read into models of this library, and written for the authors' code.

| model | file | what the authors' file holds |
|---|---|---|
| Crystalformer, CrystalFramer | `.ckpt` (Lightning) | tensors, hyper-parameters, mean and deviation of the targets |
| CrystalTransformer | `.pth.tar` | tensors, options of the training script, mean and deviation of the target |
| all three | `.pt`, `.pth`, `.safetensors` | tensors alone (a state dict) |

Reading gives the network, the hyper-parameters and, if the file has them, the targets; `PaperCheckpoint.unmapped`
lists what has no counterpart here. A file whose pickle would run code is refused. Writing gives a state dict of any of
the three models, or a Lightning checkpoint of Crystalformer or CrystalFramer.

`files` opens the files; `crystalformer` and `crystaltransformer` translate the names and layouts of tensors, `params`
the hyper-parameters, and `targets` what the model predicts.
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

from crystalformers.checkpoint import SETTINGS_ERRORS, Checkpoint
from crystalformers.errors import CheckpointError, ConfigError, TargetError
from crystalformers.files import write_atomically
from crystalformers.models import CrystalModel
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig
from crystalformers.models.crystaltransformer import CrystalTransformer, CrystalTransformerConfig
from crystalformers.models.presets import preset as preset_config
from crystalformers.paper_checkpoints import crystalformer, crystaltransformer
from crystalformers.paper_checkpoints.files import (
    AVERAGE,
    LAST,
    STEPS,
    TORCH,
    Content,
    Weights,
    choose,
    is_paper_checkpoint,
    read_content,
)
from crystalformers.paper_checkpoints.params import agreed, config_of, differences, params_of
from crystalformers.paper_checkpoints.targets import scale_of, targets_of
from crystalformers.target import Target

__all__ = [
    "Config",
    "PaperCheckpoint",
    "Weights",
    "is_paper_checkpoint",
    "load_paper_checkpoint",
    "read_paper_checkpoint",
    "save_paper_checkpoint",
]

LIGHTNING = "2.1.2"
"""The Lightning version that the authors name; written into `.ckpt` files, so that it opens them without conversion."""

Network = Crystalformer | CrystalTransformer
Config = CrystalformerConfig | CrystalTransformerConfig


@dataclass(frozen=True)
class PaperCheckpoint:
    """What a file of the authors holds.

    Attributes:
        model: the network, in evaluation mode.
        targets: one per output; empty if neither the file nor the caller gives names and units.
        unmapped: what in the file has no counterpart in the model, one sentence each.
        params: the authors' hyper-parameters; None if the file has none.
    """

    model: Network
    targets: tuple[Target, ...]
    unmapped: tuple[str, ...]
    params: dict[str, Any] | None


def read_paper_checkpoint(
    path: Path,
    preset: str | Config | None = None,
    targets: Sequence[Target] | None = None,
    weights: Weights = "auto",
) -> PaperCheckpoint:
    """Read a checkpoint or state dict of the authors' code.

    Args:
        path: `.ckpt`, `.pt`, `.pth`, `.pth.tar` or `.safetensors`.
        preset: name of a preset, or settings. Needed for a state dict of Crystalformer or CrystalFramer, whose tensors
            do not determine, for example, the space or the frame; where a file has settings, the two must agree.
        targets: names and units. Mean and standard deviation come from the file if it has them; a state dict has
            none, so that they must be those of its training (0 and 1 if they were multiplied into its last layer).
        weights: which set of weights, if the file holds two.

    Raises:
        CheckpointError: naming the file and why it cannot be used.
        ConfigError: if there is no such preset.
    """
    config = preset_config(preset) if isinstance(preset, str) else preset
    try:
        return _read(Path(path), config, targets, weights)
    except (CheckpointError, ConfigError, TargetError) as error:
        raise CheckpointError.within(path, error) from error
    except SETTINGS_ERRORS as error:
        raise CheckpointError(f"its content cannot be used: {error}", where=str(path)) from error


def load_paper_checkpoint(
    path: Path, preset: str | Config | None = None, targets: Sequence[Target] | None = None
) -> Checkpoint:
    """The same as a checkpoint of this library, ready to predict; its card lists what could not be mapped.

    Raises:
        CheckpointError: as `read_paper_checkpoint`, and if the targets are unknown or the model was never trained.
    """
    found = read_paper_checkpoint(path, preset, targets)
    if not found.model.is_calibrated:
        raise CheckpointError("the width statistics are not set, so this model was never trained", where=str(path))
    if not found.targets:
        raise CheckpointError(
            "the file does not tell what the model predicts in which unit",
            where=str(path),
            remedy="give targets=[Target(name, unit, mean=..., std=...)] (options of `crystalformers convert`)",
        )
    card = {"source": "a checkpoint of the authors' code", "unmapped": list(found.unmapped), "params": found.params}
    return Checkpoint(found.model, found.targets, card)


def save_paper_checkpoint(model: CrystalModel, path: Path, targets: Sequence[Target] = ()) -> None:
    """Write a model for the authors' code.

    Args:
        model: its setting `tie_width` has no counterpart there and is lost.
        path: `.safetensors`, `.pt` or `.pth` for the tensors alone; `.ckpt` for a Lightning checkpoint that the
            authors' scripts open, with hyper-parameters and targets (Crystalformer and CrystalFramer only).
        targets: one per output, for `.ckpt` only. Mean and standard deviation are written; the authors' code knows
            neither units nor transforms.

    Raises:
        CheckpointError: if the authors' code cannot express the model, the targets do not fit, or the suffix is
            unknown.
    """
    path = Path(path)
    if path.suffix not in (*TORCH, ".safetensors"):
        problem = "the suffix is none of the authors' files"
        raise CheckpointError(problem, where=str(path), remedy="name it .safetensors, .pt, .pth or .ckpt")
    try:
        content = _content(model, path.suffix, targets)
    except CheckpointError as error:
        raise CheckpointError.within(path, error) from error
    if path.suffix == ".safetensors":
        write_atomically(path, save(content))
        return
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def _content(model: CrystalModel, suffix: str, targets: Sequence[Target]) -> dict[str, Any]:
    """Tensors by the authors' names, or all of a Lightning checkpoint."""
    if isinstance(model, CrystalTransformer):
        if suffix == ".ckpt":
            raise CheckpointError(
                "a CrystalTransformer has no Lightning checkpoint", remedy="name it .pt or .safetensors"
            )
        return dict(crystaltransformer.to_theirs(model))
    if not isinstance(model, Crystalformer):
        raise CheckpointError(f"the authors' code has no {type(model).__name__}")
    if suffix == ".ckpt" and len(targets) != model.config.n_targets:
        raise CheckpointError(f"{len(targets)} targets do not fit {model.config.n_targets} model outputs")
    params = params_of(model.config, [target.name for target in targets])
    tensors = crystalformer.to_theirs(model.state_dict(), model.config)
    return _lightning(tensors, params, targets) if suffix == ".ckpt" else dict(tensors)


def _lightning(tensors: dict[str, Tensor], params: dict[str, Any], targets: Sequence[Target]) -> dict[str, Any]:
    state = {LAST + name: tensor for name, tensor in tensors.items()}
    # The authors' scripts use the average; here it is the average of one set of weights.
    state |= {STEPS: torch.tensor(1)}
    state |= {AVERAGE + name: tensor for name, tensor in tensors.items()}
    state |= {
        "target_std": torch.tensor([target.std for target in targets]),
        "target_mean": torch.tensor([target.mean for target in targets]),
    }
    versions = {"epoch": 0, "global_step": 0, "pytorch-lightning_version": LIGHTNING}
    return {**versions, "state_dict": state, "hyper_parameters": params}


def _read(path: Path, given: Config | None, targets: Sequence[Target] | None, weights: Weights) -> PaperCheckpoint:
    content = read_content(path)
    state = crystaltransformer.state_of(content.tensors)
    if state is not None:
        if isinstance(given, CrystalformerConfig):
            raise CheckpointError("it holds a CrystalTransformer, not a Crystalformer", remedy="leave out the preset")
        return _read_crystaltransformer(content, state, given, targets)
    if isinstance(given, CrystalTransformerConfig):
        raise CheckpointError("it holds no CrystalTransformer", remedy="name the preset of another model")
    return _read_crystalformer(content, given, targets, weights)


def _read_crystaltransformer(
    content: Content,
    state: Mapping[str, Tensor],
    given: CrystalTransformerConfig | None,
    targets: Sequence[Target] | None,
) -> PaperCheckpoint:
    model = crystaltransformer.model_of(state, given)
    outputs = model.config.n_targets
    scale = crystaltransformer.scale_in(content.normalizer, outputs) if targets else None
    scaled = targets_of(outputs, None, scale, targets)
    notes = [f"{name}: the authors' code never uses it." for name in crystaltransformer.UNUSED if name in state]
    return PaperCheckpoint(model, scaled, tuple(notes), content.params)


def _read_crystalformer(
    content: Content, given: CrystalformerConfig | None, targets: Sequence[Target] | None, weights: Weights
) -> PaperCheckpoint:
    tensors, params = content.tensors, content.params
    chosen = choose(tensors, weights)
    config = _settings(params, given, chosen.state)
    model = crystalformer.model_of(chosen.state, config)
    mean, std = (tensors.get(f"{chosen.outer}target_{name}") for name in ("mean", "std"))
    scale = scale_of(mean, std, config.n_targets)
    scaled = targets_of(config.n_targets, params, scale, targets)
    notes = [*chosen.left_out, *crystalformer.unmapped(chosen.state, model)]
    notes += [] if params is None else differences(params, config)
    return PaperCheckpoint(model, scaled, tuple(notes), params)


def _settings(
    params: dict[str, Any] | None, given: CrystalformerConfig | None, state: Mapping[str, Tensor]
) -> CrystalformerConfig:
    if params is not None:
        return agreed(config_of(params), given)
    if given is None:
        raise CheckpointError(
            "it holds tensors without hyper-parameters",
            remedy="say which model it is, for example preset='crystalformer' (`crystalformers convert --preset`)",
        )
    outputs = len(state["mlp.3.bias"]) if "mlp.3.bias" in state else given.n_targets
    return replace(given, n_targets=outputs)
