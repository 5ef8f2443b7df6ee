"""Time and memory of a prediction against the number of atoms of a cell, 1 to 10,000, at constant density.

Each point is a process of its own with a fresh model of random weights, one crystal and one thread: simple cubic sites,
displaced at random, with random elements, packed as densely as a typical oxide. Measured are the image lists alone, the
whole prediction, and the peak of the process's resident memory, Python and PyTorch included. Time is the processor's,
which on one thread of an idle machine is that of the clock, and on a shared one hardly depends on the others.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS, ROOT, machine, print_table, versions, write_results

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
    import numpy as np

    from crystalformers.crystal import Crystal

    rng, atoms = np.random.default_rng([seed, *shape]), math.prod(shape)
    sites = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    moved = sites + rng.normal(scale=DISPLACEMENT, size=sites.shape)
    lattice = np.diag(shape) * DENSITY ** (-1 / 3)
    return Crystal(rng.integers(1, 99, size=atoms), moved / np.array(shape), lattice, f"{atoms} atoms")


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def measure(name: str, shape: tuple[int, int, int], seed: int, seconds: float) -> dict[str, Any]:
    """One point: fastest of as many repeats as fit in the given processor time, at least two."""
    import torch

    from crystalformers.checkpoint import Checkpoint
    from crystalformers.images import CrystalBatch, with_images
    from crystalformers.models import build_model
    from crystalformers.models.presets import preset
    from crystalformers.prediction.model import Model
    from crystalformers.target import Target

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    network = build_model("crystalformer", vars(preset(name)))
    crystal = perturbed(shape, seed)
    small = CrystalBatch.from_crystals([perturbed((4, 4, 4), seed)])
    images = with_images(small, network.radius(1e-5), directions=network.needs_directions)
    network.calibrate(images.to(torch.float32))
    model = Model(Checkpoint(network, [Target("energy", "eV", "per_atom", mean=0.0, std=1.0)], {}), name, "")

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


def exponent(points: list[dict[str, Any]], quantity: str, least: int) -> float:
    """Slope of log(quantity) against log(atoms) over the cells of at least so many atoms."""
    chosen = [(math.log(p["atoms"]), math.log(p[quantity])) for p in points if p["atoms"] >= least]
    x, y = (sum(values) / len(chosen) for values in zip(*chosen, strict=True))
    return sum((a - x) * (b - y) for a, b in chosen) / sum((a - x) ** 2 for a, _ in chosen)


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Time and memory against atoms."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for number, (name, title) in enumerate(MODELS.items()):
        own = [p for p in points if p["model"] == name]
        atoms = [p["atoms"] for p in own]
        left.plot(atoms, [p["predict_seconds"] for p in own], "o-", ms=4, color=f"C{number}", label=title)
        left.plot(atoms, [p["images_seconds"] for p in own], "o:", ms=3, color=f"C{number}", label="its image lists")
        right.plot(atoms, [p["peak_rss_bytes"] / 1e9 for p in own], "o-", ms=4, color=f"C{number}", label=title)
    last = max((p for p in points if p["model"] == "crystalformer"), key=lambda p: p["atoms"])
    line = [last["predict_seconds"] * n / last["atoms"] for n in (100, last["atoms"])]
    left.plot([100, last["atoms"]], line, "k--", lw=0.8, label="twice the atoms, twice the time")
    right.axhline(MEMORY_BOUND / 1e9, color="k", ls="--", lw=0.8)
    left.set(xscale="log", yscale="log", xlabel="atoms in the cell", ylabel="processor seconds, one core")
    right.set(xscale="log", xlabel="atoms in the cell", ylabel="peak memory of the process (GB)", ylim=(0, None))
    for axes in (left, right):
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=130)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, action="append", help="repeatable; default: all")
    parser.add_argument("--most-atoms", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=2.0, help="shortest time spent on a point")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "scaling.png")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "SHAPE"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.one:
        name, number = given.one
        print(json.dumps(measure(name, SHAPES[int(number)], given.seed, given.seconds)))
        return
    points = []
    for name in given.model or MODELS:
        for number, shape in enumerate(SHAPES):
            if math.prod(shape) > given.most_atoms:
                continue
            command = [sys.executable, "-m", "benchmarks.speed.scaling", "--one", name, str(number)]
            command += ["--seed", str(given.seed), "--seconds", str(given.seconds)]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            points.append(json.loads(done.stdout))
            print(json.dumps(points[-1]), file=sys.stderr)
    print_table(
        ["model", "atoms", "images", "image lists (CPU s)", "prediction (CPU s)", "peak memory (GB)"],
        [
            [
                MODELS[p["model"]],
                f"{p['atoms']:,}",
                f"{p['images']:,}",
                f"{p['images_seconds']:.2g}",
                f"{p['predict_seconds']:.2g}",
                f"{p['peak_rss_bytes'] / 1e9:.2f}",
            ]
            for p in points
        ],
    )
    slopes = {
        name: {what: exponent(own, what, 1000) for what in ("images_seconds", "predict_seconds")}
        for name in MODELS
        if len(own := [p for p in points if p["model"] == name and p["atoms"] >= 1000]) > 1
    }
    print(f"time grows as atoms to the power of (1,000 atoms and more): {slopes}")
    settings = {"density": DENSITY, "displacement": DISPLACEMENT, "seed": given.seed, "threads": 1}
    description = {"what": __doc__, "machine": machine(), "versions": versions("crystalformers", "torch", "numpy")}
    write_results(given.output, {**description, "settings": settings, "exponents": slopes, "points": points})
    draw(points, given.figure)


if __name__ == "__main__":
    main()
