"""Tensors of CrystalTransformer: the authors' names, and ours.

Their files (`model_best_*.pth.tar`) are dictionaries of plain data: a state dict, mean and standard deviation of the
target, the options of the training script and more. The names of the heads differ between their checkpoints, so heads
are recognised by the shapes of their layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crystalformers.errors import CheckpointError
from crystalformers.models.crystaltransformer import CrystalTransformer, CrystalTransformerConfig, Head
from crystalformers.models.presets import preset
from crystalformers.paper_checkpoints.targets import Scale, scale_of
from crystalformers.paper_checkpoints.tensors import check_tensors

TABLE = "atom_embed.weight"
"""The table of elements, which every model of theirs has."""

PREFIXES = {
    "atom_embed.": "atom_embed.",
    "coords_embed.": "encoder.coords_embed.",
    "transformer_encoder.": "encoder.layers.",
}
"""Beginnings of their names to ours."""

HEADS = "output_linear"
"""How the names of their heads begin."""

UNUSED = {"positional_encoding": (1, 256, None), "coord_diff_embed.weight": (64, 3), "coord_diff_embed.bias": (64,)}
"""Parameters that their code never uses, and their shapes; None is the width of the model."""

PARALLEL = "module."
"""Prefix that PyTorch adds to every name of a model that was trained on several devices."""


def state_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """The tensors without the prefix of parallel training; None if they are not those of a CrystalTransformer."""
    state = {name.removeprefix(PARALLEL): tensor for name, tensor in tensors.items()}
    return state if TABLE in state else None


def model_of(state: Mapping[str, Tensor], given: CrystalTransformerConfig | None) -> CrystalTransformer:
    """Our model with their weights, in evaluation mode and in the precision of their table of elements.

    Args:
        state: their state dict, from `state_of`.
        given: settings that must agree with the tensors, and the number of attention heads, which tensors do not
            determine; None for the published settings.

    Raises:
        CheckpointError: naming a tensor that is missing, unknown, of another shape or not finite.
    """
    config = _settings(state, given)
    with torch.device("meta"):  # no memory, until the shapes in the file are known to fit
        expected = {_theirs(name): tensor for name, tensor in CrystalTransformer(config).state_dict().items()}
    ours = {_ours(name): t for name, t in state.items() if name not in UNUSED and not name.startswith(HEADS)}
    ours |= _heads_of(state, config)
    check_tensors({_theirs(name): tensor for name, tensor in ours.items()}, expected)
    model = CrystalTransformer(config).to(torch.promote_types(state[TABLE].dtype, torch.float32))
    model.load_state_dict(ours)
    return model.eval()


def to_theirs(model: CrystalTransformer) -> dict[str, Tensor]:
    """The weights in their names, with zeros for the parameters that their code never uses.

    Raises:
        CheckpointError: if their code has no such variant or head.
    """
    config = model.config
    has_counterpart = config.head in ("published", "linear") or (config.head == "separate" and config.n_targets > 1)
    if config.variant != "published" or not has_counterpart:
        raise CheckpointError(
            f"the authors' code has no model of variant '{config.variant}' with head '{config.head}'; only the "
            "published variant with its own heads can be written"
        )
    theirs = {_theirs(name): tensor for name, tensor in model.state_dict().items()}
    theirs |= {
        name: torch.zeros([config.dim if size is None else size for size in shape]) for name, shape in UNUSED.items()
    }
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in theirs.items()}


def scale_in(normalizer: Any, outputs: int) -> Scale | None:
    """The scale of the targets, if the file has it.

    Raises:
        CheckpointError: if there is not one mean and deviation for each output.
    """
    if not isinstance(normalizer, Mapping) or not {"mean", "std"} <= normalizer.keys():
        return None
    mean, std = (torch.as_tensor(normalizer[name]) for name in ("mean", "std"))
    return scale_of(mean, std, outputs)


def _ours(name: str) -> str:
    """Our name of one of their tensors outside the heads."""
    for their, own in PREFIXES.items():
        if name.startswith(their):
            return own + name.removeprefix(their)
    raise CheckpointError(f"tensor '{name}' is not part of CrystalTransformer")


def _theirs(name: str) -> str:
    """Their name of one of our tensors."""
    for their, own in PREFIXES.items():
        if name.startswith(own):
            return their + name.removeprefix(own)
    return re.sub(r"^heads\.(\d+)\.(\d+\.)?", lambda m: f"{HEADS}{m[1]}.{m[2]}" if m[2] else f"{HEADS}.", name)


def _layers(state: Mapping[str, Tensor]) -> list[str]:
    """Names of the layers of all heads: hidden layers first, otherwise in the order of the file."""
    names = [name.removesuffix(".weight") for name in state if name.startswith(HEADS) and name.endswith(".weight")]
    # An output layer has one row, a hidden layer more.
    return sorted(names, key=lambda name: len(state[name + ".weight"]) == 1)


def _settings(state: Mapping[str, Tensor], given: CrystalTransformerConfig | None) -> CrystalTransformerConfig:
    start = given or preset("crystaltransformer-published")
    assert isinstance(start, CrystalTransformerConfig)
    layers = {match[1] for name in state if (match := re.match(r"transformer_encoder\.layers\.(\d+)\.", name))}
    expand, names = state.get("transformer_encoder.layers.0.linear1.weight"), _layers(state)
    if not layers or expand is None or not names:
        raise CheckpointError("it holds a table of elements but no whole CrystalTransformer")
    head: Head = "linear" if len(names) == 1 else "published"
    config = CrystalTransformerConfig(
        variant="published",
        dim=2 * len(state[TABLE]),
        heads=start.heads,
        blocks=len(layers),
        feedforward=len(expand),
        dropout=start.dropout,
        head=head,
        n_targets=max(1, len(names) // 2),
    )
    if given is not None:
        for name in ("variant", "dim", "blocks", "feedforward"):
            if getattr(given, name) != getattr(config, name):
                raise CheckpointError(
                    f"its {name} is {getattr(config, name)}, but the settings given say {getattr(given, name)}"
                )
    return config


def _heads_of(state: Mapping[str, Tensor], config: CrystalTransformerConfig) -> dict[str, Tensor]:
    """The tensors of the heads by our names."""
    names = _layers(state)
    if config.head == "linear":
        own = ["heads.0"]
    elif len(names) == 2:
        own = ["heads.0.0", "heads.0.1"]
    else:
        own = [f"heads.{number}.{layer}" for layer in (0, 2) for number in range(len(names) // 2)]
    if len(own) != len(names):
        raise CheckpointError(f"its heads have {len(names)} layers, which is no pair for each target")
    return {
        f"{our}.{kind}": state[f"{name}.{kind}"]
        for our, name in zip(own, names, strict=True)
        for kind in ("weight", "bias")
        if f"{name}.{kind}" in state
    }
