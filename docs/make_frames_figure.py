"""Draw docs/frames.png: the local frames that each method takes from the same attention weights.

python docs/make_frames_figure.py

The weights are those of the first block of the bundled model, which has no frames itself: there the vectors of the
atoms are those of their elements, so that a network with frames has the same weights.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from crystalformers import load_model
from crystalformers.checkpoint import Checkpoint
from crystalformers.explain import ImageAttention, explain
from crystalformers.explain.picture import arrow_length, camera_of, extent, paint_frame, paint_scene
from crystalformers.explain.scene import Scene
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.plots import plot_style, save
from crystalformers.prediction.model import Model

ROOT = Path(__file__).parents[1]
METHODS = {
    "max": "max frame",
    "weighted-pca": "weighted PCA",
    "static-local": "static local frame",
    "pca": "PCA of the cell",
    "lattice": "lattice frame",
}
HEADS = (4, 5)
ATOM = 3
LEAST = 0.25
"""Of the largest weight; images with less are left out."""


def with_frames(method: str) -> Model:
    """The bundled model with local frames; what it has no values of stays random, and no frame depends on it."""
    bundled = load_model("materials-project")
    network = Crystalformer(replace(bundled.network.config, frame=method))
    network.load_state_dict(bundled.network.state_dict(), strict=False)
    return Model(Checkpoint(network, bundled.targets, {}), method, "")


def main() -> None:
    """Draw and save."""
    crystal = ROOT / "examples" / "SiO2.cif"
    seen: dict[str, ImageAttention] = {}
    for method in METHODS:
        found = explain(with_frames(method), crystal, ATOM, 0)
        real = found.of(ATOM, 0).real
        assert real is not None
        seen[method] = real
        assert np.allclose(real.weight, seen["max"].weight, atol=1e-6)
    camera = camera_of(16.0, -66.0)
    with plot_style():
        figure = Figure(figsize=(2.1 * len(METHODS), 2.2 * len(HEADS)), layout="constrained")
        panels = figure.subplots(len(HEADS), len(METHODS), sharex=True, sharey=True)
        corners = []
        for row, head in zip(panels, HEADS, strict=True):
            for panel, (method, title) in zip(row, METHODS.items(), strict=True):
                one = seen[method]
                weight, others = one.weight[:, head], one.distance > 0
                weight = np.where(others & (weight < LEAST * weight[others].max()), 0, weight)
                scene = Scene.around(found.crystal, ATOM, one, weight)
                corners += extent(scene, camera)
                paint_scene(panel, scene, camera)
                paint_frame(panel, one.frames[head], camera, 1.3 * arrow_length(one), 0.8)
                panel.set_axis_off()
                panel.set_title(f"{title}\nhead {head}, σ {one.sigma[head]:.2f} Å", fontsize=8, loc="center")
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        for panel in panels.ravel():
            panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        save(figure, ROOT / "docs" / "frames.png")


if __name__ == "__main__":
    main()
