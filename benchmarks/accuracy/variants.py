"""Every variant of the two papers learns: formation energies of 256 small crystals, until they are fitted.

Usage: python -m benchmarks.accuracy.variants [--variants max lattice ...] [--minutes 4]

Trains each variant on the first 256 crystals of mp36k's training split with at most 12 atoms (AdamW, learning rate
5e-4, batches of 32, float32) until the mean absolute error on them, in evaluation, is a tenth of their standard
deviation. Writes benchmarks/results/variants.json, adding to what is there, and draws docs/variants.png from it.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch

from benchmarks.harness import RESULTS, ROOT, parser, shared, write_results
from crystalformers.data.table import open_table
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

VARIANTS: dict[str, dict[str, Any]] = {
    "real": {},
    "simplified": {"radial_functions": 0},
    "reciprocal": {"space": "reciprocal"},
    "dual": {"space": "dual"},
    "alternating": {"space": "alternating"},
    "max": {"frame": "max"},
    "max, lightweight": {
        "frame": "max",
        "angular_functions": 16,
        "angular_width": 1.0,
        "distance_coefficient": 1.5,
        "angle_coefficient": 6.0,
    },
    "max, dual": {"frame": "max", "space": "dual"},
    "static local": {"frame": "static-local"},
    "lattice": {"frame": "lattice"},
    "weighted PCA": {"frame": "weighted-pca"},
    "PCA": {"frame": "pca"},
}
CRYSTALS, MOST_ATOMS, BATCH, GOAL = 256, 12, 32, 0.1
TARGET = "formation_energy_per_atom"
FILE = RESULTS / "variants.json"


def main() -> None:
    """Train what was asked for, write, draw."""
    options = parser(__doc__)
    options.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    options.add_argument("--minutes", type=float, default=5.0, help="longest time for one variant")
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    table = open_table(shared() / "data" / "mp36k.parquet")
    assert table.split is not None
    small = [row for row in range(len(table)) if table.split[row] == "train" and table.n_atoms[row] <= MOST_ATOMS]
    rows = small[:CRYSTALS]
    labels = table.labels(TARGET)[rows]
    standard = torch.from_numpy((labels - labels.mean()) / labels.std()).float()
    crystals = [table[row] for row in rows]
    for name in arguments.variants:
        curve = train(VARIANTS[name], crystals, standard, arguments.seed, arguments.minutes)
        print(
            f"{name}: {curve['mae'][-1]:.3f} of the spread after {len(curve['mae'])} epochs, {curve['seconds']:.0f} s"
        )
        results = json.loads(FILE.read_text()) if FILE.exists() else {"variants": {}}
        results["variants"][name] = {"settings": VARIANTS[name], "seed": arguments.seed, **curve}
        write_results(FILE, results)
    draw()


def train(settings: dict[str, Any], crystals: list[Any], labels: torch.Tensor, seed: int, minutes: float) -> Any:
    """Train one variant; the error after each epoch in units of the spread of the labels."""
    torch.manual_seed(seed)
    model = Crystalformer(CrystalformerConfig(**settings))
    radius = model.radius(1e-5)

    def batch(chosen: Any) -> CrystalBatch:
        packed = CrystalBatch.from_crystals([crystals[k] for k in chosen])
        return with_images(packed, radius, directions=model.needs_directions).to(torch.float32)

    model.calibrate(batch(range(BATCH)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), weight_decay=1e-5)
    rng, start, curve = np.random.default_rng(seed), time.monotonic(), list[float]()
    fixed = [(slice(k, k + BATCH), batch(range(k, k + BATCH))) for k in range(0, len(crystals), BATCH)]
    while not curve or (curve[-1] > GOAL and time.monotonic() - start < 60 * minutes):
        for chosen in rng.permutation(len(crystals)).reshape(-1, BATCH):
            optimiser.zero_grad()
            (model(batch(chosen)).squeeze(-1) - labels[chosen]).abs().mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
        with torch.no_grad():
            errors = [(model(crystals_) - labels[part, None]).abs().mean() for part, crystals_ in fixed]
        curve.append(float(torch.stack(errors).mean()))
    return {"mae": curve, "seconds": time.monotonic() - start, "reached": curve[-1] <= GOAL}


def draw() -> None:
    """One panel for each variant, its curve in front of those of all others."""
    from matplotlib.figure import Figure

    from crystalformers.plots import plot_style, save
    from crystalformers.plots.style import LINE_COLOURS

    results = json.loads(FILE.read_text())["variants"]
    curves = {name: results[name]["mae"] for name in VARIANTS if name in results}
    with plot_style():
        figure = Figure(figsize=(10, 6.6), layout="constrained")
        panels = figure.subplots(3, 4, sharex=True, sharey=True).ravel()
        for panel, (name, curve) in zip(panels, curves.items(), strict=False):
            for other in curves.values():
                panel.plot(range(1, len(other) + 1), other, color="0.88", lw=0.6)
            panel.plot(range(1, len(curve) + 1), curve, color=LINE_COLOURS[0], lw=1.3)
            panel.axhline(GOAL, color="0.4", lw=0.8, ls=":")
            panel.set_title(f"{name}: {len(curve)} epochs", fontsize=10)
            panel.set(
                yscale="log", ylim=(0.07, 0.9), yticks=(0.1, 0.2, 0.4, 0.8), yticklabels=("0.1", "0.2", "0.4", "0.8")
            )
            panel.minorticks_off()
        figure.supxlabel("epoch")
        figure.supylabel("mean absolute error on the training crystals / their standard deviation")
        save(figure, ROOT / "docs" / "variants.png", dpi=130)


if __name__ == "__main__":
    main()
