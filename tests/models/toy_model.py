"""A whole model in one file, as small as possible: each atom adds messages that fade with the distance of the sender.

x_i = E[a_i] + sum_j w_ij tanh(W E[a_j]) / d_ij,   y = W' mean_i x_i
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crystalformers.images import CrystalBatch
from crystalformers.models.base import CrystalModel, ModelConfig, mean_over_atoms
from crystalformers.models.element_vectors import ElementVectors, projection
from crystalformers.models.neighbours import within


@dataclass(frozen=True, kw_only=True)
class ToyConfig(ModelConfig):
    """Everything that fixes the architecture.

    Attributes:
        dim: width of the atom vectors.
        element_dim: width of the element vectors of a table; 0 for the model's own, learned ones.
        cutoff: farthest neighbour, Angstrom.
        n_targets: numbers predicted per crystal.
    """

    dim: int = 8
    element_dim: int = 0
    cutoff: float = 5.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(0, "element_dim")
        self.check_positive("cutoff")


class Toy(CrystalModel):
    """Predicts `n_targets` standardised numbers per crystal."""

    Config = ToyConfig
    config: ToyConfig

    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config or ToyConfig())
        config = self.config
        self.elements = ElementVectors(config.element_dim or config.dim)
        self.project = projection(config.element_dim, config.dim)
        self.send = nn.Linear(config.dim, config.dim)
        self.head = nn.Linear(config.dim, config.n_targets)

    def radius(self, tolerance: float) -> float:
        """The cutoff, Angstrom."""
        return self.config.cutoff

    def encode(self, batch: CrystalBatch) -> Tensor:
        """Vectors of the atoms, (A, dim)."""
        graph = within(batch, self.config.cutoff)
        x = self.project(self.elements(batch.numbers))
        message = torch.tanh(self.send(x))[graph.source] / graph.distance.unsqueeze(-1)
        return x + graph.total(message)

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Standardised predictions, (C, n_targets)."""
        return self.head(mean_over_atoms(self.encode(batch), batch))
