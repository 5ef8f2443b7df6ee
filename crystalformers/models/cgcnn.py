"""CGCNN (Xie and Grossman, Phys. Rev. Lett. 120, 145301, 2018): gated messages from the 12 nearest neighbours.

    z_ij = [v_i; v_j; u_ij],   v_i <- softplus(v_i + BN(sum_j w_ij sigmoid(BN(W_f z_ij)) softplus(BN(W_s z_ij))))

with Gaussians u of the distance, mean pooling and a small head, all sizes as published. Two things differ from the
published code. The weights w_ij make "12 nearest" well-defined (`neighbours`). And W z_ij is computed as three
products, of which two need only be done once per atom; the function is the same.

Shapes: A atoms of a batch, C crystals, E neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from crystalformers.images import CrystalBatch
from crystalformers.models.base import MOST_LAYERS, mean_over_atoms
from crystalformers.models.element_vectors import ElementVectors, projection
from crystalformers.models.neighbours import Gaussians, Graph, GraphConfig, GraphModel, nearest


@dataclass(frozen=True, kw_only=True)
class CGCNNConfig(GraphConfig):
    """Everything that fixes the architecture; defaults are the published ones.

    Attributes:
        element_dim: width of the element vectors of a table; 0 for the model's own, learned ones.
        dim: width of the atom vectors.
        convolutions: message-passing layers.
        hidden: width of the head.
        hidden_layers: hidden layers of the head.
        neighbours: how many nearest neighbours send messages.
        cutoff: farthest neighbour, Angstrom.
        cutoff_width: over which the weight of a neighbour falls to zero, Angstrom.
        step: distance between the centres of the Gaussians, and their width sqrt(2) sigma, Angstrom.
        n_targets: numbers predicted per crystal.
    """

    dim: int = 64
    convolutions: int = 3
    hidden: int = 128
    hidden_layers: int = 1
    neighbours: int = 12
    cutoff: float = 8.0
    step: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "convolutions", "hidden", "hidden_layers", "neighbours")
        self.check_at_most(MOST_LAYERS, "convolutions", "hidden_layers")
        self.check_positive("step")


class Convolution(nn.Module):
    """One gated sum over neighbours."""

    def __init__(self, dim: int, radial: int) -> None:
        super().__init__()
        self.of_target = nn.Linear(dim, 2 * dim)
        self.of_source = nn.Linear(dim, 2 * dim, bias=False)
        self.of_distance = nn.Linear(radial, 2 * dim, bias=False)
        self.norm_message = nn.BatchNorm1d(2 * dim)
        self.norm_sum = nn.BatchNorm1d(dim)
        self.initialise(2 * dim + radial)

    def initialise(self, width: int) -> None:
        """As one linear layer on the joined vectors of this width would start."""
        for linear in (self.of_target, self.of_source, self.of_distance):
            nn.init.uniform_(linear.weight, -(width**-0.5), width**-0.5)
        nn.init.uniform_(self.of_target.bias, -(width**-0.5), width**-0.5)

    def forward(self, x: Tensor, radial: Tensor, graph: Graph) -> Tensor:
        """(A, dim) to (A, dim)."""
        message = self.of_target(x).index_select(0, graph.target) + self.of_source(x).index_select(0, graph.source)
        gate, core = self.norm_message(message + self.of_distance(radial)).chunk(2, dim=-1)
        return F.softplus(x + self.norm_sum(graph.total(gate.sigmoid() * F.softplus(core))))


class CGCNN(GraphModel):
    """Predicts `n_targets` standardised numbers per crystal.

    Attributes:
        config: the architecture.
        elements: vectors of the elements, learned or from a table.
    """

    Config = CGCNNConfig
    config: CGCNNConfig

    def __init__(self, config: CGCNNConfig | None = None) -> None:
        super().__init__(config or CGCNNConfig())
        config = self.config
        self.elements = ElementVectors(config.element_dim or config.dim)
        self.project = projection(config.element_dim, config.dim)
        count = round(config.cutoff / config.step) + 1
        self.radial = Gaussians(0.0, config.cutoff, count, config.step**-2)
        self.convolutions = nn.ModuleList(Convolution(config.dim, count) for _ in range(config.convolutions))
        widths = [config.dim, *[config.hidden] * config.hidden_layers]
        layers: list[nn.Module] = [nn.Softplus()]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.Softplus()]
        self.head = nn.Sequential(*layers, nn.Linear(config.hidden, config.n_targets))

    def graph(self, batch: CrystalBatch) -> Graph:
        """The nearest neighbours."""
        return nearest(batch, self.config.neighbours, self.config.cutoff, self.config.cutoff_width)

    def encode(self, batch: CrystalBatch) -> Tensor:
        """Vectors of the atoms after the last convolution, (A, dim)."""
        graph = self.graph(batch)
        radial = self.radial(graph.distance)
        x = self.project(self.elements(batch.numbers))
        for convolution in self.convolutions:
            x = convolution(x, radial, graph)
        return x

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Standardised predictions, (C, n_targets), for a batch with images."""
        return self.head(mean_over_atoms(self.encode(batch), batch))
