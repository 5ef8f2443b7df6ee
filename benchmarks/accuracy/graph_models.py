"""Models of other libraries that `baselines.py` trains: MEGNet and M3GNet of matgl, CGCNN by PyTorch Geometric.

CGCNN (Xie and Grossman, Physical Review Letters 120, 145301, 2018) has the published graph and size: the 12 nearest
neighbours within 8 Å, distances expanded in Gaussians 0.2 Å apart, three convolutions of 64 features, a layer of 128
after pooling. Its convolutions are those of PyTorch Geometric. Elements are learned vectors instead of fixed features.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.speed.peers import graph_entry
from crystalformers.data.table import CrystalTable
from crystalformers.periodic import SYMBOLS

NEIGHBOURS = 12
RADIUS = 8.0
SPACING = 0.2
"""Of the graph of CGCNN: neighbours of an atom, their largest distance, and that between two Gaussians (Å)."""

FEATURES = 64
HIDDEN = 128
CONVOLUTIONS = 3
"""The size of CGCNN."""


class GraphModel(Protocol):
    """A network with the graphs that it reads."""

    network: nn.Module

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """Outputs for some rows of its table, (rows,)."""


class Matgl:
    """A model of matgl in its default size, fed by its own converter and collation.

    Args:
        name: of a class in `matgl.models`.
        table: crystals; graphs are made when first asked for.
    """

    def __init__(self, name: str, table: CrystalTable) -> None:
        import matgl.models
        from matgl.ext.pymatgen import Structure2Graph

        self.network: Any = getattr(matgl.models, name)(element_types=SYMBOLS)
        converter = Structure2Graph(element_types=self.network.element_types, cutoff=self.network.cutoff)
        self._entry = cache(lambda row: graph_entry(converter, structure(table, row), torch.zeros(())))

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """Outputs for some rows of its table, (rows,)."""
        from matgl.graph.data import collate_fn_graph

        graph, _, state, _ = collate_fn_graph([self._entry(row) for row in rows.tolist()])
        outputs: Tensor = self.network(graph, state_attr=state)
        return outputs.reshape(len(rows))


class CGCNN:
    """CGCNN and its graphs.

    Args:
        table: crystals; graphs are made when first asked for.
    """

    def __init__(self, table: CrystalTable) -> None:
        self.network: nn.Module = CGCNNNetwork()
        self._graph = cache(lambda row: nearest_neighbours(structure(table, row)))

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        """Outputs for some rows of its table, (rows,)."""
        from torch_geometric.data import Batch

        outputs: Tensor = self.network(Batch.from_data_list([self._graph(row) for row in rows.tolist()]))
        return outputs


class CGCNNNetwork(nn.Module):
    """The network of CGCNN, from graphs to one number per crystal."""

    centres: Tensor

    def __init__(self) -> None:
        from torch_geometric.nn import CGConv

        super().__init__()
        self.register_buffer("centres", torch.arange(0, RADIUS + SPACING / 2, SPACING))
        self.elements = nn.Embedding(len(SYMBOLS) + 1, FEATURES)
        self.convolutions = nn.ModuleList(
            CGConv(FEATURES, dim=len(self.centres), batch_norm=True) for _ in range(CONVOLUTIONS)
        )
        self.hidden, self.output = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, 1)

    def forward(self, graph: Any) -> Tensor:
        """(crystals,), of a batch of graphs."""
        from torch_geometric.nn import global_mean_pool

        edges = torch.exp(-(((graph.distances[:, None] - self.centres) / SPACING) ** 2))
        atoms = self.elements(graph.numbers)
        for convolution in self.convolutions:
            atoms = F.softplus(convolution(atoms, graph.edge_index, edges))
        pooled = F.softplus(self.hidden(F.softplus(global_mean_pool(atoms, graph.batch))))
        outputs: Tensor = self.output(pooled)[:, 0]
        return outputs


def nearest_neighbours(crystal: Any) -> Any:
    """The graph of a pymatgen Structure: edges to each atom from its `NEIGHBOURS` nearest within `RADIUS`."""
    from torch_geometric.data import Data

    atoms, neighbours, _, distances = crystal.get_neighbor_list(RADIUS)
    order = np.lexsort((distances, atoms))
    atoms, neighbours, distances = atoms[order], neighbours[order], distances[order]
    first = np.searchsorted(atoms, np.arange(len(crystal)))
    near = np.arange(len(atoms)) - first[atoms] < NEIGHBOURS
    return Data(
        numbers=torch.tensor(crystal.atomic_numbers),
        edge_index=torch.from_numpy(np.stack([neighbours[near], atoms[near]])),
        distances=torch.from_numpy(distances[near]).float(),
        num_nodes=len(crystal),
    )


def structure(table: CrystalTable, row: int) -> Any:
    """A crystal of a table as a pymatgen Structure."""
    from pymatgen.core import Structure

    crystal = table[row]
    return Structure(crystal.lattice, crystal.symbols, crystal.frac_coords)


def graph_model(name: str, table: CrystalTable) -> GraphModel:
    """A model of `baselines.yaml`, with fresh weights."""
    return CGCNN(table) if name == "CGCNN" else Matgl(name, table)
