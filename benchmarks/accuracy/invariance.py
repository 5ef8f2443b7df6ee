"""How far predictions follow what should not matter: every transformation, on many real crystals.

    python -m benchmarks.accuracy.invariance --table crystals.parquet [--weights model.safetensors] [--crystals 200]
    python -m benchmarks.accuracy.invariance --table crystals.parquet --preset crystalframer

Writes benchmarks/results/invariance.json (or invariance-PRESET.json: random weights, two blocks of two heads) and
prints the table. To the crystals of the table come those of high symmetry among the examples. A change is the largest
difference of a prediction in units of the spread of predictions over the crystals (see crystalformers.testing). One
thread is fastest for the small float64 tensors.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import RESULTS, ROOT, parser, write_results
from crystalformers.checkpoint import load_checkpoint
from crystalformers.crystal import Crystal
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.images import CrystalBatch, with_images
from crystalformers.io import read_crystal
from crystalformers.models import architecture_of, build_model
from crystalformers.models.presets import preset
from crystalformers.prediction.bundled import DEFAULT, find_weights
from crystalformers.testing import CONTROL, E3, SE3, Row, Transformation, invariance_report, network_predictor, table

CHIRAL = ("max", "static-local", "lattice")
"""Frames that tell mirror images apart."""

SMALL = {"dim": 32, "heads": 2, "blocks": 2, "feedforward": 64}
"""Sizes of random networks."""

DTYPES = {"float64": torch.float64, "float32": torch.float32}
"""Whether the model is invariant at all, and what a user gets."""

EXAMPLES = ROOT / "examples"

TOLERANCE = 1e-7
"""Neglected share of an atom's weight; the default of predictions."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--table", type=Path, required=True, help="crystals, in any form `open_table` reads")
    options.add_argument("--weights", default=DEFAULT, help="name or file of a model; default: %(default)s")
    options.add_argument("--preset", help="random weights of this variant, two blocks of two heads")
    options.add_argument("--crystals", type=int, default=200)
    options.add_argument("--max-atoms", type=int, default=20, help="atoms per cell at most")
    options.add_argument("--max-atoms-2x2x2", type=int, default=8, help="the same where a transformation takes 8 cells")
    arguments = options.parse_args()
    torch.set_num_threads(1)
    crystals = sample(open_table(arguments.table), arguments.crystals, arguments.max_atoms)
    crystals += high_symmetry(arguments.max_atoms)
    weights, network = load(arguments.weights, arguments.preset, crystals)
    group = SE3 if getattr(network.config, "frame", None) in CHIRAL else E3
    results: dict[str, Any] = {
        "model": weights,
        "crystals": len(crystals),
        "max_atoms": arguments.max_atoms,
        "max_atoms_2x2x2": arguments.max_atoms_2x2x2,
    }
    for name, dtype in DTYPES.items():
        start = time.perf_counter()
        predict = network_predictor(network, TOLERANCE, dtype)
        again = float(np.abs(np.asarray(predict(crystals)) - np.asarray(predict(crystals))).max())
        rows: list[Row] = []
        for transformations, chosen in by_cost(group, crystals, arguments.max_atoms_2x2x2):
            rows += invariance_report(predict, chosen, transformations)
        seconds = time.perf_counter() - start
        print(f"\n{name}, {seconds:.0f} s, two runs differ by {again:g}\n{table(rows)}")
        results[name] = {
            "tolerance": TOLERANCE,
            "seconds": round(seconds, 1),
            "difference_of_two_runs": again,
            "rows": [asdict(row) for row in rows],
        }
    name = f"invariance-{arguments.preset}.json" if arguments.preset else "invariance.json"
    write_results(RESULTS / name, results)


def by_cost(
    group: Sequence[Transformation], crystals: list[Crystal], most: int
) -> list[tuple[Sequence[Transformation], list[Crystal]]]:
    """Transformations with the crystals they are measured on: the one to eight cells with the smaller ones only."""
    dear = [transformation for transformation in group if transformation.name == "supercell 2x2x2"]
    cheap = [transformation for transformation in group if transformation not in dear]
    return [([CONTROL, *cheap], crystals), (dear, [crystal for crystal in crystals if len(crystal) <= most])]


def sample(crystals: CrystalTable, count: int, most: int) -> list[Crystal]:
    """Crystals spread evenly over the table, none with more than `most` atoms."""
    small = np.flatnonzero(np.asarray(crystals.n_atoms) <= most)
    chosen = small[np.linspace(0, len(small) - 1, min(count, len(small))).astype(int)]
    return [crystals[int(row)] for row in chosen]


def high_symmetry(most: int) -> list[Crystal]:
    """Where frames tie: rock salt, diamond, bcc, fcc, perovskite, ..., and elements with one atom per cell."""
    prototypes = [replace(read_crystal(path), name=path.name) for path in sorted(EXAMPLES.glob("*.cif"))]
    elements = [crystal for crystal in open_table(EXAMPLES / "textbook.jsonl") if len(crystal) == 1]
    return [crystal for crystal in prototypes if len(crystal) <= most] + elements


def load(weights: str, variant: str | None, crystals: list[Crystal]) -> tuple[str, Any]:
    """The model named, or a random one of this variant, calibrated on the crystals."""
    if variant is None:
        path = find_weights(weights)
        return path.name, load_checkpoint(path).model
    torch.manual_seed(0)
    config = preset(variant)
    network = build_model(architecture_of(config), {**asdict(config), **SMALL})
    batch = CrystalBatch.from_crystals(crystals[:64], torch.float32)
    network.calibrate(with_images(batch, network.radius(1e-5), directions=network.needs_directions))
    return f"random weights of {variant}, seed 0", network


if __name__ == "__main__":
    main()
