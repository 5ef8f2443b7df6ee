"""Tensors of Crystalformer and CrystalFramer: the authors' names and layouts, and ours.

Shapes: H heads, D their width, K radial functions, K_a angular functions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from crystalformers.errors import CheckpointError
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig
from crystalformers.paper_checkpoints.tensors import check_tensors

EMBEDDING = "input_embeddings.weight"
"""The one tensor that every model of Crystalformer's authors has, and none of ours."""

PARTS = ("query", "key", "value")

HEAD = {
    **{f"mlp.0.{kind}": f"head.0.{kind}" for kind in ("weight", "bias")},
    **{f"mlp.3.{kind}": f"head.2.{kind}" for kind in ("weight", "bias")},
}
"""Their names to ours, of tensors that are the same in both."""

BLOCK = {
    **{f"self_attn.{name[0]}_proj_weight": f"attention.{name}.weight" for name in PARTS},
    **{f"self_attn.out_proj.{kind}": f"attention.out.{kind}" for kind in ("weight", "bias")},
    **{f"linear1.{kind}": f"expand.{kind}" for kind in ("weight", "bias")},
    **{f"linear2.{kind}": f"contract.{kind}" for kind in ("weight", "bias")},
}
"""The same within a block."""

UNUSED = "self_attn.atten_scale"
"""Scale of an attention without softmax, which none of their models has; a file may lack it."""


def model_of(theirs: Mapping[str, Tensor], config: CrystalformerConfig) -> Crystalformer:
    """Our model with their weights, in evaluation mode and in the precision of their embedding table.

    Args:
        theirs: their state dict, without prefix.
        config: the settings that it was trained with.

    Raises:
        CheckpointError: naming a tensor that is missing, unknown, of another shape or not finite.
    """
    with torch.device("meta"):  # no memory, until the shapes in the file are known to fit
        uncalibrated = Crystalformer(config).state_dict() | {"calibrated": torch.zeros((), device="cpu")}
    expected = _by_their_names(uncalibrated, config)
    found, wanted = _blocks(theirs), _blocks(expected)
    if found != wanted:
        raise CheckpointError(f"the file holds {found} blocks, but its settings or the preset say {wanted}")
    check_tensors(theirs, expected, optional=UNUSED)
    model = Crystalformer(config).to(torch.promote_types(theirs[EMBEDDING].dtype, torch.float32))
    model.load_state_dict(model.state_dict() | to_ours(theirs, config) | width_statistics(theirs, config))
    return model.eval()


def _blocks(names: Iterable[str]) -> int:
    numbers = [match[1] for name in names if (match := re.match(r"encoder\.layers\.(\d+)\.", name))]
    return 1 + max(map(int, numbers), default=-1)


def to_theirs(ours: Mapping[str, Tensor], config: CrystalformerConfig) -> dict[str, Tensor]:
    """Our state dict in their names and layouts, complete."""
    theirs = _by_their_names(ours, config)
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in theirs.items()}


def _by_their_names(ours: Mapping[str, Tensor], config: CrystalformerConfig) -> dict[str, Tensor]:
    theirs = {EMBEDDING: ours["embedding.weight"].T}
    theirs |= {name: ours[own] for name, own in HEAD.items()}
    for number in range(config.blocks):
        layer, block = f"encoder.layers.{number}.", f"blocks.{number}."
        attention, own = layer + "self_attn.", block + "attention."
        theirs |= {layer + name: ours[block + same] for name, same in BLOCK.items()}
        theirs[attention + "in_proj_bias"] = torch.cat([ours[f"{own}{part}.bias"] for part in PARTS])
        width_HD = ours[own + "width"]
        theirs[attention + "lattice_pos_weights"] = width_HD.flatten()
        theirs[attention + "gauss_scale"] = (
            torch.stack([1 / ours[own + "width_std"], -ours[own + "width_mean"]])
            if ours["calibrated"]
            else width_HD.new_zeros(2)
        )
        theirs[layer + UNUSED] = width_HD.new_zeros(1)
        if own + "value_encoding" in ours:
            W_HDK = ours[own + "value_encoding"]
            # They allocate a value encoding for reciprocal heads too, but never use it.
            unused = W_HDK.new_zeros(config.heads - len(W_HDK), *W_HDK.shape[1:])
            theirs[attention + "pe_dist_proj"] = torch.cat([W_HDK, unused])[None]
        if own + "angular_encoding" in ours:
            for axis, W_HDK in enumerate(ours[own + "angular_encoding"], start=1):
                theirs[f"{attention}proj_angle{axis}"] = W_HDK[None]
    return theirs


def to_ours(theirs: Mapping[str, Tensor], config: CrystalformerConfig) -> dict[str, Tensor]:
    """Their parameters, or gradients under the same names, by our names; without the width statistics."""
    ours = {"embedding.weight": theirs[EMBEDDING].T}
    ours |= {own: theirs[name] for name, own in HEAD.items()}
    for number in range(config.blocks):
        layer, block = f"encoder.layers.{number}.", f"blocks.{number}."
        attention, own = layer + "self_attn.", block + "attention."
        ours |= {block + same: theirs[layer + name] for name, same in BLOCK.items()}
        biases = theirs[attention + "in_proj_bias"].chunk(3)
        ours |= {f"{own}{part}.bias": bias for part, bias in zip(PARTS, biases, strict=True)}
        ours[own + "width"] = theirs[attention + "lattice_pos_weights"].view(config.heads, -1)
        real = config.real_heads(number)
        if config.radial_functions and real:
            ours[own + "value_encoding"] = theirs[attention + "pe_dist_proj"][0, :real]
        if config.has_frames(number):
            ours[own + "angular_encoding"] = torch.cat([theirs[f"{attention}proj_angle{axis}"] for axis in (1, 2, 3)])
    return ours


def width_statistics(theirs: Mapping[str, Tensor], config: CrystalformerConfig) -> dict[str, Tensor]:
    """Mean and standard deviation of the widths before their activation, by our names.

    Theirs is x = (q.w + shift) * scale, ours x = (q.w - mean) / std. Their scale is 0 until the first training batch
    sets it; a model that was never trained is not calibrated here either.

    Raises:
        CheckpointError: if they are set in some blocks only.
    """
    pairs = [theirs[f"encoder.layers.{number}.self_attn.gauss_scale"] for number in range(config.blocks)]
    calibrated = [bool(scale > 0) for scale, _ in pairs]
    if any(calibrated) != all(calibrated):
        raise CheckpointError(f"the width statistics of block {calibrated.index(False)} are not set, others are")
    ours = {"calibrated": torch.tensor(all(calibrated))}
    if all(calibrated):
        for number, (scale, shift) in enumerate(pairs):
            own = f"blocks.{number}.attention."
            ours |= {own + "width_mean": -shift, own + "width_std": 1 / scale}
    return ours


def unmapped(theirs: Mapping[str, Tensor], model: Crystalformer) -> list[str]:
    """The tensors of theirs that `model`, which was made from them, does not use; one sentence each."""
    notes = []
    if any(name.endswith(UNUSED) for name in theirs):
        notes.append("atten_scale: the attention of the papers does not use it.")
    if model.config.space == "dual" and model.config.radial_functions:
        notes.append("pe_dist_proj: unused value encoding of reciprocal heads, which their code never reads.")
    if not model.calibrated:
        notes.append("gauss_scale: not set, so the model was never trained; calibrate it before use.")
    return notes
