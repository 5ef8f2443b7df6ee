"""A picture of a crystal beside those that are most like it, all in one scale."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crystalformers.crystal import Crystal
from crystalformers.explain.picture import camera_of, extent, paint_scene
from crystalformers.explain.scene import COLOURS, Scene
from crystalformers.extras import require
from crystalformers.io import formula
from crystalformers.periodic import SYMBOLS
from crystalformers.plots.style import check_suffix, plot_style, save

COLUMNS = 5
"""Crystals in a line."""

PANEL = (2.4, 2.9)
"""Width and height of a panel, inches."""

VIEW = (16.0, -66.0)
"""Elevation of the viewer above the xy plane and azimuth from the x axis, degrees."""


def draw_neighbours(
    asked: Crystal, found: Sequence[Crystal], distances: Sequence[float], path: str | os.PathLike[str]
) -> None:
    """Draw the cell of a crystal, and behind it those of the crystals found, with formula, distance and name.

    Args:
        asked: what was looked for.
        found: the nearest crystals.
        distances: of each of them.
        path: of the file, .png, .svg or .pdf.

    Raises:
        ConfigError: if the file name is none of a picture, or matplotlib is missing.
    """
    require("plots", "a picture", "matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    path = Path(path)
    check_suffix(path)
    titles = ["looked for", *(f"distance {distance:.3g}" for distance in distances)]
    scenes, camera = [Scene.of(crystal) for crystal in (asked, *found)], camera_of(*VIEW)
    extents = [extent(scene, camera) for scene in scenes]
    half = max(float((high - low).max()) for low, high in extents) / 2
    layout = ConstrainedLayoutEngine(h_pad=0.1)
    lines, columns = -(-len(scenes) // COLUMNS), min(COLUMNS, len(scenes))
    with plot_style():
        figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * lines + 0.4), layout=layout)
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for panel in panels:
            panel.set_axis_off()
        for panel, scene, title, (low, high) in zip(panels, scenes, titles, extents, strict=False):
            (x, y), crystal = (low + high) / 2, scene.crystal
            panel.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")
            paint_scene(panel, scene, camera)
            text = f"{formula(crystal)}\n{title}\n{Path(crystal.name).name}"
            panel.set_title(text, fontsize=8, fontweight="normal", loc="center")
        numbers = np.unique(np.concatenate([scene.crystal.numbers for scene in scenes])).tolist()
        dots = [Line2D([], [], marker="o", ls="", ms=8, mfc=COLOURS[z - 1], mec="#2b2f36") for z in numbers]
        names = [SYMBOLS[z - 1] for z in numbers]
        figure.legend(dots, names, loc="outside lower center", ncols=min(len(dots), 12), frameon=False)
    save(figure, path)
