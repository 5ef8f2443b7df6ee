"""Draw docs/overview.png: attention over periodic images, and the bundled model on its test split.

python docs/make_overview.py --table ../shared/data/mp36k.parquet
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from crystalformers import CrystalBatch, load_model, open_table, plots, read_crystal
from crystalformers.images import with_images

ROOT = Path(__file__).parents[1]
SIGMA = 1.4
"""Width of the Gaussian decay that is drawn, Angstrom: the published r_0."""
LABEL_ANGLE = np.radians(67)
"""Where the circles are labelled, from the y axis: no atom lies there."""


def draw_images(ax: Axes) -> None:
    """Images around one sodium atom of rock salt in a (001) plane, shaded by the Gaussian of their distance."""
    crystal = read_crystal(ROOT / "examples" / "NaCl.cif")
    batch = with_images(CrystalBatch.from_crystals([crystal]), radius=9.0, directions=True)
    images = batch.images
    assert images is not None
    assert images.vectors is not None
    around = slice(int(images.ptr[0]), int(images.ptr[1]))
    vectors, distance = images.vectors[around].numpy(), images.distance[around].numpy()
    numbers = crystal.numbers[images.source[around].numpy()]
    plane = np.abs(vectors[:, 2]) < 1e-6
    weight = np.exp(-(distance**2) / (2 * SIGMA**2))
    for vector, strength in zip(vectors[plane], weight[plane], strict=True):
        ax.plot([0, vector[0]], [0, vector[1]], color="#4c72b0", lw=9 * strength**0.5, alpha=0.75, zorder=1)
    for z, label, color, size in ((11, "Na", "#b39ddb", 90), (17, "Cl", "#81c784", 150)):
        chosen = plane & (numbers == z)
        ax.scatter(*vectors[chosen, :2].T, s=size, c=color, ec="0.25", lw=0.6, label=label, zorder=2)
    for multiple in (1, 2, 4):
        ax.add_patch(Circle((0, 0), multiple * SIGMA, fill=False, ls=":", color="0.4", lw=0.8, zorder=3))
        x, y = multiple * SIGMA * np.sin(LABEL_ANGLE), multiple * SIGMA * np.cos(LABEL_ANGLE)
        label = rf"{multiple}$\sigma$"
        ax.text(
            x, y, label, ha="center", va="center", fontsize=9, zorder=4, bbox={"fc": "white", "ec": "none", "pad": 1}
        )
    ax.set(aspect="equal", xlim=(-7.5, 7.5), ylim=(-7.5, 7.5), xlabel="x / Å", ylabel="y / Å")
    ax.set_title("one atom attends to all periodic images", fontsize=10)
    ax.legend(loc="lower right", fontsize=8, framealpha=1)


def draw_parity(ax: Axes, path: Path) -> None:
    """Predicted against computed formation energies of the test split."""
    model, table = load_model(tolerance=1e-5), open_table(path)
    assert table.split is not None
    rows = [row for row, split in enumerate(table.split) if split == "test"]
    name = "formation_energy_per_atom"
    truth = table.labels(name)[rows]
    predicted = np.array([p.values[name] for p in model.predict([table[row] for row in rows])])
    title = f"formation energy, {len(rows)} test crystals: MAE {np.abs(truth - predicted).mean():.3f} eV/atom"
    plots.draw_parity(ax, plots.Pairs("formation energy", "eV/atom", truth, predicted, title))
    ax.set(xlabel="DFT (eV/atom)", ylabel="predicted (eV/atom)")


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="mp36k.parquet")
    arguments = parser.parse_args()
    with plots.plot_style():
        figure = Figure(figsize=(10, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_images(left)
        draw_parity(right, arguments.table)
        plots.save(figure, ROOT / "docs" / "overview.png", dpi=130)


if __name__ == "__main__":
    main()
