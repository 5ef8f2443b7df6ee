"""ALIGNN (Choudhary and DeCost, npj Comput. Mater. 7, 185, 2021): messages along bonds, and between bonds by angle.

    m = W_1 x_i + W_2 x_j + W_3 y_ij,   x_i <- x_i + silu(norm(W_4 x_i + sum_j g_ij W_5 x_j)),   y <- y + silu(norm(m))

with gates g_ij = w_ij sigmoid(m_ij) / sum_j w_ij sigmoid(m_ij). An ALIGNN layer does this with bonds as nodes and the
angles between them as edges, then with atoms and bonds. The published package needs DGL or dozens of packages more, so
this is a compact model of our own, with the published sizes, that runs on the images, recipes and checkpoints of this
library. It differs in three points: a bond hears of the other bonds of its target atom only (those of its source
reach it through that atom), so that directed neighbour lists need not be made symmetric; neighbours fade out after the
12th (`neighbours`); and layers, not batches, are normalised, so that a prediction never depends on other crystals.

Since the gates of an atom sum to one, a crystal whose sites are all alike (an elemental one, say) looks the same to
this model whatever its lattice, as it does to the published one.

Shapes: A atoms of a batch, C crystals, E neighbours, T pairs of neighbours of one atom.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalformers.images import CrystalBatch
from crystalformers.models.base import MOST_LAYERS, mean_over_atoms
from crystalformers.models.element_vectors import ElementVectors, projection
from crystalformers.models.neighbours import Gaussians, Graph, GraphConfig, GraphModel, nearest, segment_sum

GATE_FLOOR = 1e-6
"""Added to the sum of the gates; an atom without neighbours hears nothing."""


@dataclass(frozen=True, kw_only=True)
class ALIGNNConfig(GraphConfig):
    """Everything that fixes the architecture; defaults are the published ones.

    Attributes:
        element_dim: width of the element vectors of a table; 0 for the model's own, learned ones.
        dim: width of the vectors of atoms, bonds and angles.
        angle_layers: layers that pass messages between bonds and between atoms.
        bond_layers: layers after them that pass messages between atoms only.
        neighbours: how many nearest neighbours send messages.
        cutoff: farthest neighbour, Angstrom.
        cutoff_width: over which the weight of a neighbour falls to zero, Angstrom.
        radial_functions: Gaussians of the distance.
        angular_functions: Gaussians of the cosine.
        embedding: hidden width of the embedding of distances and cosines.
        n_targets: numbers predicted per crystal.
    """

    dim: int = 256
    angle_layers: int = 4
    bond_layers: int = 4
    neighbours: int = 12
    cutoff: float = 8.0
    radial_functions: int = 80
    angular_functions: int = 40
    embedding: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(0, "angle_layers")
        self.check_at_most(MOST_LAYERS, "angle_layers", "bond_layers")
        self.check_at_least(1, "bond_layers", "neighbours", "embedding")
        self.check_at_least(2, "radial_functions", "angular_functions")


@dataclass(frozen=True)
class Edges:
    """Who sends to whom, and how much it counts; all (edges,)."""

    target: Tensor
    source: Tensor
    weight: Tensor


def pairs_of_neighbours(graph: Graph) -> Edges:
    """All ordered pairs of different neighbours of one atom: to the first from the second, (T,) each."""
    degree = graph.degree
    first = degree.cumsum(0) - degree
    of_edge = degree[graph.target]
    edges = torch.arange(len(graph.target), device=degree.device)
    target = torch.repeat_interleave(edges, of_edge)
    within = torch.arange(len(target), device=degree.device) - (of_edge.cumsum(0) - of_edge)[target]
    source = first[graph.target[target]] + within
    different = source != target
    return Edges(target[different], source[different], graph.weight[source[different]])


def cosines(vectors: Tensor, pairs: Edges) -> Tensor:
    """Cosine of the angle between the two neighbours of each pair, (T,)."""
    directions = vectors / vectors.norm(dim=1, keepdim=True)
    return (directions[pairs.target] * directions[pairs.source]).sum(1)


def dense(before: int, after: int) -> nn.Sequential:
    """Linear, normalisation, SiLU."""
    return nn.Sequential(nn.Linear(before, after), nn.LayerNorm(after), nn.SiLU())


class GatedConvolution(nn.Module):
    """Messages along edges, gated by them; updates nodes, and edges where another layer reads those."""

    def __init__(self, dim: int, *, last: bool = False) -> None:
        super().__init__()
        self.gate_target, self.gate_source, self.gate_edge = (nn.Linear(dim, dim) for _ in range(3))
        self.keep, self.send = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.norm_node, self.norm_edge = nn.LayerNorm(dim), None if last else nn.LayerNorm(dim)

    def forward(self, x: Tensor, y: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
        """Nodes and edges, each (count, dim)."""
        message = self.gate_target(x)[edges.target] + self.gate_source(x)[edges.source] + self.gate_edge(y)
        gate = message.sigmoid() * edges.weight.unsqueeze(-1)
        both = torch.cat([gate * self.send(x)[edges.source], gate], dim=1)
        sent, norm = segment_sum(both, edges.target, len(x)).chunk(2, dim=1)
        x = x + F.silu(self.norm_node(self.keep(x) + sent / (norm + GATE_FLOOR)))
        return x, y if self.norm_edge is None else y + F.silu(self.norm_edge(message))


class AngleLayer(nn.Module):
    """Bonds by angles, then atoms by bonds."""

    def __init__(self, dim: int, *, last: bool) -> None:
        super().__init__()
        self.of_atoms, self.of_bonds = GatedConvolution(dim), GatedConvolution(dim, last=last)

    def forward(self, x: Tensor, y: Tensor, z: Tensor, bonds: Edges, pairs: Edges) -> tuple[Tensor, Tensor, Tensor]:
        """Atoms (A, dim), bonds (E, dim), angles (T, dim)."""
        x, message = self.of_atoms(x, y, bonds)
        y, z = self.of_bonds(message, z, pairs)
        return x, y, z


class ALIGNN(GraphModel):
    """Predicts `n_targets` standardised numbers per crystal.

    Attributes:
        config: the architecture.
        elements: vectors of the elements, learned or from a table.
    """

    Config = ALIGNNConfig
    config: ALIGNNConfig

    def __init__(self, config: ALIGNNConfig | None = None) -> None:
        super().__init__(config or ALIGNNConfig())
        config = self.config
        dim, hidden = config.dim, config.embedding
        self.elements = ElementVectors(config.element_dim or dim)
        self.project = projection(config.element_dim, dim)
        self.embed_atom = dense(dim, dim)
        self.embed_bond = nn.Sequential(
            Gaussians(0.0, config.cutoff, config.radial_functions, (config.radial_functions - 1) / config.cutoff),
            *(dense(config.radial_functions, hidden), dense(hidden, dim)),
        )
        self.embed_angle = nn.Sequential(
            Gaussians(-1.0, 1.0, config.angular_functions, (config.angular_functions - 1) / 2),
            *(dense(config.angular_functions, hidden), dense(hidden, dim)),
        ).requires_grad_(config.angle_layers > 0)
        angles, bonds = config.angle_layers, config.bond_layers
        self.angle_layers = nn.ModuleList(AngleLayer(dim, last=k == angles - 1) for k in range(angles))
        self.bond_layers = nn.ModuleList(GatedConvolution(dim, last=k == bonds - 1) for k in range(bonds))
        self.head = nn.Linear(dim, config.n_targets)

    @property
    def needs_directions(self) -> bool:
        """Whether the images must be built with directions: the angles between bonds need them."""
        return self.config.angle_layers > 0

    def graph(self, batch: CrystalBatch) -> Graph:
        """The nearest neighbours."""
        return nearest(batch, self.config.neighbours, self.config.cutoff, self.config.cutoff_width)

    def encode(self, batch: CrystalBatch) -> Tensor:
        """Vectors of the atoms after the last layer, (A, dim)."""
        graph = self.graph(batch)
        bonds = Edges(graph.target, graph.source, graph.weight)
        x = self.embed_atom(self.project(self.elements(batch.numbers)))
        y = self.embed_bond(graph.distance)
        if self.angle_layers:
            assert graph.vectors is not None
            pairs = pairs_of_neighbours(graph)
            z = self.embed_angle(cosines(graph.vectors, pairs))
            for layer in self.angle_layers:
                x, y, z = layer(x, y, z, bonds, pairs)
        for layer in self.bond_layers:
            x, y = layer(x, y, bonds)
        return x

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Standardised predictions, (C, n_targets), for a batch with images."""
        return self.head(mean_over_atoms(self.encode(batch), batch))
