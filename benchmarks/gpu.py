"""Crystalformer on one GPU: training and inference structures/s, and the time of an epoch of JARVIS's size.

Crystals are synthetic and made from a seed: mean 10 atoms, 18 Å³ per atom, like JARVIS-DFT. Without a GPU the
same code takes two tiny steps on the CPU, to show that it runs. `benchmarks/gpu.sh` calls this.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from harness import (
    RESULTS,
    cell,
    interleaved,
    machine,
    print_table,
    size_distribution,
    spread,
    versions,
    write_results,
)
from torch import Tensor

from crystalformers.attention import Backend
from crystalformers.crystal import Crystal, CrystalBatch
from crystalformers.images import with_images
from crystalformers.models.crystalformer import Crystalformer

EPOCH = 44_578
"""Crystals of the JARVIS training set whose epoch the papers time (Crystalformer: 32 s on an RTX A6000)."""

MEAN_ATOMS, MOST_ATOMS, VOLUME_PER_ATOM = 10, 100, 18.0
PRECISIONS = ("float32", "bf16")


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


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        device: where.
        batches: crystals of each step.
        radius: of the images, Angstrom.
        seed: of weights and labels.
    """

    device: torch.device
    batches: list[list[Crystal]]
    radius: float
    seed: int

    def pack(self, crystals: Sequence[Crystal]) -> CrystalBatch:
        """The data of a step: pack on the CPU, copy, and build the images on the device, in float64."""
        batch = CrystalBatch.from_crystals(crystals).to(self.device)
        return with_images(batch, self.radius).to(torch.float32)

    def wait(self) -> None:
        """Until the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Run:
    """One backend at one precision.

    Args:
        setting: what is measured.
        backend: of attention.
        precision: one of `PRECISIONS`; bf16 rounds the dense layers, as the recipe's setting does.
        packed: the batches, on the device with their images.
    """

    def __init__(self, setting: Setting, backend: Backend, precision: str, packed: list[CrystalBatch]) -> None:
        self.setting, self.precision, self.packed = setting, precision, packed
        torch.manual_seed(setting.seed)
        self.model = Crystalformer().to(setting.device)
        self.model.calibrate(packed[0])
        self.model.backend = backend
        self.labels = torch.randn(max(map(len, packed)), 1, device=setting.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=5e-4, betas=(0.9, 0.98), fused=True)

    def predict(self, batch: CrystalBatch) -> Tensor:
        """Standardised predictions, (C, 1)."""
        with torch.autocast(self.setting.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            y: Tensor = self.model(batch)
        return y

    def step(self, batch: CrystalBatch) -> None:
        """Forward, backward, AdamW."""
        self.optimizer.zero_grad()
        F.l1_loss(self.predict(batch).float(), self.labels[: len(batch)]).backward()
        self.optimizer.step()

    def tasks(self) -> dict[str, Callable[[], None]]:
        """Passes over all batches: with images ready on the device, and with the data of each step made anew."""

        def over(batches: Sequence[Any], work: Callable[[Any], object]) -> Callable[[], None]:
            def task() -> None:
                for batch in batches:
                    work(batch)
                self.setting.wait()

            return task

        @torch.inference_mode()
        def infer(batch: CrystalBatch) -> None:
            self.predict(batch)

        pack, crystals = self.setting.pack, self.setting.batches
        return {
            "train": over(self.packed, self.step),
            "train with data": over(crystals, lambda part: self.step(pack(part))),
            "infer": over(self.packed, infer),
            "infer with data": over(crystals, lambda part: infer(pack(part))),
        }


def measure(setting: Setting, backends: Sequence[Backend], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """One row per backend and precision: structures/s of every task in every round."""
    packed = [setting.pack(crystals) for crystals in setting.batches]
    structures = sum(map(len, setting.batches))
    rows = []
    for backend in backends:
        for precision in PRECISIONS:
            if setting.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(setting.device)
            run = Run(setting, backend, precision, packed)
            times = interleaved(run.tasks(), rounds, seconds)
            speeds = {name: [structures / t for t in values] for name, values in times.items()}
            peak = torch.cuda.max_memory_allocated(setting.device) if setting.device.type == "cuda" else None
            rows.append({
                "backend": backend,
                "precision": precision,
                "structures_per_s": speeds,
                "epoch_s": spread([EPOCH / speed for speed in speeds["train with data"]]),
                "epoch_without_data_s": spread([EPOCH / speed for speed in speeds["train"]]),
                "peak_memory_bytes": peak,
            })  # fmt: skip
    return rows


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    tasks = list(rows[0]["structures_per_s"])
    print_table(
        ["backend", "precision", *(f"{task} /s" for task in tasks), f"epoch of {EPOCH:,} s", "peak GiB"],
        [
            [
                row["backend"],
                row["precision"],
                *(cell(spread(row["structures_per_s"][task])) for task in tasks),
                f"{row['epoch_s']['median']:.2f}",
                "-" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**30:.2f}",
            ]
            for row in rows
        ],
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=int, default=2048, help="synthetic crystals of one pass")
    parser.add_argument("--batch", type=int, default=256, help="crystals of a step")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of the image radius; that of training")
    parser.add_argument("--backends", nargs="+", default=["torch"], choices=get_args(Backend))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="shortest turn of one task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu.json")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    smoke = not torch.cuda.is_available()
    if smoke:
        print("NO GPU: PyTorch sees no CUDA device. Two tiny steps on the CPU follow; nothing is measured or written.")
        given.structures, given.batch, given.rounds, given.seconds = 8, 4, 1, 0.0
    device = torch.device("cpu" if smoke else "cuda")
    crystals = synthetic_crystals(given.structures, given.seed)
    batches = [crystals[k : k + given.batch] for k in range(0, len(crystals), given.batch)]
    setting = Setting(device, batches, Crystalformer().radius(given.tolerance), given.seed)
    rows = measure(setting, given.backends, given.rounds, given.seconds)
    if smoke:
        print(f"The smoke test ran: {', '.join(row['backend'] + ' ' + row['precision'] for row in rows)}.")
        return
    print_rows(rows)
    write_results(
        given.output,
        {
            "what": "training and inference of Crystalformer on one GPU, synthetic crystals; see benchmarks/gpu.py",
            "settings": {"batch": given.batch, "radius_angstrom": setting.radius, "tolerance": given.tolerance}
            | {"seed": given.seed, "rounds": given.rounds, "seconds": given.seconds},
            "machine": machine() | {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda},
            "versions": versions("crystalformers", "torch", "numpy"),
            "n_atoms": size_distribution(map(len, crystals)),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
