"""The authors' weights and outputs, read into our model. All are plain tensors: no code of theirs runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from crystalformers.crystal import SYMBOLS, Crystal
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

SPACES = {"real": "real", "multihead": "dual", "real-reci": "alternating"}
FRAMES = {None: None, "max": "max", "max_static": "static-local", "lattice": "lattice"}


@dataclass(frozen=True)
class Oracle:
    """One folder of outputs of the authors' code, float64."""

    model: Crystalformer
    crystals: list[Crystal]
    layer0: Tensor  # (A, dim), after the first block
    enc: Tensor  # (A, dim), after the last
    pred: Tensor  # (C, 1)
    loss_c: Tensor  # (C, 1), the gradients are those of sum(pred * loss_c)
    gradients: dict[str, Tensor]  # by our parameter names; empty where none are given


def read_oracle(shared: Path, name: str) -> Oracle:
    folder = shared / "oracle" / name
    weights = our_names({key: tensor.double() for key, tensor in load_file(folder / "weights.safetensors").items()})
    settings = json.loads((folder / "config.json").read_text())["params"]
    encoding = weights.get("blocks.0.attention.value_encoding")
    config = CrystalformerConfig(
        radial_functions=0 if encoding is None else encoding.shape[-1],
        space=SPACES[settings["domain"]],
        frame=FRAMES[settings.get("frame_method")],
        tie_width=1e-6,
    )
    model = Crystalformer(config).double()
    # They give reciprocal heads a value encoding that they never use.
    wanted = model.state_dict()
    weights = {
        key: tensor[: len(wanted[key])] if tensor.dim() else tensor for key, tensor in weights.items() if key in wanted
    }
    model.load_state_dict(weights | {"calibrated": torch.tensor(True)})
    outputs = np.load(folder / "outputs_f64.npz")
    arrays = {key: torch.from_numpy(outputs[key]) for key in ("layer0", "enc", "pred", "loss_c")}
    file = folder / "grads_f64.safetensors"
    return Oracle(model, read_crystals(shared), **arrays, gradients=our_names(load_file(file)) if file.exists() else {})


def read_crystals(shared: Path) -> list[Crystal]:
    structures = json.loads((shared / "oracle" / "structures.json").read_text())
    return [
        Crystal(
            np.array([SYMBOLS.index(symbol) + 1 for symbol in structure["species"]]),
            np.array(structure["frac_coords"]),
            np.array(structure["lattice"]),
            name,
        )
        for name, structure in structures.items()
    ]


def our_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The authors' state dict, or gradients with the same keys, by the names of `Crystalformer`."""
    ours = {"embedding.weight": theirs["input_embeddings.weight"].T}
    blocks = 1 + max(int(key.split(".")[2]) for key in theirs if key.startswith("encoder.layers."))
    for i in range(blocks):
        attention, block = f"encoder.layers.{i}.self_attn.", f"blocks.{i}."
        biases = theirs[attention + "in_proj_bias"].chunk(3)
        for linear, bias in zip(("query", "key", "value"), biases, strict=True):
            ours[f"{block}attention.{linear}.weight"] = theirs[f"{attention}{linear[0]}_proj_weight"]
            ours[f"{block}attention.{linear}.bias"] = bias
        ours[block + "attention.width"] = theirs[attention + "lattice_pos_weights"].view(8, -1)
        if attention + "pe_dist_proj" in theirs:
            ours[block + "attention.value_encoding"] = theirs[attention + "pe_dist_proj"][0]
        if attention + "proj_angle1" in theirs:
            angles = [theirs[f"{attention}proj_angle{k}"] for k in (1, 2, 3)]
            ours[block + "attention.angular_encoding"] = torch.cat(angles)
        if attention + "gauss_scale" in theirs:
            # Theirs is x = (q.w + shift) * scale.
            scale, shift = theirs[attention + "gauss_scale"]
            ours |= {block + "attention.width_mean": -shift, block + "attention.width_std": 1 / scale}
        for parameter in ("weight", "bias"):
            ours[f"{block}attention.out.{parameter}"] = theirs[f"{attention}out_proj.{parameter}"]
            ours[f"{block}expand.{parameter}"] = theirs[f"encoder.layers.{i}.linear1.{parameter}"]
            ours[f"{block}contract.{parameter}"] = theirs[f"encoder.layers.{i}.linear2.{parameter}"]
    for parameter in ("weight", "bias"):
        ours |= {
            f"head.0.{parameter}": theirs[f"mlp.0.{parameter}"],
            f"head.2.{parameter}": theirs[f"mlp.3.{parameter}"],
        }
    return ours


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest number of the tensor."""
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())
