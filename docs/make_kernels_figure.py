"""Draw docs/kernels.png: how far each head of an atom reads, and what each pass reads and stores.

python docs/make_kernels_figure.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from crystalformers import CrystalBatch, read_crystal
from crystalformers.attention.backends.triton.operators import NEGLIGIBLE, TILING
from crystalformers.images import radius_for, with_images
from crystalformers.plots import plot_style, save
from crystalformers.plots.style import LINE_COLOURS

ROOT = Path(__file__).parents[1]
SIGMAS = {"narrow head": 1.1, "average head": 1.4, "widest head": 1.98}
RADIUS = radius_for(1e-5, 1.98)
STEPS = (
    (
        "forward, by target",
        "reads q, k, v, 1/σ², distances\nonline softmax over tiles",
        "stores y, Σ p b, log Z, stop\nA × H × (D + K + 1) + A",
    ),
    (
        "backward, by target",
        "recomputes p and b\nreads ∂y, ∂(Σ p b)",
        "stores ∂q, ∂σ;\n∂logit, E × H, for one call",
    ),
    (
        "backward, by source",
        "recomputes p; reads ∂logit\nthrough the transposed list",
        "stores ∂k, ∂v\nA × H × D",
    ),
)


def draw_images(ax: Axes) -> None:
    """Weights of the images around one atom of rock salt by distance, where heads stop, and the tiles of images."""
    batch = with_images(CrystalBatch.from_crystals([read_crystal(ROOT / "examples" / "NaCl.cif")]), RADIUS)
    images = batch.images
    assert images is not None
    distance = images.distance[: int(images.ptr[1])].numpy()
    floor = np.exp(-NEGLIGIBLE)
    for (name, sigma), color in zip(SIGMAS.items(), LINE_COLOURS, strict=False):
        weight = np.exp(-(distance**2) / (2 * sigma**2))
        summed = weight > floor
        label = f"{name}, σ = {sigma} Å: {summed.sum()} images"
        ax.plot(distance[summed], weight[summed], ".", ms=4, color=color, label=label)
        ax.axvline(sigma * np.sqrt(2 * NEGLIGIBLE), color=color, lw=0.8, ls="--")
    for k, first in enumerate(range(0, len(distance), TILING.images)):
        last = min(first + TILING.images, len(distance) - 1)
        ax.axvspan(distance[first], distance[last], ymax=0.04, color="0.35" if k % 2 else "0.75", lw=0)
    ax.axhline(floor, color="0.4", lw=0.8)
    ax.text(0.1, floor * 1.4, f"exp(-{NEGLIGIBLE}) of the largest: a head stops here", fontsize=7)
    ax.text(0.1, 3.2e-10, f"tiles of {TILING.images} images", fontsize=7)
    ax.set(
        yscale="log",
        ylim=(1e-10, 3),
        xlim=(0, RADIUS),
        xlabel="distance / Å",
        ylabel="weight relative to the atom itself",
    )
    ax.set_title("nearest first; each head stops on its own", fontsize=10)
    ax.legend(fontsize=7, loc="upper right")


def draw_passes(ax: Axes) -> None:
    """The three passes: what each reads and recomputes, and what it stores."""
    for row, (title, reads, stores) in enumerate(STEPS):
        y = 2 - row
        for x, width, text, color in ((0.0, 0.52, reads, "#dde6f2"), (0.56, 0.44, stores, "#f2e3dd")):
            box = FancyBboxPatch((x, y + 0.1), width, 0.62, boxstyle="round,pad=0.01", fc=color, ec="0.4", lw=0.8)
            ax.add_patch(box)
            ax.text(x + width / 2, y + 0.4, text, ha="center", va="center", fontsize=8)
        ax.text(0, y + 0.78, title, fontsize=9, weight="bold")
    ax.text(0, -0.12, "then W (Σ p b), one matrix product per head; never stored: E × H × K", fontsize=8)
    ax.set(xlim=(-0.03, 1.03), ylim=(-0.25, 3.05))
    ax.axis("off")


def main() -> None:
    """Draw and save."""
    with plot_style():
        figure = Figure(figsize=(10.5, 3.9), layout="tight")
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        draw_images(left)
        draw_passes(right)
        save(figure, ROOT / "docs" / "kernels.png")


if __name__ == "__main__":
    main()
