"""Time and memory of a prediction against the number of atoms of a cell, 1 to 10,000, at constant density.

Each point is a process of its own with a fresh model of random weights, one crystal and one thread: simple cubic sites,
displaced at random, with random elements, packed as densely as a typical oxide. Measured are the image lists alone, the
whole prediction, and the peak of the process's resident memory, Python and PyTorch included. Time is the processor's,
which on one thread of an idle machine is that of the clock, and on a shared one hardly depends on the others.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import RESULTS, ROOT, parser, peak_memory, print_table, write_results
from crystalformers.checkpoint import Checkpoint
from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import build_model
from crystalformers.models.presets import preset
from crystalformers.prediction.model import Model
from crystalformers.target import Target

MODELS = {"crystalformer": "Crystalformer", "crystalframer": "CrystalFramer, max frames"}
SHAPES = (
    *((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2), (4, 2, 2), (4, 4, 2), (4, 4, 4), (8, 4, 4), (8, 8, 4), (8, 8, 8)),
    *((10, 10, 10), (20, 10, 10), (20, 20, 10), (20, 25, 10), (20, 25, 20)),
)
"""Sites along each axis; from 1,000 atoms on, each has about twice the atoms of the one before."""

DENSITY = 0.08
"""Atoms per cubic Angstrom."""

DISPLACEMENT = 0.1
"""Standard deviation of the displacements, in units of the distance between sites."""

MEMORY_BOUND = 2e9
"""Bytes; what 10,000 atoms are to fit in."""


def perturbed(shape: tuple[int, int, int], seed: int) -> Any:
    """Displaced simple cubic sites of random elements."""
    rng, atoms = np.random.default_rng([seed, *shape]), math.prod(shape)
    sites = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    moved = sites + rng.normal(scale=DISPLACEMENT, size=sites.shape)
    lattice = np.diag(shape) * DENSITY ** (-1 / 3)
    return Crystal(rng.integers(1, 99, size=atoms), moved / np.array(shape), lattice, f"{atoms} atoms")


def measure(name: str, shape: tuple[int, int, int], seed: int, seconds: float) -> dict[str, Any]:
    """One point: fastest of as many repeats as fit in the given processor time, at least two."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = build_model("crystalformer", vars(preset(name)))
    crystal = perturbed(shape, seed)
    small = CrystalBatch.from_crystals([perturbed((4, 4, 4), seed)])
    images = with_images(small, network.radius(1e-5), directions=network.needs_directions)
    network.calibrate(images.to(torch.float32))
    model = Model(Checkpoint(network, (Target("energy", "eV", "per_atom", mean=0.0, std=1.0),), {}), name, "")

    def build() -> int:
        batch = with_images(CrystalBatch.from_crystals([crystal]), model.radius, directions=model.directions)
        assert batch.images is not None
        return len(batch.images.distance)

    times: dict[str, float] = {}
    for what, task in (("images", build), ("predict", lambda: model.values([crystal]))):
        start, fastest, repeats = time.process_time(), math.inf, 0
        while repeats < 2 or time.process_time() - start < seconds:
            begin = time.process_time()
            task()
            fastest, repeats = min(fastest, time.process_time() - begin), repeats + 1
        times[f"{what}_seconds"] = fastest
    return {"model": name, "atoms": len(crystal), "images": build(), **times, "peak_rss_bytes": peak_memory()}


def exponent(points: list[dict[str, Any]], quantity: str) -> float:
    """Slope of log(quantity) against log(atoms)."""
    atoms, measured = np.log([[p["atoms"], p[quantity]] for p in points]).T
    return float(np.polyfit(atoms, measured, 1)[0])


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against atoms."""
    # Not in the processes whose memory is measured.
    from matplotlib.figure import Figure

    from crystalformers.plots import plot_style, save
    from crystalformers.plots.style import LINE_COLOURS

    with plot_style():
        figure = Figure(figsize=(9.5, 3.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, (name, title) in enumerate(MODELS.items()):
            own = [p for p in points if p["model"] == name]
            atoms = [p["atoms"] for p in own]
            left.plot(atoms, [p["predict_seconds"] for p in own], "o-", ms=4, color=LINE_COLOURS[number], label=title)
            left.plot(
                atoms,
                [p["images_seconds"] for p in own],
                "o:",
                ms=3,
                color=LINE_COLOURS[number],
                label="its image lists",
            )
            right.plot(
                atoms, [p["peak_rss_bytes"] / 1e9 for p in own], "o-", ms=4, color=LINE_COLOURS[number], label=title
            )
        last = max((p for p in points if p["model"] == "crystalformer"), key=lambda p: p["atoms"])
        line = [last["predict_seconds"] * n / last["atoms"] for n in (100, last["atoms"])]
        left.plot([100, last["atoms"]], line, "k--", lw=0.8, label="twice the atoms, twice the time")
        right.axhline(MEMORY_BOUND / 1e9, color="k", ls="--", lw=0.8, label="bound for 10,000 atoms")
        left.set(xscale="log", yscale="log", xlabel="atoms in the cell", ylabel="processor seconds, one core")
        right.set(xscale="log", xlabel="atoms in the cell", ylabel="peak memory of the process (GB)", ylim=(0, 2.9))
        for axes in (left, right):
            axes.legend(fontsize=8, frameon=False, loc="upper left")
        save(figure, path, dpi=130)


def arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--model", choices=MODELS, action="append", help="repeatable; default: all")
    options.add_argument("--most-atoms", type=int, default=10_000)
    options.add_argument("--seconds", type=float, default=2.0, help="shortest time spent on a point")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    options.add_argument("--figure", type=Path, default=ROOT / "docs" / "scaling.png")
    return options.parse_args()


def main() -> None:
    given = arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    points, header = [], ["model", "atoms", "images", "image lists (CPU s)", "prediction (CPU s)", "peak memory (GB)"]
    shapes = [shape for shape in SHAPES if math.prod(shape) <= given.most_atoms]
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for name, shape in product(given.model or MODELS, shapes):
            points.append(pool.apply(measure, (name, shape, given.seed, given.seconds)))
            print(points[-1], file=sys.stderr)
    rows = []
    for p in points:
        cells = [f"{p['images_seconds']:.2g}", f"{p['predict_seconds']:.2g}", f"{p['peak_rss_bytes'] / 1e9:.2f}"]
        rows.append([MODELS[p["model"]], f"{p['atoms']:,}", f"{p['images']:,}", *cells])
    print_table(header, rows)
    slopes = {
        name: {what: exponent(own, what) for what in ("images_seconds", "predict_seconds")}
        for name in MODELS
        if len(own := [p for p in points if p["model"] == name and p["atoms"] >= 1000]) > 1
    }
    print(f"time grows as atoms to the power of (1,000 atoms and more): {slopes}")
    settings = {"density": DENSITY, "displacement": DISPLACEMENT, "seed": given.seed, "threads": 1}
    write_results(given.output, {"what": __doc__, "settings": settings, "exponents": slopes, "points": points})
    draw(points, given.figure)


if __name__ == "__main__":
    main()
