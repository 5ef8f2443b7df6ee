"""The authors' weights and outputs, read into our model. All are plain tensors: no code of theirs runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from crystalformers.crystal import SYMBOLS, Crystal
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.published import model_of
from crystalformers.published.params import config_of
from crystalformers.published.tensors import to_ours


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
    theirs = {key: tensor.double() for key, tensor in load_file(folder / "weights.safetensors").items()}
    config = replace(config_of(json.loads((folder / "config.json").read_text())["params"]), tie_width=1e-6)
    outputs = np.load(folder / "outputs_f64.npz")
    arrays = {key: torch.from_numpy(outputs[key]) for key in ("layer0", "enc", "pred", "loss_c")}
    file = folder / "grads_f64.safetensors"
    gradients = to_ours(load_file(file), config) if file.exists() else {}
    return Oracle(model_of(theirs, config), read_crystals(shared), **arrays, gradients=gradients)


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


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest number of the tensor."""
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())
