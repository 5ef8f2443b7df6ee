"""Galleries: the attention of one atom in every block and head, and its local frames if the model has any."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalformers.errors import ConfigError
from crystalformers.explain.data import Explanation, Floats, ImageAttention
from crystalformers.explain.picture import arrow_length, camera_of, extent, paint_frame, paint_scene, percent
from crystalformers.explain.scene import Scene
from crystalformers.extras import require
from crystalformers.io import formula
from crystalformers.plots.style import check_suffix, plot_style, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = (2.1, 2.3)
"""Width and height of a panel, inches."""

ARROW_SIZE = 0.6
"""Size of the arrows of frames relative to a picture of one head."""


def draw_gallery(
    explanation: Explanation,
    atom: int,
    path: str | os.PathLike[str],
    *,
    view: tuple[float, float] = (16.0, -66.0),
) -> None:
    """Draw the neighbourhood of an atom once for each block (rows) and real-space head (columns).

    All panels have one scale. Widths of lines are attention weights relative to the largest in the panel, the title
    gives the head's width of decay and the weight of the atom itself, and arrows are the axes of the head's frame, as
    in `draw`.

    Args:
        explanation: from `explain`, of all blocks that are to be drawn.
        atom: number of the atom, from 0.
        path: of the file, .png, .svg or .pdf.
        view: elevation of the viewer above the xy plane and azimuth from the x axis, degrees.

    Raises:
        ConfigError: if the file name or the atom cannot be used.
    """
    require("plots", "a picture", "matplotlib")
    from matplotlib.figure import Figure

    path = Path(path)
    check_suffix(path)
    blocks = [(one.block, one.real) for one in explanation.attentions if one.atom == atom and one.real is not None]
    if not blocks:
        raise ConfigError(f"The explanation holds no atom {atom} with a real head, which alone has images to draw")
    camera = camera_of(*view)
    columns = max(len(seen.heads) for _, seen in blocks)
    with plot_style():
        figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * len(blocks) + 0.4), layout="constrained")
        panels = figure.subplots(len(blocks), columns, squeeze=False, sharex=True, sharey=True)
        corners: list[Floats] = []
        for row, (block, seen) in zip(panels, blocks, strict=True):
            for column, panel in enumerate(row):
                panel.set_axis_off()
                if column < len(seen.heads):
                    scene = Scene.around(explanation.crystal, atom, seen, seen.weight[:, column])
                    corners += extent(scene, camera)
                    _draw(panel, scene, seen, column, camera, f"block {block}, head {seen.heads[column]}")
        low, high = np.min(corners, axis=0), np.max(corners, axis=0)
        for panel in panels.ravel():
            panel.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        name = Path(explanation.crystal.name).name or formula(explanation.crystal)
        figure.suptitle(f"{name}: {explanation.crystal.symbols[atom]} (atom {atom})", fontsize=12)
        save(figure, path)


def _draw(panel: Axes, scene: Scene, seen: ImageAttention, column: int, camera: Floats, title: str) -> None:
    paint_scene(panel, scene, camera)
    if seen.frames:
        paint_frame(panel, seen.frames[column], camera, arrow_length(seen), ARROW_SIZE)
    itself = percent(seen.weight[seen.distance == 0, column].sum())
    about = f"{title}\nσ {seen.sigma[column]:.2f} Å, itself {itself}"
    panel.set_title(about, fontsize=8, fontweight="normal", loc="center")
