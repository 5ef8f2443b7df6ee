"""The peers of `cpu.py` through their own public interfaces: matgl's models and graphs, vesin's neighbour lists."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch, with_images
from crystalformers.periodic import SYMBOLS

LEARNING_RATE = 1e-5
"""Of all models: so small that the weights stay near their initial values however often a step is repeated."""

INSTALL = 'pip install "crystalformers[benchmarks]"'


@dataclass(frozen=True)
class Contestant:
    """A model that takes part.

    Attributes:
        name: in the table.
        parameters: trainable numbers.
        tasks: each one pass over all crystals, in batches. `train`: collation, forward, backward, AdamW; `infer`:
            collation, forward; `build`: graphs of all crystals, one by one, as the library makes them, where that is
            not measured apart.
    """

    name: str
    parameters: int
    tasks: dict[str, Callable[[], object]]


def matgl_contestants(crystals: Sequence[Crystal], batch: int) -> list[Contestant]:
    """MEGNet and M3GNet with their default settings, or none, which is said."""
    if importlib.util.find_spec("matgl") is None:
        print(f"NOT MEASURED: MEGNet and M3GNet; matgl is not installed: {INSTALL}")
        return []
    from matgl.models import M3GNet, MEGNet

    # All our elements, so that any table can be measured; matgl's own list lacks nine.
    return [matgl_contestant(kind(element_types=SYMBOLS), crystals, batch) for kind in (MEGNet, M3GNet)]


def matgl_contestant(model: Any, crystals: Sequence[Crystal], batch: int) -> Contestant:
    """A model of matgl, fed by its own converter and collation."""
    from matgl.ext.pymatgen import Structure2Graph
    from matgl.graph.data import collate_fn_graph
    from pymatgen.core import Structure

    converter = Structure2Graph(element_types=model.element_types, cutoff=model.cutoff)
    structures = [Structure(crystal.lattice, crystal.symbols, crystal.frac_coords) for crystal in crystals]
    labels = torch.randn(len(crystals))
    entries = [graph_entry(converter, *row) for row in zip(structures, labels, strict=True)]
    parts = [entries[k : k + batch] for k in range(0, len(entries), batch)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def train() -> None:
        for part in parts:
            graph, _, state, expected = collate_fn_graph(part)
            optimizer.zero_grad()
            F.l1_loss(model(graph, state_attr=state), expected).backward()
            optimizer.step()

    @torch.inference_mode()
    def infer() -> None:
        for part in parts:
            graph, _, state, _ = collate_fn_graph(part)
            model(graph, state_attr=state)

    def build() -> None:
        for structure in structures:
            converter.get_graph(structure)

    name = f"{type(model).__name__}, edges within {model.cutoff:.1f} Å"
    tasks: dict[str, Callable[[], object]] = {"train": train, "infer": infer, "build": build}
    return Contestant(name, sum(p.numel() for p in model.parameters()), tasks)


def graph_entry(converter: Any, structure: Any, label: Tensor) -> tuple[Any, ...]:
    """Graph, lattice, state and label, with Cartesian coordinates computed ahead: what collation expects."""
    graph, lattice, state = converter.get_graph(structure)
    graph.pos = graph.frac_coords @ lattice[0]
    graph.pbc_offshift = graph.pbc_offset @ lattice[0]
    return graph, lattice, torch.as_tensor(state), {"label": label}


def image_tasks(
    crystals: Sequence[Crystal], radius: float, batch: int, threads: int
) -> dict[tuple[str, str], Callable[[], object]]:
    """Our image lists (sorted, the atom itself included) and vesin's neighbour lists at one radius."""
    parts = [crystals[k : k + batch] for k in range(0, len(crystals), batch)]

    def ours(count: int) -> Callable[[], None]:
        def task() -> None:
            torch.set_num_threads(count)
            for part in parts:
                with_images(CrystalBatch.from_crystals(part), radius)
            torch.set_num_threads(threads)

        return task

    tasks: dict[tuple[str, str], Callable[[], object]] = {}
    for count in sorted({1, threads}):
        where = f"within {radius:.1f} Å, threads: {count}"
        tasks[f"crystalformers images {where}", "build"] = ours(count)
        if neighbours := vesin_task(crystals, radius, count):
            tasks[f"vesin neighbours {where}", "build"] = neighbours
    return tasks


def vesin_task(crystals: Sequence[Crystal], radius: float, threads: int) -> Callable[[], object] | None:
    """Full neighbour lists (pairs and distances) of all crystals, one by one, or None without vesin."""
    if importlib.util.find_spec("vesin") is None:
        print(f"NOT MEASURED: image lists of vesin; it is not installed: {INSTALL}")
        return None
    from vesin import NeighborList

    calculator = NeighborList(cutoff=radius, full_list=True, n_threads=threads)
    inputs = [(crystal.positions, crystal.lattice) for crystal in crystals]

    def task() -> None:
        for points, box in inputs:
            calculator.compute(points, box, True, "ijd", copy=False)

    return task
