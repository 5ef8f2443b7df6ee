"""Training and inference on the CPU beside matgl's MEGNet and M3GNet, and image lists beside vesin's.

All models take turns in one run, so that a shared machine's drift meets all of them alike; ratios are formed within
a round. Float32. Training is collation from cached images or graphs, forward, backward and AdamW; inference is
collation and forward. Building images or graphs is counted apart. The process keeps the memory that it frees, so that
no model pays for the heap that another left behind. Peers: pip install "crystalformers[benchmarks]".
"""

from __future__ import annotations

import argparse
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.harness import (
    benchmark_crystals,
    cell,
    interleaved,
    keep_memory,
    measured_on,
    print_table,
    speed_parser,
    spread,
    usable_cores,
    write_results,
)
from benchmarks.speed.peers import LEARNING_RATE, Contestant, image_tasks, matgl_contestants
from crystalformers.attention import Backend, Geometry, infinite_attention
from crystalformers.crystal import Crystal
from crystalformers.csrc.kernels import library
from crystalformers.images import CrystalBatch
from crystalformers.models import build_model
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.models.presets import preset
from crystalformers.training.image_store import ImageStore
from crystalformers.training.recipe import Recipe

YARDSTICK = "MEGNet"
TITLES = {
    "crystalformer": "Crystalformer",
    "crystalframer": "CrystalFramer",
    "crystalframer-lightweight": "CrystalFramer lightweight",
}
"""Presets that are measured with the fused kernel."""

TRAINING_TOLERANCE: float = Recipe.model_fields["tolerance"].default
PREDICTION_TOLERANCE = 1e-7
VESIN_RADIUS = 8.4
"""Angstrom; the radius of vesin's known figure."""


@dataclass(frozen=True)
class Record:
    """What went into the attention and into every dense layer of one forward pass, to repeat them alone.

    Attributes:
        batch: with its images.
        attention_inputs: q, k, v, 1/sigma² and W^E of each block.
        geometry: of the pass.
        backend: of attention.
        dense_inputs: each linear layer and its input.
    """

    batch: CrystalBatch
    attention_inputs: list[list[Tensor]]
    geometry: Geometry
    backend: Backend
    dense_inputs: list[tuple[nn.Linear, Tensor]]

    @classmethod
    def of(cls, model: Crystalformer, batch: CrystalBatch) -> Record:
        """Record one forward pass."""
        calls: list[tuple[Any, ...]] = []
        dense: list[tuple[nn.Linear, Tensor]] = []

        def attend(*arguments: Any, **options: Any) -> Tensor:
            calls.append(arguments)
            y: Tensor = infinite_attention(*arguments, **options)
            return y

        def remember(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, nn.Linear)
            dense.append((layer, inputs[0].detach().requires_grad_()))

        hooks = [m.register_forward_pre_hook(remember) for m in model.modules() if isinstance(m, nn.Linear)]
        with patch("crystalformers.models.crystalformer.infinite_attention", attend):
            model(batch)
        for hook in hooks:
            hook.remove()
        inputs = [[t.detach().requires_grad_() for t in arguments[:5]] for arguments in calls]
        return cls(batch, inputs, calls[0][5], model.backend, dense)

    def attention(self, *, backward: bool = True) -> None:
        """All attention of a step, with what is derived from the geometry once per batch."""
        assert self.batch.images is not None
        fresh = replace(self.batch, images=replace(self.batch.images))
        geometry = Geometry(fresh, self.geometry.basis)
        with torch.set_grad_enabled(backward):
            for inputs in self.attention_inputs:
                y = infinite_attention(*inputs[:4], inputs[4], geometry, self.backend)
                if backward:
                    torch.autograd.grad(y, inputs, torch.ones_like(y))

    def dense_layers(self, *, backward: bool = True) -> None:
        """The matrix products of all dense layers of a step."""
        with torch.set_grad_enabled(backward):
            for layer, x in self.dense_inputs:
                y = layer(x)
                if backward:
                    torch.autograd.grad(y, (x, *layer.parameters()), torch.ones_like(y))


def ours(crystals: Sequence[Crystal], variant: str, backend: Backend, tolerance: float, batch: int) -> Contestant:
    """A preset with one backend, images chosen by a tolerance; without frames also the parts of its training step."""
    model = build_model("crystalformer", vars(preset(variant)))
    assert isinstance(model, Crystalformer)
    radius = model.radius(tolerance)
    table: Any = crystals  # a list serves: the store only asks for rows
    store = ImageStore(table, radius, math.inf, directions=model.needs_directions)
    parts = [np.arange(k, min(k + batch, len(crystals))) for k in range(0, len(crystals), batch)]
    model.calibrate(store.batch(parts[0]))
    model.backend = backend
    labels = torch.randn(len(crystals), 1)
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
    name = f"{TITLES[variant]}, backend {backend}, images within {radius:.1f} Å"
    parameters = sum(p.numel() for p in model.parameters())
    if model.needs_directions:
        return Contestant(name, parameters, {"train": train, "infer": infer})
    records = [Record.of(model, store.batch(rows)) for rows in parts]
    # The same step over and over would carry the weights far away, and with them the widths of the Gaussians.
    still_optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    shares: dict[str, Callable[[], object]] = {
        "attention": lambda: deque(map(Record.attention, records)),
        "dense layers": lambda: deque(map(Record.dense_layers, records)),
        "collation": lambda: deque(map(store.batch, parts)),
        "optimiser": lambda: [still_optimizer.step() for _ in parts],
    }
    return Contestant(name, parameters, {"train": train, "infer": infer, **shares})


def gather(crystals: Sequence[Crystal], batch: int) -> list[Contestant]:
    """All models that can run here; what cannot is said."""
    settings: list[tuple[str, Backend, float]] = [("crystalformer", "torch", TRAINING_TOLERANCE)]
    if library() is None:
        print("NOT MEASURED: backend cpu; the compiled kernels are not installed (no C compiler was found).")
    else:
        wide = ("crystalformer", "cpu", PREDICTION_TOLERANCE)
        settings = [*((variant, "cpu", TRAINING_TOLERANCE) for variant in TITLES), wide, *settings]
    return [*(ours(crystals, *setting, batch) for setting in settings), *matgl_contestants(crystals, batch)]


def all_tasks(
    contestants: Sequence[Contestant], crystals: Sequence[Crystal], batch: int, threads: int
) -> dict[tuple[str, str], Callable[[], object]]:
    """One pass over all crystals each, by name and kind (train, infer, build, or a part of the training step)."""
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
        step = times[one.name, "train"]
        entry["shares_of_training_step"] = {part: ratio(times[one.name, part], step) for part in one.parts}
        report["models"].append(entry)
    report["lists"] = [{"list": name, "build": speed} for (name, kind), speed in speeds.items() if kind == "build"]
    print_models(report["models"])
    print_shares(report["models"])
    print("\nBuilding images or graphs, structures/s")
    print_table(["", "median (range)"], [[row["list"], cell(row["build"])] for row in report["lists"]])
    return report


def print_models(models: Sequence[dict[str, Any]]) -> None:
    print(
        "\nStructures/s, median (range) over the rounds; x: ratio to MEGNet, of first: to the first model, same round"
    )
    columns = [f"{kind}{what}" for kind in ("train", "infer") for what in ("", "_ratio", "_of_first")]
    header = [column.replace("_ratio", " x").replace("_", " ") for column in columns]
    rows = [[m["model"], f"{m['parameters'] / 1e6:.2f} M", *(cell(m[column]) for column in columns)] for m in models]
    print_table(["model", "parameters", *header], rows)


def print_shares(models: Sequence[dict[str, Any]]) -> None:
    print("\nShares of the training step in %, each part timed alone; dense layers: their own matrix products")
    with_parts = [one for one in models if one["shares_of_training_step"]]
    parts = list(with_parts[0]["shares_of_training_step"])
    rows = []
    for one in with_parts:
        shares = [one["shares_of_training_step"][part]["median"] for part in parts]
        percent = [f"{100 * share:.0f}" for share in (*shares, 1 - sum(shares))]
        rows.append([one["model"], *percent, f"{shares[0] / shares[1]:.2f}"])
    print_table(["model", *parts, "rest", "attention / dense"], rows)


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
