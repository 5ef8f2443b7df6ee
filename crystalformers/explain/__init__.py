"""What a trained model attends to: for each atom and block the weights of images, widths of decay and local frames.

The weights are those that the attention computes. They show which images a model attends to, not how it uses them.

Shapes: A atoms of the crystal, M images of one atom, H heads of one kind, F frames of one head. Lengths in Angstrom.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crystalformers.attention import Geometry, reciprocal
from crystalformers.attention.backends.torch import image_weights, log_weights
from crystalformers.attention.frames.encoding import around, local_frames
from crystalformers.attention.frames.local import Frames, PrincipalAxes
from crystalformers.errors import ConfigError
from crystalformers.explain.data import (
    AtomAttention,
    Attention,
    Explanation,
    Floats,
    ImageAttention,
    Integers,
    LocalFrame,
)
from crystalformers.explain.gallery import draw_gallery
from crystalformers.explain.picture import draw
from crystalformers.images import CrystalBatch, Images, with_images
from crystalformers.io import as_crystal
from crystalformers.models.crystalformer import InfiniteAttention

if TYPE_CHECKING:
    from crystalformers.prediction.model import Model

__all__ = [
    "AtomAttention",
    "Attention",
    "Explanation",
    "ImageAttention",
    "LocalFrame",
    "draw",
    "draw_gallery",
    "explain",
]


def explain(model: Model, structure: Any, atom: int | None = None, block: int | None = None) -> Explanation:
    """The attention weights, widths and frames of a model for a crystal.

    Args:
        model: from `load_model`; images are listed up to its radius.
        structure: a Crystal, pymatgen `Structure`, ASE `Atoms` or the path of a structure file.
        atom: number of an atom, from 0; None for all.
        block: number of a block, from 0; None for all.

    Raises:
        StructureError: if the structure cannot be used.
        ConfigError: if there is no such atom or block, or the model has no periodic attention or follows the image rule
            of the authors' code.
    """
    crystal = as_crystal(structure)
    atoms = _chosen("atom", atom, len(crystal), f"{crystal.name or 'structure'} has")
    batch = CrystalBatch.from_crystals([crystal]).to(model.device)
    batch = with_images(batch, model.radius, directions=True)
    assert batch.images is not None
    found: dict[tuple[int, int], Attention] = {}
    with torch.inference_mode():
        layers = list(model.network.attention_inputs(batch.to(model.dtype)))
        if not layers:
            raise ConfigError(f"Model '{model.name}' has no periodic attention, so there is nothing to explain.")
        blocks = _chosen("block", block, len(layers), f"model '{model.name}' has")
        for number in blocks:
            attention, x, geometry = layers[number]
            assert isinstance(attention, InfiniteAttention)
            if attention.image_rule != "sphere":
                problem = (
                    f"model '{model.name}' follows the image rule '{attention.image_rule}', whose weights are not shown"
                )
                raise ConfigError(problem, remedy="set its network's image_rule to 'sphere'")
            heads = HeadWeights.of(attention, x, geometry)
            found |= {(i, number): heads.of_atom(i, number, batch.images) for i in atoms}
    return Explanation(model.name, crystal, tuple(found[key] for key in product(atoms, blocks)))


def _chosen(kind: str, number: int | None, count: int, owner: str) -> range:
    if number is None:
        return range(count)
    if not 0 <= number < count:
        raise ConfigError(f"There is no {kind} {number}: {owner} {kind}s 0 to {count - 1}")
    return range(number, number + 1)


@dataclass(frozen=True)
class HeadWeights:
    """Weights, widths and frames of all atoms in one block, as its attention computes them."""

    sigma: Tensor  # (A, H)
    real: Tensor | None  # (A, M, H)
    reciprocal: Tensor | None  # (A, H, A)
    frames: Frames | PrincipalAxes | None  # of rows (A H,)

    @classmethod
    def of(cls, attention: InfiniteAttention, x: Tensor, geometry: Geometry) -> HeadWeights:
        """Compute them from the atom vectors (A, dim) at the input of the block."""
        real = attention.real_heads
        q_AHD, k_AHD = (attention.heads(linear(x)) for linear in (attention.query, attention.key))
        inverse_variance, variance = attention.widths(q_AHD)
        real_AMH, reciprocal_AHA, frames = None, None, None
        if real:
            real_AMH, logit_AMH = image_weights(q_AHD[:, :real], k_AHD[:, :real], inverse_variance, geometry)
            if (encoding := attention.angular()) is not None:
                scores = log_weights(logit_AMH, geometry)
                frames = local_frames(*around(real_AMH, geometry), scores, geometry, encoding)
        if variance.shape[1]:
            sums = attention.lattice_sums(geometry)
            [reciprocal_AHA] = reciprocal.pair_weights(q_AHD[:, real:], k_AHD[:, real:], variance, sums)
        return cls(torch.cat([inverse_variance.rsqrt(), variance.sqrt()], 1), real_AMH, reciprocal_AHA, frames)

    def of_atom(self, i: int, block: int, images: Images) -> Attention:
        """The attention of one atom."""
        sigma = _floats(self.sigma[i])
        real, others = None, None
        count = 0 if self.real is None else self.real.shape[2]
        if self.real is not None:
            assert images.vectors is not None
            assert images.shift is not None
            part = slice(*images.ptr[i : i + 2].tolist())
            real = ImageAttention(
                np.arange(count),
                sigma[:count],
                _integers(images.source[part]),
                _integers(images.shift[part]),
                _floats(images.vectors[part]),
                _floats(images.distance[part]),
                _floats(self.real[i, : part.stop - part.start]),
                tuple(_frame_of_row(self.frames, i * count + head) for head in range(count)) if self.frames else (),
            )
        if self.reciprocal is not None:
            weight = _floats(self.reciprocal[i].mT)
            others = AtomAttention(np.arange(count, len(sigma)), sigma[count:], np.arange(len(weight)), weight)
        return Attention(i, block, real, others)


def _frame_of_row(frames: Frames | PrincipalAxes, row: int) -> LocalFrame:
    if isinstance(frames, PrincipalAxes):
        return LocalFrame(_floats(frames.axes[row, None]), np.ones(1), _floats(frames.distinct[row]))
    own = frames.owner == row
    share = _floats(frames.weight[own])
    order = np.argsort(-share, kind="stable")
    return LocalFrame(_floats(frames.axes[own])[order], share[order])


def _floats(values: Tensor) -> Floats:
    return values.double().cpu().numpy()


def _integers(values: Tensor) -> Integers:
    return values.long().cpu().numpy()
