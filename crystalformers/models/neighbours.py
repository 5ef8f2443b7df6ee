"""Graphs of near neighbours, for models that pass messages along bonds instead of attending to all periodic images.

"The 12 nearest neighbours" are not well-defined: where the 12th and the 13th are equally far away, as symmetry often
makes them, rounding or the order of the atoms decides. Here every neighbour has a weight, which is 1 up to the 12th
distance and falls smoothly to 0 within `ENVELOPE_WIDTH` beyond it. So equally distant neighbours have equal weight, and
predictions are continuous in the positions.

Shapes: A atoms of a batch, E neighbours (directed edges), C crystals.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from crystalformers.errors import ConfigError
from crystalformers.images import ENVELOPE_WIDTH, CrystalBatch, Images, envelope
from crystalformers.models.base import CrystalModel, ModelConfig
from crystalformers.models.element_vectors import ElementVectors


@dataclass(frozen=True)
class Graph:
    """Neighbours of each atom, grouped by target atom.

    Attributes:
        target: atom i that receives the message, (E,) int64, ascending.
        source: atom j whose image the neighbour is, (E,) int64.
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
    """All neighbours closer than `cutoff` (Angstrom), with weights that fall to zero there."""
    images = _images(batch, cutoff)
    return _graph(images, images.distance.new_full((images.n_atoms,), cutoff))


def nearest(batch: CrystalBatch, count: int, cutoff: float) -> Graph:
    """The `count` nearest neighbours within `cutoff` (Angstrom), and those slightly farther with a smaller weight."""
    images = _images(batch, cutoff)
    # The first image of an atom is the atom itself.
    last = images.ptr[:-1] + count
    enough = last < images.ptr[1:]
    farthest = images.distance[last.clamp(max=len(images.distance) - 1)]
    reach = torch.where(enough, (farthest + ENVELOPE_WIDTH).clamp(max=cutoff), cutoff)
    return _graph(images, reach)


def _images(batch: CrystalBatch, cutoff: float) -> Images:
    images = batch.images
    if images is None or images.radius < cutoff:
        raise ConfigError(
            f"The model needs images within {cutoff:g} Å", remedy=f"build them with with_images(batch, {cutoff:g})"
        )
    return images


def _graph(images: Images, reach: Tensor) -> Graph:
    """Images closer than `reach`, (A,), to their target atom, without the atom itself."""
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


@dataclass(frozen=True, kw_only=True)
class GraphConfig(ModelConfig):
    """The settings that all models on graphs of neighbours share.

    Attributes:
        element_dim: width of the element vectors of a table; 0 for the model's own, learned ones.
        cutoff: farthest neighbour, Angstrom.
    """

    element_dim: int = 0
    cutoff: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(0, "element_dim")
        self.check_positive("cutoff")


class GraphModel(CrystalModel):
    """A model that passes messages between neighbours within a fixed cutoff."""

    config: GraphConfig
    elements: ElementVectors

    def radius(self, tolerance: float) -> float:
        """The cutoff, Angstrom, which is part of the model, whatever the tolerance."""
        return float(self.config.cutoff)

    @abstractmethod
    def graph(self, batch: CrystalBatch) -> Graph:
        """The neighbours that the model looks at; raises ConfigError if the images are too short for them."""
