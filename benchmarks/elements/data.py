"""Data of the experiment on element vectors: tasks, fixed splits, cached graphs, overlap with mp36k."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.harness import shared
from crystalformers.crystal import Crystal
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.images import CrystalBatch, Images, with_images
from crystalformers.models.neighbours import Graph, GraphModel
from crystalformers.target import Target
from crystalformers.training.exclusion import Composition, composition
from crystalformers.training.image_store import CompactImages, pack_images, split_images

Rows = NDArray[np.int64]

TEST_SEED = 20250101
"""Seed of the test rows of tables without a split."""

TEST_ROWS = 1000
"""Number of those test rows, at most a fifth of the table."""

FRONT_END = "mp36k"
"""The table on whose training split the front-ends are trained."""

EXCLUDED = ("matbench_perovskites", "matbench_phonons", "oqmd_a3bc", "mp_binary_elasticity")
"""Tables that vectors are transferred to; front-ends are not trained on crystals with a composition in them."""


@dataclass(frozen=True)
class Task:
    """A column to learn.

    Attributes:
        table: name of the Parquet file.
        target: the column; errors are measured in its unit, after its transform.
        split: `given` by the table, official `folds` (seed k is tested on fold k mod 5) or `drawn` at random.
    """

    table: str
    target: Target
    split: str = "drawn"

    @property
    def unit(self) -> str:
        """Unit of the error."""
        return f"log10({self.target.unit})" if self.target.transform == "log10" else self.target.unit


TASKS = {
    "mp36k-energy": Task("mp36k", Target("formation_energy_per_atom", "eV/atom", "per_atom"), "given"),
    "mp36k-gap": Task("mp36k", Target("band_gap", "eV"), "given"),
    "oqmd-energy": Task("oqmd_a3bc", Target("formation_energy_per_atom", "eV/atom", "per_atom")),
    "oqmd-gap": Task("oqmd_a3bc", Target("band_gap", "eV")),
    "perovskites-energy": Task("matbench_perovskites", Target("e_form", "eV/cell", "per_cell"), "folds"),
    "bulk-modulus": Task("mp_binary_elasticity", Target("bulk_modulus_vrh", "GPa", transform="log10")),
    "shear-modulus": Task("mp_binary_elasticity", Target("shear_modulus_vrh", "GPa", transform="log10")),
    "phonons": Task("matbench_phonons", Target("last_phdos_peak", "1/cm"), "folds"),
}


@cache
def load(name: str) -> CrystalTable:
    """A table of the shared data."""
    return open_table(shared() / "data" / f"{name}.parquet")


@cache
def usable_rows(task: Task) -> Rows:
    """Rows with a usable crystal and a label that can be transformed."""
    table = load(task.table)
    values = table.labels(task.target.name)
    usable = np.isfinite(values) & (values > 0 if task.target.transform == "log10" else True)
    usable[list(table.check_rows())] = False
    return np.flatnonzero(usable)


@dataclass(frozen=True)
class Split:
    """Rows of one run, and the labels (table rows, 1), standardised by the training rows; NaN without a label."""

    train: Rows
    val: Rows
    test: Rows
    target: Target
    labels: Tensor


@cache
def split_of(task: Task, size: int | None, seed: int) -> Split:
    """Training and validation rows (together `size`, None for all) and test rows, which do not depend on `size`.

    The samples of one seed are nested: 100 rows are part of the 500 rows. A fifth of a sample of up to 500 rows and a
    tenth of a larger one are for validation.

    Raises:
        ValueError: if the table is too small.
    """
    table, rows = load(task.table), usable_rows(task)
    values = table.labels(task.target.name)
    test = rows[_is_test(task, table, seed)[rows]]
    pool = np.setdiff1d(rows, np.flatnonzero(_is_held_out(task, table, seed)))
    sample = np.random.default_rng([seed, crc32(task.table.encode())]).permutation(pool)[:size]
    if size is not None and len(sample) < size:
        raise ValueError(f"{task.table} has {len(sample)} rows to train on, not {size}.")
    count = round(len(sample) * (0.2 if len(sample) <= 500 else 0.1))
    train, val = sample[count:], sample[:count]
    target = task.target.fitted(values[train], table.n_atoms[train])
    labels = np.full((len(table), 1), np.nan)
    labels[rows, 0] = target.standardise(values[rows], table.n_atoms[rows])
    return Split(train, val, test, target, torch.from_numpy(labels).float())


def _is_test(task: Task, table: CrystalTable, seed: int) -> NDArray[np.bool_]:
    if task.split == "given":
        return np.array(table.split) == "test"
    if task.split == "folds":
        return table.labels("matbench_fold") == seed % 5
    chosen = np.zeros(len(table), dtype=bool)
    count = min(TEST_ROWS, len(table) // 5)
    chosen[np.random.default_rng(TEST_SEED).permutation(len(table))[:count]] = True
    return chosen


def _is_held_out(task: Task, table: CrystalTable, seed: int) -> NDArray[np.bool_]:
    return np.array(table.split) != "train" if task.split == "given" else _is_test(task, table, seed)


def error(split: Split, predicted: NDArray[np.float64], rows: Rows, n_atoms: NDArray[np.int64]) -> float:
    """Mean absolute error in the unit of the task."""
    scale = split.target.std * (n_atoms[rows] if split.target.basis == "per_cell" else 1)
    return float(np.mean(np.abs(predicted - split.labels[rows, 0].double().numpy()) * scale))


def pruned(batch: CrystalBatch, graph: Graph) -> CrystalBatch:
    """The batch with only the images that are in a graph, which give the same graph again; saves memory and time.

    The first image of each atom remains the atom itself. Every image is a pair of its own.
    """
    images = batch.images
    assert images is not None
    atoms = torch.arange(graph.n_atoms, device=graph.target.device)
    order = torch.argsort(torch.cat([atoms, graph.target]), stable=True)
    target, source = (torch.cat([atoms, index])[order] for index in (graph.target, graph.source))
    vectors = None
    if graph.vectors is not None:
        vectors = torch.cat([graph.vectors.new_zeros(graph.n_atoms, 3), graph.vectors])[order]
    remaining = Images(
        distance=torch.cat([graph.distance.new_zeros(graph.n_atoms), graph.distance])[order],
        pair=torch.arange(len(order), dtype=torch.int32, device=order.device),
        ptr=torch.cat([atoms.new_zeros(1), (graph.degree + 1).cumsum(0)]),
        pair_target=target,
        pair_source=source,
        radius=images.radius,
        vectors=vectors,
    )
    return replace(batch, images=remaining)


class Graphs:
    """Crystals with the images that a model uses, built once and cached.

    Only the images that the model itself would choose are stored (`neighbours.pruned`), so that only the time changes.
    """

    def __init__(self, table: CrystalTable, model: Any, tolerance: float) -> None:
        self.table, self.model = table, model
        self.radius = float(model.radius(tolerance))
        self._cache: dict[int, tuple[Crystal, CompactImages]] = {}
        self._batches: dict[bytes, list[CrystalBatch]] = {}

    def batch(self, rows: Rows) -> CrystalBatch:
        """The crystals of these rows, lengths in float32."""
        self.prepare(rows)
        crystals, parts = zip(*(self._cache[row] for row in rows.tolist()), strict=True)
        return replace(CrystalBatch.from_crystals(crystals, torch.float32), images=pack_images(parts, self.radius))

    def prepare(self, rows: Iterable[int]) -> None:
        """Build the images of rows that are not cached yet."""
        missing = [int(row) for row in rows if int(row) not in self._cache]
        for start in range(0, len(missing), 64):
            chunk = missing[start : start + 64]
            crystals = [self.table[row] for row in chunk]
            batch = CrystalBatch.from_crystals(crystals)
            batch = with_images(batch, self.radius, directions=bool(self.model.needs_directions))
            if isinstance(self.model, GraphModel):
                batch = pruned(batch, self.model.graph(batch))
            self._cache |= dict(zip(chunk, zip(crystals, split_images(batch), strict=True), strict=True))

    def batches(self, rows: Rows, size: int = 128) -> list[CrystalBatch]:
        """All rows in order, for evaluation; cached, since many runs have the same test rows."""
        key = rows.tobytes()
        if key not in self._batches:
            self._batches[key] = [self.batch(rows[k : k + size]) for k in range(0, len(rows), size)]
        return self._batches[key]


def overlap(name: str) -> dict[str, Any]:
    """How many test crystals of a task (of seed 0) have a composition of the front-ends' training crystals."""
    task = TASKS[name]
    table, test = load(task.table), split_of(task, None, 0).test
    shared_rows = sum(composition(table.numbers(row)) in _front_end_compositions() for row in test)
    return {"task": name, "test": len(test), "composition_in_front_end": shared_rows}


@cache
def _front_end_compositions() -> set[Composition]:
    table = load(FRONT_END)
    learned = {composition(table.numbers(row)) for row in np.flatnonzero(np.array(table.split) == "train").tolist()}
    others = map(load, EXCLUDED)
    return learned.difference(composition(other.numbers(row)) for other in others for row in range(len(other)))
