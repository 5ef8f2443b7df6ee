"""What run.py measures: synthetic crystals of JARVIS's size, attention alone, eager steps, captured epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.gpu.resident import ResidentCrystals
from crystalformers.attention import Backend
from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import build_model
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.models.presets import preset

MEAN_ATOMS, MOST_ATOMS, VOLUME_PER_ATOM = 10, 100, 18.0
PACKED_AT_ONCE = 1024
"""Crystals whose images are built at once for a data set on the device."""


def synthetic_crystals(count: int, seed: int) -> list[Crystal]:
    """Random crystals whose sizes, densities and cell shapes are spread like those of inorganic crystals."""
    rng = np.random.default_rng(seed)
    sizes = np.clip(np.rint(rng.gamma(1.6, MEAN_ATOMS / 1.6, count)), 1, MOST_ATOMS).astype(int)
    return [synthetic_crystal(int(n), rng) for n in sizes]


def synthetic_crystal(n_atoms: int, rng: np.random.Generator) -> Crystal:
    """Atoms on a random part of a jittered grid, so that none overlap, in a skewed cell of `n_atoms` atoms."""
    grid = int(np.ceil(n_atoms ** (1 / 3)))
    sites = rng.permutation(grid**3)[:n_atoms]
    frac_coords = (np.stack(np.unravel_index(sites, (grid,) * 3), -1) + rng.uniform(0, 0.3, (n_atoms, 3))) / grid
    shape = np.diag(rng.uniform(0.6, 1.6, 3)) + rng.uniform(-0.2, 0.2, (3, 3))
    volume = n_atoms * VOLUME_PER_ATOM * rng.lognormal(0, 0.25)
    return Crystal(rng.integers(1, 95, n_atoms), frac_coords, shape * np.cbrt(volume / abs(np.linalg.det(shape))))


def supercell_of(n_atoms: int, seed: int) -> Crystal:
    """A cubic cell of atoms on a jittered grid at the density of the others."""
    rng = np.random.default_rng(seed)
    grid = int(np.ceil(n_atoms ** (1 / 3)))
    sites = np.stack(np.unravel_index(np.arange(n_atoms), (grid,) * 3), -1)
    edge = (18.0 * grid**3) ** (1 / 3)
    return Crystal(rng.integers(1, 95, n_atoms), (sites + rng.uniform(0, 0.3, sites.shape)) / grid, edge * np.eye(3))


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        device: where.
        batches: crystals of each step.
        radius: of the images, Angstrom.
        seed: of weights and labels.
        backends: to measure.
        size: crystals per batch.
        epoch: crystals of the data set on the device.
        atoms: of the large cells.
        rounds: turns of every task.
        seconds: shortest turn.
        variant: preset of the model.
    """

    device: torch.device
    batches: list[list[Crystal]]
    radius: float
    seed: int
    backends: list[Backend]
    size: int
    epoch: int
    atoms: tuple[int, ...]
    rounds: int
    seconds: float
    variant: str = "crystalformer"

    @property
    def on_gpu(self) -> bool:
        """Whether numbers mean anything."""
        return self.device.type == "cuda"

    @property
    def models(self) -> list[Backend]:
        """Backends that whole models run with; Triton's interpreter would take minutes."""
        return self.backends if self.on_gpu else ["auto"]

    def batch(self, count: int) -> CrystalBatch:
        """The first crystals with their images, float64, on the CPU."""
        crystals = [crystal for part in self.batches for crystal in part][:count]
        return with_images(CrystalBatch.from_crystals(crystals), self.radius)

    def peak(self) -> int | None:
        """Most memory allocated since the last call, bytes."""
        if not self.on_gpu:
            return None
        peak = torch.cuda.max_memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        return peak

    def pack(self, crystals: Sequence[Crystal]) -> CrystalBatch:
        """The data of a step: pack on the CPU, copy, and build the images on the device, in float64."""
        batch = CrystalBatch.from_crystals(crystals).to(self.device)
        return with_images(batch, self.radius, directions=self.fresh().needs_directions).to(torch.float32)

    def fresh(self) -> Crystalformer:
        """A model with random weights."""
        torch.manual_seed(self.seed)
        model = build_model("crystalformer", vars(preset(self.variant)))
        assert isinstance(model, Crystalformer)
        return model

    def wait(self) -> None:
        """Wait until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def model(self, backend: Backend, batch: CrystalBatch) -> Crystalformer:
        """A calibrated model of the published architecture."""
        model = self.fresh().to(self.device)
        model.calibrate(batch)
        model.backend = backend
        return model

    def predict(self, model: Crystalformer, batch: CrystalBatch, precision: str) -> Tensor:
        """Standardised predictions, float32; bf16 rounds the dense layers, as the recipe's setting does."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16"):
            y: Tensor = model(batch)
        return y.float()


class Eager:
    """Steps called one after the other.

    Args:
        plan: what is measured.
        backend: of attention.
        precision: "float32" or "bf16".
        packed: the batches, on the device with their images.
    """

    def __init__(self, plan: Plan, backend: Backend, precision: str, packed: list[CrystalBatch]) -> None:
        self.plan, self.precision, self.packed = plan, precision, packed
        self.model = plan.model(backend, packed[0])
        self.labels = torch.randn(max(map(len, packed)), 1, device=plan.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-4, betas=(0.9, 0.98), fused=True)

    def step(self, batch: CrystalBatch) -> None:
        """Forward, backward, AdamW."""
        self.optimizer.zero_grad()
        predicted = self.plan.predict(self.model, batch, self.precision)
        F.l1_loss(predicted, self.labels[: len(batch)]).backward()
        self.optimizer.step()

    def tasks(self) -> dict[str, Callable[[], None]]:
        """Passes over all batches: with images ready on the device, and with the data of each step made anew."""

        def over(batches: Sequence[Any], work: Callable[[Any], object]) -> Callable[[], None]:
            def task() -> None:
                for batch in batches:
                    work(batch)
                self.plan.wait()

            return task

        @torch.inference_mode()
        def infer(batch: CrystalBatch) -> None:
            self.plan.predict(self.model, batch, self.precision)

        pack, crystals = self.plan.pack, self.plan.batches
        return {
            "train": over(self.packed, self.step),
            "train with data": over(crystals, lambda part: self.step(pack(part))),
            "infer": over(self.packed, infer),
            "infer with data": over(crystals, lambda part: infer(pack(part))),
        }


class CapturedEpoch:
    """A data set on the device, and one training or inference step captured as a CUDA graph; eager on a CPU.

    Args:
        plan: what is measured; its batches make up the data set.
        backend: of attention.
        precision: "float32" or "bf16".
        size: crystals per batch.
    """

    def __init__(self, plan: Plan, backend: Backend, precision: str, size: int, resident: ResidentCrystals) -> None:
        self.plan, self.precision, self.resident = plan, precision, resident
        device = plan.device
        self.order = np.random.default_rng(plan.seed)
        self.size = min(size, len(resident))
        self.epochs = [self.shuffled() for _ in range(8)]
        self.capacity = resident.capacity([rows for epoch in self.epochs for rows in epoch])
        self.rows = torch.arange(self.size, device=device)
        self.labels = torch.randn(len(resident), 1, device=device)
        self.loss = torch.zeros((), device=device)
        self.model = plan.model(backend, resident.batch(self.rows, self.capacity))
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=5e-4, betas=(0.9, 0.98), fused=True, capturable=device.type == "cuda"
        )
        self.train = self.captured(self.step)
        self.infer = self.captured(torch.no_grad()(self.predict))

    def shuffled(self) -> list[NDArray[np.int64]]:
        """The batches of one epoch; crystals that do not fill a batch are left out."""
        order = self.order.permutation(len(self.resident))
        return [order[k : k + self.size] for k in range(0, len(order) - self.size + 1, self.size)]

    def predict(self) -> Tensor:
        """Predictions for the chosen rows; the crystal that fills up is dropped."""
        batch = self.resident.batch(self.rows, self.capacity)
        return self.plan.predict(self.model, batch, self.precision)[:-1]

    def step(self) -> None:
        """Gather, forward, backward, AdamW."""
        loss = F.l1_loss(self.predict(), self.labels[self.rows])
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.loss += loss.detach()

    def captured(self, work: Callable[[], object]) -> Callable[[], object]:
        """The work as one graph; PyTorch wants it to have run on a side stream before."""
        if self.plan.device.type != "cuda":
            return work
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph.replay

    def epoch(self, work: Callable[[], object]) -> None:
        """One pass over the data set in a new order: rows are all that the host sends."""
        batches = self.epochs.pop(0)
        self.epochs.append(batches)
        sent = torch.from_numpy(np.stack(batches)).to(self.plan.device)
        for rows, on_host in zip(sent, batches, strict=True):
            self.resident.check(on_host, self.capacity)
            self.rows.copy_(rows)
            work()
        self.plan.wait()


def resident_crystals(plan: Plan) -> ResidentCrystals:
    """All crystals of the plan on its device."""
    crystals = [crystal for batch in plan.batches for crystal in batch]
    parts = (crystals[k : k + PACKED_AT_ONCE] for k in range(0, len(crystals), PACKED_AT_ONCE))
    return ResidentCrystals((plan.pack(part) for part in parts), plan.device)
