"""Training steps in float32 and bfloat16, of trained weights: forward and backward pass of a batch.

    python -m benchmarks.speed.precision

Beside `precision: bf16` stands the same with dense layers alone in bfloat16 and the sums over images in float32, so
that both parts of the gain are seen. Errors are those of the predictions, root mean square in units of the spread of
the target, beside float32. The bundled models are trained, so that their heads are as wide as in most of a training.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from unittest.mock import patch

import torch

from benchmarks.harness import (
    benchmark_crystals,
    interleaved,
    measured_on,
    print_table,
    recipe_of,
    speed_parser,
    spread,
    write_results,
)
from crystalformers import load_model
from crystalformers.attention.backends.cpu import backend
from crystalformers.attention.backends.cpu.accuracy import FLOAT32
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import CrystalModel

MODELS = {"Crystalformer": "materials-project", "CrystalFramer, lightweight": "phonons"}
WAYS = ("float32", "dense layers in bfloat16", "bf16")


def predictions(model: CrystalModel, batch: CrystalBatch, way: str) -> torch.Tensor:
    """Standardised, in one of WAYS."""
    exact_sums = patch.object(backend, "BFLOAT16", FLOAT32) if way == WAYS[1] else nullcontext()
    with exact_sums, torch.autocast("cpu", torch.bfloat16, enabled=way != WAYS[0]):
        return model(batch).float()


def step(model: CrystalModel, batch: CrystalBatch, way: str) -> Callable[[], None]:
    """Forward and backward pass."""

    def run() -> None:
        model.zero_grad()
        predictions(model, batch, way).abs().sum().backward()

    return run


def main() -> None:
    """Measure and write benchmarks/results/precision.json."""
    given = speed_parser(__doc__, "precision.json", 32).parse_args()
    torch.set_num_threads(given.threads)
    crystals, source = benchmark_crystals(given.table, given.structures)
    models, batches, errors = {}, {}, {}
    for label, name in MODELS.items():
        model = models[label] = load_model(name).network.members[0].requires_grad_(True)
        batch = CrystalBatch.from_crystals(crystals, torch.float32)
        radius = model.radius(recipe_of({}).tolerance)
        batches[label] = with_images(batch, radius, directions=model.needs_directions)
        with torch.no_grad():
            exact = predictions(model, batches[label], WAYS[0])
            for way in WAYS[1:]:
                errors[label, way] = float((predictions(model, batches[label], way) - exact).square().mean().sqrt())
    tasks = {(label, way): step(models[label], batches[label], way) for label in MODELS for way in WAYS}
    times = interleaved(tasks, given.rounds, given.seconds)
    rows, results = [], []
    for label in MODELS:
        whole = spread(times[label, WAYS[0]])
        for way in WAYS:
            ratios = spread([a / b for a, b in zip(times[label, WAYS[0]], times[label, way], strict=True)])
            error = errors.get((label, way), 0.0)
            results.append(
                {"model": label, "way": way, "seconds": spread(times[label, way]), "speed": ratios, "error": error}
            )
            rows.append([label, way, f"{ratios['median']:.2f}", f"{error:.1e}"])
        print(f"{label}: {whole['median']:.3g} s in float32")
    print_table(["model", "precision", "speed beside float32", "error of predictions"], rows)
    write_results(given.output, {"measured": measured_on(crystals, source, given), "steps": results})


if __name__ == "__main__":
    main()
