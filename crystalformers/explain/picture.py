"""The picture of an explanation: an atom, its neighbours, lines whose widths are attention weights, and its frame.

Everything is projected along one direction and painted from back to front. Shapes: N atoms drawn. Lengths in Angstrom.
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalformers.errors import ConfigError
from crystalformers.explain.data import Explanation, Floats, ImageAttention, LocalFrame
from crystalformers.explain.scene import CELL_ATOMS, COLOURS, Scene
from crystalformers.extras import require
from crystalformers.io import formula
from crystalformers.periodic import SYMBOLS
from crystalformers.plots.style import check_suffix, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE_COLOUR = "#e07b00"
AXIS_COLOURS = ("#c81e3a", "#12843b", "#1f4fd0")
EDGE_COLOUR = "#7a828e"
CAPTION_COLOUR = "#5a6270"

WIDEST_LINE = 0.28
"""Width of the line to the neighbour with the largest weight, Angstrom."""

EDGE_PIECES = 24
"""Pieces in which an edge of the cell is painted."""

ARROW_ORDER, LABEL_ORDER = 1000, 2000
"""Painting order of the arrows of a frame and their labels: in front of everything else, which is ordered by depth."""

FIGURE = (7.2, 5.4)
"""Width and height, inches."""

PLACE = (0.02, 0.07, 0.72, 0.85)
"""Left, bottom, width and height of the scene, as shares of the figure."""


def draw(
    explanation: Explanation,
    atom: int,
    path: str | os.PathLike[str],
    *,
    block: int | None = None,
    head: int | None = None,
    view: tuple[float, float] = (16.0, -66.0),
) -> None:
    """Draw the neighbourhood of an atom: widths of lines are attention weights, arrows are the axes of its frame.

    If an atom has several frames, the one with the largest share is drawn, and the caption gives the share. Axes whose
    sign has no meaning have two arrowheads; axes that are not distinct are left out.

    Args:
        explanation: from `explain`.
        atom: number of the atom, from 0.
        path: of the file, .png, .svg or .pdf.
        block: number of the block, from 0; None for the last block of the explanation with real-space heads.
        head: number of the head, from 0; None for the mean over real-space heads, with the frame of the first.
        view: elevation of the viewer above the xy plane and azimuth from the x axis, degrees.

    Raises:
        ConfigError: if the file name, atom, block or head cannot be used.
    """
    require("plots", "a picture", "matplotlib")
    from matplotlib.figure import Figure

    path = Path(path)
    check_suffix(path)
    attention_block, seen = _images(explanation, atom, block)
    if head is not None and head not in seen.heads:
        heads = ", ".join(map(str, seen.heads.tolist()))
        raise ConfigError(f"Head {head} has no images to draw; real heads of block {attention_block}: {heads}")
    column = 0 if head is None else seen.heads.tolist().index(head)
    weight = seen.weight.mean(1) if head is None else seen.weight[:, column]
    scene = Scene.around(explanation.crystal, atom, seen, weight)
    frame = seen.frames[column] if seen.frames else None

    figure = Figure(figsize=FIGURE)
    axes = figure.add_axes(PLACE)
    axes.set_axis_off()
    camera = camera_of(*view)
    scale = _frame_view(axes, scene, camera)
    paint_scene(axes, scene, camera)
    if frame is not None:
        paint_frame(axes, frame, camera, arrow_length(seen))
    _add_legend(axes, scene, scale)
    heads = f"head {head}" if head is not None else f"mean of {len(seen.heads)} heads"
    symbol = f"{explanation.crystal.symbols[atom]} (atom {atom})"
    name = Path(explanation.crystal.name).name or formula(explanation.crystal)
    axes.set_title(f"{name}: {symbol}, block {attention_block}, {heads}", fontsize=11)
    if frame is not None:
        caption = _caption(frame, int(seen.heads[column]))
        axes.text(
            0.5, -0.02, caption, transform=axes.transAxes, ha="center", va="top", fontsize=9, color=CAPTION_COLOUR
        )
    save(figure, path, dpi=170)


def _images(explanation: Explanation, atom: int, block: int | None) -> tuple[int, ImageAttention]:
    """The number of the block to draw and the attention of its real-space heads."""
    if block is not None:
        seen = explanation.of(atom, block).real
        if seen is None:
            problem = f"Block {block} has only reciprocal heads, which weigh atoms, not images"
            raise ConfigError(problem, remedy="draw another")
        return block, seen
    for attention in reversed(explanation.attentions):
        if attention.atom == atom and attention.real is not None:
            return attention.block, attention.real
    raise ConfigError(f"The explanation holds no atom {atom} with a real head, which alone has images to draw")


def camera_of(elevation: float, azimuth: float) -> Floats:
    """Rotation (3, 3) with the rows right, up and towards the viewer."""
    height, turn = np.deg2rad([elevation, azimuth])
    viewer = np.array([np.cos(height) * np.cos(turn), np.cos(height) * np.sin(turn), np.sin(height)])
    right = np.array([-np.sin(turn), np.cos(turn), 0])
    return np.array([right, np.cross(viewer, right), viewer])


def _frame_view(axes: Axes, scene: Scene, camera: Floats) -> float:
    """Fit the scene into the axes; returns the length of 1 Å in points."""
    low, high = extent(scene, camera)
    size = np.array(FIGURE) * PLACE[2:]
    scale = float((size / (high - low)).min())
    half, middle = size / scale / 2, (low + high) / 2
    (left, bottom), (right, top) = middle - half, middle + half
    axes.set(xlim=(left, right), ylim=(bottom, top))
    return 72 * scale


def extent(scene: Scene, camera: Floats) -> tuple[Floats, Floats]:
    """Lower left and upper right corner of what is drawn, with a margin, both (2,), Angstrom."""
    cell = scene.edges if len(scene.crystal) <= CELL_ATOMS else ()
    ends = np.concatenate([scene.points, *map(np.array, cell)]) @ camera[:2].T
    return ends.min(0) - 0.7, ends.max(0) + 0.7


def arrow_length(seen: ImageAttention) -> float:
    """Two thirds of the way to the nearest neighbour, at least 1.2 Å."""
    others = seen.distance[seen.distance > 0]
    return max(1.2, 0.66 * float(others.min())) if len(others) else 1.2


def paint_scene(axes: Axes, scene: Scene, camera: Floats) -> None:
    """Paint cell, lines and atoms, paler with distance from the viewer."""
    points, radii = scene.points @ camera.T, scene.radii
    nearest, farthest = points[:, 2].max(), points[:, 2].min()

    def pale(depth: float) -> float:
        return 0.5 * float(np.clip((nearest - depth) / max(nearest - farthest, 1e-9), 0, 1))

    for a, b in scene.edges:
        # In pieces, so that each is in front of or behind the atoms near it; pieces inside an atom are left out.
        line = (a + np.linspace(0, 1, EDGE_PIECES + 1)[:, None] * (b - a)) @ camera.T
        for piece in map(np.array, pairwise(line)):
            x, y, depth = piece.mean(0)
            if (np.linalg.norm(points - (x, y, depth), axis=1) > radii).all():
                style: dict[str, Any] = {"color": _mixed(EDGE_COLOUR, pale(depth)), "solid_capstyle": "round"}
                axes.plot(*piece.T[:2], lw=1, zorder=depth, **style)
    widest = scene.weight[1:].max(initial=0)
    for point, radius, weight in zip(points[1:], radii[1:], scene.weight[1:], strict=True):
        if weight > 0:
            unit = point / np.linalg.norm(point)
            ends = np.array([0.9 * radii[0] * unit, point - 0.9 * radius * unit])
            _paint_line(axes, ends, WIDEST_LINE * weight / widest, _mixed(LINE_COLOUR, pale(point[2] / 2)))
    for point, radius, z in zip(points, radii, scene.crystal.numbers[scene.source], strict=True):
        _paint_ball(axes, point, radius, COLOURS[z - 1], pale(point[2]))
    if scene.weight.any():
        axes.add_patch(_circle((0, 0), radii[0] + 0.12, fc="none", ec=LINE_COLOUR, lw=2.2, zorder=1e-3))


def _circle(centre: Any, radius: float, **style: Any) -> Any:
    from matplotlib.patches import Circle

    return Circle(tuple(centre), radius, **style)


def _paint_line(axes: Axes, ends: Floats, width: float, colour: str) -> None:
    """Paint a line as a bar, so that its width is in Angstrom and its length is that of the projection."""
    from matplotlib.patches import Polygon

    (start, end), depth = ends[:, :2], ends[:, 2].mean()
    along = (end - start) / max(np.linalg.norm(end - start), 1e-9)
    side = width / 2 * np.array([-along[1], along[0]])
    corners = [start + side, end + side, end - side, start - side]
    axes.add_patch(Polygon(corners, closed=True, fc=colour, ec=colour, lw=0.3, joinstyle="round", zorder=depth))


def _paint_ball(axes: Axes, centre: Floats, radius: float, colour: str, pale: float) -> None:
    """Paint a sphere lit from the upper left, as nested circles."""
    for step in range(6):
        share = step / 6
        spot = centre[:2] + radius * share * np.array([-0.3, 0.3])
        fill = _mixed(_mixed(colour, 0.75 * share**2), pale)
        edge = {"ec": _mixed("#2b2f36", pale), "lw": 0.8} if step == 0 else {"ec": "none"}
        axes.add_patch(_circle(spot, radius * (1 - share), fc=fill, zorder=centre[2] + 1e-5 * step, **edge))


def _mixed(colour: str, white: float) -> str:
    """A colour mixed with a share of white."""
    parts = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return "#" + "".join(f"{round(part + (255 - part) * white):02x}" for part in parts)


def paint_frame(axes: Axes, frame: LocalFrame, camera: Floats, length: float, size: float = 1.0) -> None:
    """Paint arrows along the axes of the frame with the largest share.

    Args:
        axes: to paint on.
        frame: the frame.
        camera: rotation to right, up and towards the viewer, (3, 3).
        length: of an arrow, Angstrom.
        size: factor on widths of lines and letters, for small pictures.
    """
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.patheffects import withStroke

    for k in _drawn_axes(frame):
        tip = length * (camera @ frame.axes[0, k])
        tail = -tip if frame.distinct is not None else np.zeros(3)
        style: dict[str, Any] = {"color": AXIS_COLOURS[k], "lw": 2.4 * size, "shrinkA": 0, "shrinkB": 0}
        style["mutation_scale"] = 16 * size
        style["arrowstyle"] = "<|-|>" if frame.distinct is not None else "-|>"
        arrow = FancyArrowPatch(tuple(tail[:2]), tuple(tip[:2]), zorder=ARROW_ORDER + tip[2], **style)
        arrow.set_path_effects([withStroke(linewidth=4.5 * size, foreground="white")])
        axes.add_patch(arrow)
        x, y = tip[:2] + 0.28 * tip[:2] / max(np.linalg.norm(tip[:2]), 0.3)
        text = axes.text(x, y, f"$e_{k + 1}$", color=AXIS_COLOURS[k], fontsize=13 * size, ha="center", va="center")
        text.set(zorder=LABEL_ORDER, path_effects=[withStroke(linewidth=3 * size, foreground="white")])


def _drawn_axes(frame: LocalFrame) -> list[int]:
    """The axes with a meaning: all, or among principal axes those that are distinct from the others."""
    if not len(frame.share):
        return []
    if frame.distinct is None:
        return [0, 1, 2]
    first, second = frame.distinct > 0.5
    return [k for k, clear in enumerate((first, first and second, second)) if clear]


def _add_legend(axes: Axes, scene: Scene, scale: float) -> None:
    """Add a legend: elements, weights of some line widths, and the weight of the atom itself."""
    from matplotlib.lines import Line2D

    def mark(label: str, **style: Any) -> Line2D:
        return Line2D([], [], label=label, solid_capstyle="butt", **style)

    dot = {"marker": "o", "ls": ""}
    numbers = np.unique(scene.crystal.numbers[scene.source]).tolist()
    marks = [mark(SYMBOLS[z - 1], ms=11, mfc=COLOURS[z - 1], mec="#2b2f36", **dot) for z in numbers]
    widest = scene.weight[1:].max(initial=0)
    for share in (1, 0.5, 0.1) if widest else ():
        width = WIDEST_LINE * share * scale
        marks.append(mark(f"weight {percent(share * widest)}", color=LINE_COLOUR, lw=width))
    itself = f"itself {percent(scene.weight[0])}"
    marks.append(mark(itself, ms=12, mfc="none", mec=LINE_COLOUR, mew=2, **dot))
    axes.legend(handles=marks, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, labelspacing=0.9)


def percent(weight: float) -> str:
    """A weight in percent, to two digits, and 100 % in three."""
    return f"{100 * weight:.0f} %" if weight > 0.1 else f"{100 * weight:.2g} %"


def _caption(frame: LocalFrame, head: int) -> str:
    if not len(frame.share):
        return f"head {head} has no frame: the atom has no neighbour"
    if frame.distinct is None:
        tied = f", one of {len(frame.share)} (share {percent(frame.share[0])})" if len(frame.share) > 1 else ""
        return f"$e_1, e_2, e_3$: frame of head {head}{tied}"
    drawn = ", ".join(f"$e_{k + 1}$" for k in _drawn_axes(frame))
    return f"{drawn}: principal axes of head {head}, signs free" if drawn else f"no axis of head {head} is distinct"
