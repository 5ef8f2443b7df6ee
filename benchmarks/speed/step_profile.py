"""How the time of a training step divides: `crystalformers train` with the published recipe, on the CPU.

First a real run of a few epochs, with metrics and saved states, gives the time of a whole step. Then
each part is timed alone, all taking turns: reading crystals from the table and building their images (first epoch only,
later ones find them in memory), collation, attention and dense layers forward and backward, the rest of the network,
the optimiser with clipping, weight averaging (last epochs only). What the parts leave of the whole is the loop's own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.harness import (
    benchmark_crystals,
    interleaved,
    measured_on,
    print_table,
    recipe_of,
    speed_parser,
    write_results,
)
from crystalformers.attention import Backend, Geometry, infinite_attention
from crystalformers.crystal import Crystal
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import build_model
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.models.presets import preset
from crystalformers.target import Target
from crystalformers.training.averaging import WeightAverage
from crystalformers.training.fit import fit
from crystalformers.training.image_store import ImageStore
from crystalformers.training.recipe import Recipe

TARGET = Target("energy", "eV/atom", "per_atom")
VALIDATION = 16
EPOCHS = 4


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
                q, k, v, inverse_variance, W = inputs
                y = infinite_attention(q, k, v, inverse_variance, W, geometry, self.backend)
                if backward:
                    torch.autograd.grad(y, inputs, torch.ones_like(y))

    def dense_layers(self, *, backward: bool = True) -> None:
        """The matrix products of all dense layers of a step."""
        with torch.set_grad_enabled(backward):
            for layer, x in self.dense_inputs:
                y = layer(x)
                if backward:
                    torch.autograd.grad(y, (x, *layer.parameters()), torch.ones_like(y))


def write_table(path: Path, crystals: Sequence[Crystal], seed: int) -> CrystalTable:
    """The crystals with random labels, the last few for validation."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "id": [f"{number}" for number in range(len(crystals))],
        "atomic_numbers": [crystal.numbers.tolist() for crystal in crystals],
        "lattice": [crystal.lattice.ravel().tolist() for crystal in crystals],
        "frac_coords": [crystal.frac_coords.ravel().tolist() for crystal in crystals],
        "n_atoms": [len(crystal) for crystal in crystals],
        "energy": np.random.default_rng(seed).normal(size=len(crystals)),
        "split": ["train"] * (len(crystals) - VALIDATION) + ["val"] * VALIDATION,
    }
    pq.write_table(pa.table(columns), path)
    return open_table(path)


def whole_step(table: CrystalTable, recipe: Recipe, folder: Path) -> list[float]:
    """Seconds of a step in each epoch of a real run after the first."""
    fit(table, [TARGET], folder / "run", recipe)
    metrics = pd.read_csv(folder / "run" / "metrics.csv")
    return (recipe.batch_size / metrics["crystals_per_second"][1:]).tolist()


def parts_of(table: CrystalTable, name: str, recipe: Recipe) -> dict[str, Callable[[], object]]:
    """Each part of a step over one batch of the table."""
    torch.manual_seed(recipe.seed)
    model = build_model("crystalformer", vars(preset(name)))
    radius, rows = model.radius(recipe.tolerance), np.arange(recipe.batch_size)
    store = ImageStore(table, radius, recipe.image_cache_gb * 1e9, directions=model.needs_directions)
    batch, labels = store.batch(rows), torch.randn(len(rows), 1)
    model.calibrate(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    average = WeightAverage(model)
    record = Record.of(model, batch) if isinstance(model, Crystalformer) and model.config.frame is None else None
    crystals = [table[int(row)] for row in rows]

    def network(backward: bool) -> None:
        with torch.set_grad_enabled(backward):
            loss = (model(store_batch()) - labels).abs().mean()
        if backward:
            optimizer.zero_grad()
            loss.backward()

    def store_batch() -> CrystalBatch:
        assert batch.images is not None
        return replace(batch, images=replace(batch.images))

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()

    def images() -> None:
        with_images(CrystalBatch.from_crystals(crystals), radius, directions=model.needs_directions)

    network(backward=True)
    tasks: dict[str, Callable[[], object]] = {
        "reading (first epoch)": lambda: [table[int(row)] for row in rows],
        "images (first epoch)": images,
        "collation": lambda: store.batch(rows),
        "network forward": lambda: network(backward=False),
        "network forward and backward": lambda: network(backward=True),
        "optimiser and clipping": update,
        "averaging (last epochs)": average.update,
    }
    if record is not None:
        tasks |= {
            "attention forward": lambda: record.attention(backward=False),
            "attention forward and backward": record.attention,
            "dense forward": lambda: record.dense_layers(backward=False),
            "dense forward and backward": record.dense_layers,
        }
    return tasks


def divided(times: dict[str, float], step: float) -> dict[str, float]:
    """Seconds of each part of a step, such that the parts of the later epochs add up to the whole."""
    both = {name: times.get(f"{name} forward and backward", 0.0) for name in ("network", "attention", "dense")}
    forward = {name: times.get(f"{name} forward", 0.0) for name in both}
    parts: dict[str, float] = {}
    if both["attention"]:
        for name in ("attention", "dense"):
            parts[f"{name} forward"] = forward[name]
            parts[f"{name} backward"] = both[name] - forward[name]
        parts["rest of the network"] = both["network"] - both["attention"] - both["dense"]
    else:
        parts |= {"network forward": forward["network"], "network backward": both["network"] - forward["network"]}
    parts |= {name: times[name] for name in ("collation", "optimiser and clipping")}
    parts["loop, metrics, waiting"] = step - sum(parts.values())
    return parts


def profile(name: str, crystals: Sequence[Crystal], given: argparse.Namespace) -> dict[str, Any]:
    """One model: the real run, then its parts."""
    settings = {"preset": name, "epochs": EPOCHS, "average_epochs": 0, "batch_size": given.batch}
    recipe = recipe_of({**settings, "threads": given.threads, "seed": given.seed, "accelerator": "cpu"})
    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder) / "table.parquet", crystals, given.seed)
        steps = whole_step(table, recipe, Path(folder))
        raw = interleaved(parts_of(table, name, recipe), given.rounds, given.seconds)
    times = {part: statistics.median(values) for part, values in raw.items()}
    step = statistics.median(steps)
    parts = divided(times, step)
    ratio = times["attention forward and backward"] / times["dense forward and backward"] if len(times) > 7 else None
    once = {part: times[part] for part in times if part.endswith(("epoch)", "epochs)"))}
    print(f"\n{name}: {1e3 * step:.1f} ms a step, {given.batch / step:.0f} crystals/s")
    rows = [[part, f"{1e3 * t:.2f}", f"{100 * t / step:.0f}"] for part, t in (parts | once).items()]
    print_table(["part", "ms", "% of a step of later epochs"], rows)
    if ratio is not None:
        print(f"attention : the dense layers' matrix products = {ratio:.2f}")
    return {"model": name, "step_seconds": steps, "parts_seconds": parts, "only_some_epochs_seconds": once} | {
        "attention_over_dense": ratio,
        "raw_seconds": raw,
    }


def main() -> None:
    options = speed_parser(__doc__, "profile.json", structures=144)
    options.add_argument("--model", action="append", help="preset; repeatable; default: crystalformer, crystalframer")
    given = options.parse_args()
    torch.set_num_threads(given.threads)
    crystals, source = benchmark_crystals(given.table, given.structures)
    models = [profile(name, crystals, given) for name in given.model or ("crystalformer", "crystalframer")]
    results = {"what": __doc__, **measured_on(crystals, source, given), "models": models}
    write_results(given.output, results, "lightning-fabric")


if __name__ == "__main__":
    main()
