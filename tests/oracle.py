"""The authors' weights and outputs, read into our model. All are plain tensors: no code of theirs runs."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from crystalformers.attention.backends.reference import frames as reference_frames
from crystalformers.attention.backends.reference.frames import max_frames
from crystalformers.attention.frames.encoding import AngularEncoding
from crystalformers.attention.published import angular_psi
from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models.base import mean_over_atoms
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.paper_checkpoints.crystalformer import model_of, to_ours
from crystalformers.paper_checkpoints.params import config_of
from crystalformers.periodic import SYMBOLS

NEGLIGIBLE = 45.0
"""Logarithm of a weight that float64 cannot see beside 1."""


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
    frames: list[Tensor]  # per block (A, heads, axis, xyz), float32; empty where none are given


def read_oracle(shared: Path, name: str) -> Oracle:
    folder = shared / "oracle" / name
    theirs = {key: tensor.double() for key, tensor in load_file(folder / "weights.safetensors").items()}
    config = replace(config_of(json.loads((folder / "config.json").read_text())["params"]), tie_width=1e-6)
    outputs = np.load(folder / "outputs_f64.npz")
    arrays = {key: torch.from_numpy(outputs[key]) for key in ("layer0", "enc", "pred", "loss_c")}
    file = folder / "grads_f64.safetensors"
    gradients = to_ours(load_file(file), config) if file.exists() else {}
    frames = [torch.from_numpy(outputs[key]) for key in sorted(outputs.files) if key.startswith("frames")]
    return Oracle(model_of(theirs, config), read_crystals(shared), **arrays, gradients=gradients, frames=frames)


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


class FramesOfTheAuthors:
    """In place of `published.angular_psi`: of the frames that tie, the one that the authors' run drew.

    It also leaves out images whose weight vanishes in float64, and recomputes in the backward pass, for which the
    memory of a machine would not do otherwise.
    """

    def __init__(self, frames: list[Tensor]) -> None:
        """Frames (heads, axis, xyz) in the order in which the reference asks for them: by block, then by atom."""
        self.queue = frames

    def __call__(
        self, r_NM3: Tensor, d_NM: Tensor, log_weight_NMH: Tensor, angular: AngularEncoding, *_: Any
    ) -> Tensor:
        drawn_H33 = self.queue.pop(0).double()
        seen = (log_weight_NMH > log_weight_NMH.amax((0, 1)) - NEGLIGIBLE).any(-1)
        arguments = (r_NM3[seen][:, None], d_NM[seen][:, None], log_weight_NMH[seen][:, None])

        def psi(W_3HDK: Tensor) -> Tensor:
            heads = iter(drawn_H33)

            def nearest(*frame_arguments: Any) -> list[tuple[float, Tensor]]:
                candidates, drawn = [axes for _, axes in max_frames(*frame_arguments)], next(heads)
                best = min(candidates, key=lambda axes: float((axes - drawn).abs().max()))
                assert (best - drawn).abs().max() < 1e-6
                return [(1.0, best)]

            with patch.object(reference_frames, "max_frames", nearest):
                return angular_psi(*arguments, replace(angular, W_3HDK=W_3HDK, tie_width=1e-3), None)

        out = r_NM3.new_zeros(*d_NM.shape, *angular.W_3HDK.shape[1:3])
        return out.index_put(seen.nonzero(as_tuple=True), checkpoint(psi, angular.W_3HDK, use_reentrant=False)[:, 0])


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference relative to the largest number of the tensor."""
    return float((ours.detach() - theirs).abs().max() / theirs.abs().max())


def outputs(
    oracle: Oracle, image_rule: Any, crystals: list[Crystal], tolerance: float = 1e-12
) -> dict[str, torch.Tensor]:
    model = oracle.model
    model.image_rule = image_rule
    batch = with_images(
        CrystalBatch.from_crystals(crystals), model.radius(tolerance), directions=model.needs_directions
    )
    found = {}
    hook = model.blocks[0].register_forward_hook(lambda module, inputs, output: found.update(layer0=output))
    found["enc"] = model.encode(batch)
    hook.remove()
    return found | {"pred": model.head(mean_over_atoms(found["enc"], batch))}


def assert_gradients_agree(oracle: Oracle, tolerance: float) -> None:
    parameters = dict(oracle.model.named_parameters())
    assert parameters.keys() == oracle.gradients.keys()
    errors = {}
    for name, theirs in oracle.gradients.items():
        # A key's bias adds one number to all scores of an atom, and loss_c adds up to zero: the gradients of such
        # biases vanish, and are rounding in both codes. Biases are measured by the weights beside them.
        scale = oracle.gradients[name.replace(".bias", ".weight")].abs().max()
        assert scale > 0, name
        errors[name] = float((parameters[name].grad - theirs).abs().max() / scale)
    worst = max(errors, key=lambda name: errors[name])
    print(f"largest difference: {errors[worst]:.1e} in {worst}")
    assert errors[worst] < tolerance, f"{worst}: {errors[worst]:.1e}"
