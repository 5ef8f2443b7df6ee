"""Graphs of near neighbours, for models that pass messages along bonds instead of summing the whole lattice.

"The 12 nearest" is no property of a crystal: where the 12th and the 13th atom are equally far, and symmetry makes
them so more often than not, rounding or the order of the atoms decides. Here every neighbour carries a weight that is 1
up to the 12th distance and falls smoothly to 0 within `ENVELOPE_WIDTH` beyond it. So equal neighbours count alike, and
predictions are continuous in the positions.

Shapes: A atoms of a batch, E neighbours (directed edges), C crystals.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from crystalformers.errors import ConfigError
from crystalformers.images import ENVELOPE_WIDTH, CrystalBatch, Images, envelope


@dataclass(frozen=True)
class Graph:
    """Neighbours of each atom, grouped by target atom.

    Attributes:
        target: atom i that receives, (E,) int64, ascending.
        source: atom j of the neighbour, (E,) int64.
        distance: (E,), Angstrom.
        weight: between 0 and 1, (E,).
        n_atoms: A.
        vectors: from i to the neighbour, (E, 3), Angstrom, where the images have directions.
    """

    target: Tensor
    source: Tensor
    distance: Tensor
    weight: Tensor
    n_atoms: int
    vectors: Tensor | None = None

    @cached_property
    def degree(self) -> Tensor:
        """Neighbours of each atom, however small their weight, (A,) int64."""
        return torch.bincount(self.target, minlength=self.n_atoms)

    def total(self, messages: Tensor) -> Tensor:
        """Weighted sum over the neighbours of each atom, (E, ...) to (A, ...)."""
        return segment_sum(messages * self.weight.unsqueeze(-1), self.target, self.n_atoms)


def segment_sum(values: Tensor, index: Tensor, count: int) -> Tensor:
    """Sum of the rows that share an index, (E, ...) to (count, ...)."""
    return values.new_zeros(count, *values.shape[1:]).index_add(0, index, values)


def within(batch: CrystalBatch, cutoff: float) -> Graph:
    """All neighbours closer than `cutoff` (Angstrom), their weight falling to zero there."""
    images = _images(batch, cutoff)
    return _graph(images, images.distance.new_full((images.n_atoms,), cutoff))


def nearest(batch: CrystalBatch, count: int, cutoff: float) -> Graph:
    """The `count` nearest neighbours within `cutoff` (Angstrom), and with less weight those hardly farther away."""
    images = _images(batch, cutoff)
    # An atom is the first of its own images.
    last = images.ptr[:-1] + count
    enough = last < images.ptr[1:]
    farthest = images.distance[last.clamp(max=len(images.distance) - 1)]
    reach = torch.where(enough, (farthest + ENVELOPE_WIDTH).clamp(max=cutoff), cutoff)
    return _graph(images, reach)


def _images(batch: CrystalBatch, cutoff: float) -> Images:
    images = batch.images
    if images is None or images.radius < cutoff:
        raise ConfigError(
            f"The model needs images within {cutoff:g} Å; build them with with_images(batch, {cutoff:g})."
        )
    return images


def _graph(images: Images, reach: Tensor) -> Graph:
    """Images closer than `reach` of their atom (A,), but the atom itself."""
    target = images.target
    near = ((images.distance < reach[target]) & (images.distance > 0)).nonzero().squeeze(1)
    target, distance = target[near], images.distance[near]
    vectors = None if images.vectors is None else images.vectors[near]
    weight = envelope(distance, reach[target])
    return Graph(target, images.source[near], distance, weight, images.n_atoms, vectors)


class Gaussians(nn.Module):
    """Gaussian functions with centres at equal steps, exp(-gamma (d - c)^2), (E,) to (E, count)."""

    centres: Tensor

    def __init__(self, first: float, last: float, count: int, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma
        self.register_buffer("centres", torch.linspace(first, last, count), persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        """(E,) to (E, count)."""
        return torch.exp(-self.gamma * (values.unsqueeze(-1) - self.centres) ** 2)


class GraphModel(nn.Module):
    """What the models on graphs of neighbours share with every model of the library.

    Attributes:
        config: the architecture, with `cutoff` in Angstrom.
    """

    needs_directions = False

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def radius(self, tolerance: float) -> float:
        """Radius of the image list, Angstrom: the cutoff, which is part of the model, whatever the tolerance."""
        return float(self.config.cutoff)

    def calibrate(self, batch: CrystalBatch) -> None:
        """Nothing to set from training data."""

    def graph(self, batch: CrystalBatch) -> Graph:
        """The neighbours that the model looks at."""
        raise NotImplementedError


def check_settings(config: Any, at_least: Mapping[str, int], positive: tuple[str, ...]) -> None:
    """Refuse settings out of range.

    Args:
        config: the settings, `element_dim` among them.
        at_least: smallest value of each setting that has one.
        positive: settings that must be positive and finite.

    Raises:
        ConfigError: naming the first of them.
    """
    for name, smallest in {"element_dim": 0, **at_least}.items():
        if getattr(config, name) < smallest:
            raise ConfigError(f"Model setting {name} = {getattr(config, name)} must be at least {smallest}.")
    for name in positive:
        if not 0 < getattr(config, name) < math.inf:
            raise ConfigError(f"Model setting {name} = {getattr(config, name)} must be positive and finite.")
