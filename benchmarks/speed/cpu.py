"""Training and inference on the CPU beside matgl's MEGNet and M3GNet, and image lists beside vesin's.

All models take turns in one run, so that a shared machine's drift meets all of them alike; ratios are formed within
a round. Float32. Training is collation from cached images or graphs, forward, backward and AdamW; inference is
collation and forward. Building images or graphs is counted apart. The process keeps the memory that it frees, so that
no model pays for the heap that another left behind. Peers: pip install "crystalformers[benchmarks]".
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.harness import (
    benchmark_crystals,
    cell,
    interleaved,
    keep_memory,
    measured_on,
    print_table,
    speed_parser,
    spread,
    write_results,
)
from benchmarks.speed.peers import LEARNING_RATE, Contestant, image_tasks, matgl_contestants
from crystalformers import load_model
from crystalformers.attention import Backend
from crystalformers.crystal import Crystal
from crystalformers.csrc.kernels import library
from crystalformers.models import build_model
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.models.presets import preset
from crystalformers.screening.engines import usable_cores
from crystalformers.training.image_store import ImageStore
from crystalformers.training.recipe import Recipe

YARDSTICK = "MEGNet"
TITLES = {
    "crystalformer": "Crystalformer",
    "crystalframer": "CrystalFramer",
    "crystalframer-lightweight": "CrystalFramer lightweight",
}
"""Presets that are measured with the fused kernel."""

TRAINED = ("materials-project", "mp36k-base")
"""Bundled models; the heads of trained ones differ in width, and those of new ones hardly."""

TRAINING_TOLERANCE: float = Recipe.model_fields["tolerance"].default
PREDICTION_TOLERANCE = 1e-7
VESIN_RADIUS = 8.4
"""Angstrom; the radius of vesin's known figure."""


def ours(crystals: Sequence[Crystal], which: str, backend: Backend, tolerance: float, batch: int) -> Contestant:
    """A new model of a preset, or a trained one, with one backend, images chosen by a tolerance."""
    trained = which in TRAINED
    model = load_model(which).network.members[0] if trained else build_model("crystalformer", vars(preset(which)))
    assert isinstance(model, Crystalformer)
    radius = model.radius(tolerance)
    table: Any = crystals  # a list serves: the store only asks for rows
    store = ImageStore(table, radius, math.inf, directions=model.needs_directions)
    parts = [np.arange(k, min(k + batch, len(crystals))) for k in range(0, len(crystals), batch)]
    if not trained:
        model.calibrate(store.batch(parts[0]))
    model.requires_grad_()
    model.backend = backend
    labels = torch.randn(len(crystals), model.config.n_targets)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def train() -> None:
        for rows in parts:
            optimizer.zero_grad()
            F.l1_loss(model(store.batch(rows)), labels[rows]).backward()
            optimizer.step()

    @torch.inference_mode()
    def infer() -> None:
        for rows in parts:
            model(store.batch(rows))

    train()
    name = f"{f'{which}, trained' if trained else TITLES[which]}, backend {backend}, images within {radius:.1f} Å"
    return Contestant(name, sum(p.numel() for p in model.parameters()), {"train": train, "infer": infer})


def gather(crystals: Sequence[Crystal], batch: int) -> list[Contestant]:
    """All models that can run here; what cannot is said."""
    settings: list[tuple[str, Backend, float]] = [("crystalformer", "torch", TRAINING_TOLERANCE)]
    if library() is None:
        print("NOT MEASURED: backend cpu; the compiled kernels are not installed (no C compiler was found).")
    else:
        wide = ("crystalformer", "cpu", PREDICTION_TOLERANCE)
        settings = [*((which, "cpu", TRAINING_TOLERANCE) for which in (*TITLES, *TRAINED)), wide, *settings]
    return [*(ours(crystals, *setting, batch) for setting in settings), *matgl_contestants(crystals, batch)]


def all_tasks(
    contestants: Sequence[Contestant], crystals: Sequence[Crystal], batch: int, threads: int
) -> dict[tuple[str, str], Callable[[], object]]:
    """One pass over all crystals each, by name and kind (train, infer or build)."""
    tasks = {(one.name, kind): task for one in contestants for kind, task in one.tasks.items()}
    for radius in (VESIN_RADIUS, Crystalformer().radius(TRAINING_TOLERANCE)):
        tasks |= image_tasks(crystals, radius, batch, threads)
    return tasks


def ratio(one: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Quotient of two tasks, round by round."""
    return spread([a / b for a, b in zip(one, other, strict=True)])


def print_report(
    contestants: Sequence[Contestant], times: dict[tuple[str, str], list[float]], structures: int
) -> dict[str, Any]:
    """Print the tables; what is in them, as medians and ranges."""
    speeds = {key: spread([structures / t for t in values]) for key, values in times.items()}
    yardstick = next((one.name for one in contestants if one.name.startswith(YARDSTICK)), None)
    report: dict[str, Any] = {"yardstick": yardstick, "models": [], "lists": []}
    for one in contestants:
        entry: dict[str, Any] = {"model": one.name, "parameters": one.parameters}
        for kind in ("train", "infer"):
            own = times[one.name, kind]
            entry[kind] = speeds[one.name, kind]
            entry[f"{kind}_ratio"] = None if yardstick is None else ratio(times[yardstick, kind], own)
            entry[f"{kind}_of_first"] = ratio(times[contestants[0].name, kind], own)
        report["models"].append(entry)
    report["lists"] = [{"list": name, "build": speed} for (name, kind), speed in speeds.items() if kind == "build"]
    print("\nStructures/s, median (range) over rounds; x: over MEGNet; of first: over the first model, same round")
    columns = [f"{kind}{what}" for kind in ("train", "infer") for what in ("", "_ratio", "_of_first")]
    header = [column.replace("_ratio", " x").replace("_", " ") for column in columns]
    models = [[m["model"], f"{m['parameters'] / 1e6:.2f} M", *(cell(m[c]) for c in columns)] for m in report["models"]]
    print_table(["model", "parameters", *header], models)
    print("\nBuilding images or graphs, structures/s")
    print_table(["", "median (range)"], [[row["list"], cell(row["build"])] for row in report["lists"]])
    return report


def arguments() -> argparse.Namespace:
    options = speed_parser(__doc__, "cpu.json", structures=64)
    given = options.parse_args()
    if given.threads > usable_cores():
        options.error(
            f"--threads {given.threads}: this process may use {usable_cores()} cores; use fewer (see taskset)."
        )
    return given


def main() -> None:
    given = arguments()
    memory_is_kept = keep_memory()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    crystals, source = benchmark_crystals(given.table, given.structures)
    contestants = gather(crystals, given.batch)
    tasks = all_tasks(contestants, crystals, given.batch, given.threads)
    times = interleaved(tasks, given.rounds, given.seconds)
    print(f"{source}; threads: {given.threads}")
    results = {
        "what": __doc__,
        **measured_on(crystals, source, given),
        "memory_is_kept": memory_is_kept,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "report": print_report(contestants, times, len(crystals)),
        "raw": [{"name": name, "kind": kind, "seconds_per_pass": values} for (name, kind), values in times.items()],
    }
    write_results(given.output, results, "matgl", "torch-geometric", "vesin")


if __name__ == "__main__":
    main()
