"""MEGNet (Chen et al., Chem. Mater. 31, 3564, 2019): bonds, atoms and the crystal as a whole update one another.

    e_ij <- f_e(v_i, v_j, e_ij, u);   v_i <- f_v(v_i, mean_j e_ij, u);   u <- f_u(u, mean e, mean v)

in blocks with dense layers and skip connections, then Set2Set of atoms and of bonds. The function is that of matgl's
MEGNet, checked against it with copied weights; it is written anew here so that it needs no further package and runs
on the images, recipes and checkpoints of this library. Bonds fade out at the cutoff instead of ending there: every
mean over bonds is a weighted one (`neighbours`). Crystals carry no state of their own, so u starts as a learned vector.

Shapes: A atoms of a batch, C crystals, E bonds (directed).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalformers.images import CrystalBatch
from crystalformers.models.base import MOST_LAYERS, mean_over_atoms
from crystalformers.models.element_vectors import ElementVectors
from crystalformers.models.neighbours import Gaussians, Graph, GraphConfig, GraphModel, segment_sum, within

INNER, READOUT = (64, 64), (32, 16)
"""Published hidden widths of the update functions and of the head."""

ELEMENT_DIM = 16
"""Published width of the model's own element vectors."""


@dataclass(frozen=True, kw_only=True)
class MEGNetConfig(GraphConfig):
    """Everything that fixes the architecture; defaults are the published ones.

    Attributes:
        element_dim: width of the element vectors of a table; 0 for the model's own, learned ones (16).
        dim: width of the vectors of atoms, bonds and crystals.
        blocks: MEGNet blocks.
        steps: iterations of Set2Set.
        cutoff: longest bond, Angstrom.
        cutoff_width: over which the weight of a bond falls to zero, Angstrom.
        radial_functions: Gaussians of the bond length.
        radial_maximum: centre of the last of them, Angstrom.
        radial_width: sigma in exp(-(d - c)^2 / sigma^2), Angstrom.
        n_targets: numbers predicted per crystal.
    """

    dim: int = 32
    blocks: int = 3
    steps: int = 2
    cutoff: float = 4.0
    radial_functions: int = 100
    radial_maximum: float = 5.0
    radial_width: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "blocks", "steps", "radial_functions")
        self.check_at_most(MOST_LAYERS, "blocks", "steps")
        self.check_positive("radial_maximum", "radial_width")


class ShiftedSoftplus(nn.Module):
    """log(1 + exp x) - log 2, zero at zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return F.softplus(x) - math.log(2)


def dense(*widths: int) -> nn.Sequential:
    """Linear layers of these widths, each followed by the activation."""
    return nn.Sequential(*(layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), ShiftedSoftplus())))


@dataclass(frozen=True)
class Bonds:
    """The graph of a batch and how to average over it.

    A mean over bonds divides by their total weight, but never by less than one per atom: an atom that leaves the reach
    of all others thus loses its bonds smoothly.
    """

    graph: Graph
    batch: CrystalBatch

    @property
    def crystal(self) -> Tensor:
        """Crystal of each bond, (E,)."""
        return self.batch.crystal_of_atom[self.graph.target]

    def mean_at_atoms(self, e: Tensor) -> Tensor:
        """(E, dim) to (A, dim)."""
        total = self.graph.total(torch.cat([e, torch.ones_like(e[:, :1])], dim=1))
        return total[:, :-1] / total[:, -1:].clamp(min=1)

    def mean_of_crystals(self, e: Tensor) -> Tensor:
        """(E, dim) to (C, dim)."""
        total = self.graph.total(torch.cat([e, torch.ones_like(e[:, :1])], dim=1))
        mean = mean_over_atoms(total, self.batch)
        return mean[:, :-1] / mean[:, -1:].clamp(min=1)


class Updates(nn.Module):
    """One function each for bonds, atoms and crystals."""

    def __init__(self, bond: nn.Module, atom: nn.Module, crystal: nn.Module) -> None:
        super().__init__()
        self.bond, self.atom, self.crystal = bond, atom, crystal


class MEGNetBlock(nn.Module):
    """Dense layers (except in the first block), graph convolution, skip connection."""

    def __init__(self, dim: int, *, first: bool) -> None:
        super().__init__()
        self.dense = Updates(*(nn.Identity() if first else dense(dim, INNER[0], dim) for _ in range(3)))
        self.update = Updates(*(dense(parts * dim, *INNER, dim) for parts in (4, 3, 3)))

    def forward(self, e: Tensor, v: Tensor, u: Tensor, bonds: Bonds) -> tuple[Tensor, Tensor, Tensor]:
        """Vectors of bonds (E, dim), atoms (A, dim), crystals (C, dim)."""
        graph, batch = bonds.graph, bonds.batch
        e1, v1, u1 = self.dense.bond(e), self.dense.atom(v), self.dense.crystal(u)
        e1 = self.update.bond(torch.cat([v1[graph.target], v1[graph.source], e1, u1[bonds.crystal]], dim=1))
        v1 = self.update.atom(torch.cat([v1, bonds.mean_at_atoms(e1), u1[batch.crystal_of_atom]], dim=1))
        u1 = self.update.crystal(torch.cat([u1, bonds.mean_of_crystals(e1), mean_over_atoms(v1, batch)], dim=1))
        return e + e1, v + v1, u + u1


class Set2Set(nn.Module):
    """Attention that asks again (Vinyals et al., ICLR 2016): the parts of each crystal to one vector, twice as wide."""

    def __init__(self, dim: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.cell = nn.LSTMCell(2 * dim, dim)

    def forward(self, x: Tensor, weight: Tensor, crystal: Tensor, count: int) -> Tensor:
        """Parts (P, dim) with weights (P,) and the crystal each belongs to, to (count, 2 dim)."""
        dim = x.shape[1]
        answer, state = x.new_zeros(count, 2 * dim), (x.new_zeros(count, dim), x.new_zeros(count, dim))
        for _ in range(self.steps):
            state = self.cell(answer, state)
            score = (x * state[0][crystal]).sum(-1)
            top = score.detach().new_full((count,), -math.inf).scatter_reduce(0, crystal, score.detach(), "amax")
            share = weight * (score - top[crystal]).exp()
            norm = segment_sum(share, crystal, count).clamp(min=torch.finfo(x.dtype).tiny)
            read = segment_sum(x * share.unsqueeze(-1), crystal, count) / norm.unsqueeze(-1)
            answer = torch.cat([state[0], read], dim=1)
        return answer


class MEGNet(GraphModel):
    """Predicts `n_targets` standardised numbers per crystal.

    Attributes:
        config: the architecture.
        elements: vectors of the elements, learned or from a table.
    """

    Config = MEGNetConfig
    config: MEGNetConfig

    def __init__(self, config: MEGNetConfig | None = None) -> None:
        super().__init__(config or MEGNetConfig())
        config = self.config
        dim, hidden = config.dim, INNER[0]
        self.elements = ElementVectors(config.element_dim or ELEMENT_DIM)
        gamma = config.radial_width**-2
        self.radial = Gaussians(0.0, config.radial_maximum, config.radial_functions, gamma)
        self.encode_atom = dense(config.element_dim or ELEMENT_DIM, hidden, dim)
        self.encode_bond = dense(config.radial_functions, hidden, dim)
        self.start = nn.Parameter(torch.zeros(dim))
        self.blocks = nn.ModuleList(MEGNetBlock(dim, first=number == 0) for number in range(config.blocks))
        self.read_atoms, self.read_bonds = Set2Set(dim, config.steps), Set2Set(dim, config.steps)
        self.head = nn.Sequential(*dense(5 * dim, *READOUT), nn.Linear(READOUT[-1], config.n_targets))

    def graph(self, batch: CrystalBatch) -> Graph:
        """All neighbours within the cutoff."""
        return within(batch, self.config.cutoff, self.config.cutoff_width)

    def update(self, batch: CrystalBatch) -> tuple[Tensor, Tensor, Tensor, Bonds]:
        """Bonds (E, dim), atoms (A, dim) and crystals (C, dim) after the last block."""
        bonds = Bonds(self.graph(batch), batch)
        e = self.encode_bond(self.radial(bonds.graph.distance))
        v = self.encode_atom(self.elements(batch.numbers))
        u = self.start.expand(len(batch), -1)
        for block in self.blocks:
            e, v, u = block(e, v, u, bonds)
        return e, v, u, bonds

    def encode(self, batch: CrystalBatch) -> Tensor:
        """Vectors of the atoms after the last block, (A, dim)."""
        return self.update(batch)[1]

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Standardised predictions, (C, n_targets), for a batch with images."""
        e, v, u, bonds = self.update(batch)
        count = len(batch)
        atoms = self.read_atoms(v, torch.ones_like(v[:, 0]), batch.crystal_of_atom, count)
        pairs = self.read_bonds(e, bonds.graph.weight, bonds.crystal, count)
        return self.head(torch.cat([atoms, pairs, u], dim=1))
