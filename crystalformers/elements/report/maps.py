"""Pictures of the space of the vectors: maps of the elements, and all distances. Nothing is computed from them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from crystalformers.elements.analysis.clusters import Labels, ward_tree
from crystalformers.elements.analysis.spaces import Floats, distances
from crystalformers.plots.style import RULE, SEQUENTIAL, family_colour, ink_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 10.5, 7.2
PLACE = (0.035, 0.045, 0.735, 0.945)
"""Left, bottom, width and height of the map as shares of the figure."""

DISC = 0.175
"""Radius of the disc around a symbol, inches."""

NEIGHBOURS = 10
"""Number of nearest neighbours that a map tries to preserve."""


def map_method() -> str:
    """`UMAP` if the package umap-learn is installed, else `t-SNE`."""
    return "UMAP" if find_spec("umap") else "t-SNE"


def plane(points: Floats, seed: int) -> Floats:
    """Map points (E, D) to a plane, (E, 2), so that neighbours stay neighbours, by `map_method`."""
    if map_method() == "UMAP":
        from umap import UMAP

        neighbours = min(NEIGHBOURS, len(points) - 1)
        flat = UMAP(n_neighbors=neighbours, min_dist=0.4, random_state=seed, n_jobs=1).fit_transform(points)
    else:
        from sklearn.manifold import TSNE

        perplexity = min(NEIGHBOURS, (len(points) - 1) / 3)
        flat = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(points)
    return np.asarray(flat, dtype=np.float64)


def spread(places: Floats, least: float, rounds: int = 400) -> Floats:
    """Move points (E, 2) apart until no two are closer than `least`, so that no label hides another."""
    places = places.copy()
    # Points in the same place first need a direction: each gets its own, by the golden angle.
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(len(places))
    places += 1e-3 * least * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for _ in range(rounds):
        apart = places[:, None] - places[None]
        distance = np.linalg.norm(apart, axis=2) + np.eye(len(places)) * 2 * least
        missing = np.clip(least - distance, 0, None)
        if not missing.any():
            break
        places += 0.5 * (apart / distance[..., None] * missing[..., None]).sum(axis=1)
    return places


def map_picture(
    flat: Floats,
    symbols: Sequence[str],
    colours: Sequence[str],
    legend: Mapping[str, str],
    axis_names: Sequence[str] = (),
    heading: str | None = None,
    rare: Collection[str] = (),
) -> Figure:
    """Symbols of the elements in coloured discs.

    Args:
        flat: places of the elements, (E, 2).
        symbols: of the elements.
        colours: of their discs.
        legend: label -> colour.
        axis_names: of both axes; empty if the axes have no meaning.
        heading: of the legend.
        rare: symbols of elements whose discs get a dashed border.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(WIDTH, HEIGHT))
    axes = figure.add_axes(PLACE)
    free = np.array([WIDTH * PLACE[2], HEIGHT * PLACE[3]]) - 3 * DISC
    low, high = flat.min(axis=0), flat.max(axis=0)
    places = spread((flat - low) / (high - low) * free, 2.06 * DISC)
    for place, symbol, colour in zip(places, symbols, colours, strict=True):
        axes.add_patch(Circle((place[0], place[1]), DISC, facecolor=colour, edgecolor="white", linewidth=0.6))
        if symbol in rare:
            border: dict[str, Any] = {"fill": False, "edgecolor": ink_on(colour), "linewidth": 1, "linestyle": "--"}
            axes.add_patch(Circle((place[0], place[1]), 0.86 * DISC, **border))
        style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9.5, "fontweight": "bold"}
        axes.text(place[0], place[1], symbol, color=ink_on(colour), **style)
    low, high = places.min(axis=0) - 1.5 * DISC, places.max(axis=0) + 1.5 * DISC
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[], aspect="equal", anchor="C")
    axes.set(**dict(zip(("xlabel", "ylabel"), axis_names, strict=False)))
    axes.spines[["left", "bottom"]].set_visible(bool(axis_names))
    _add_discs(figure, legend, heading)
    return figure


def _add_discs(figure: Figure, legend: Mapping[str, str], heading: str | None) -> None:
    from matplotlib.lines import Line2D

    marks = [Line2D([], [], marker="o", ls="", ms=10, mec="none", mfc=c, label=label) for label, c in legend.items()]
    style: dict[str, Any] = {"frameon": False, "handletextpad": 0.3, "labelspacing": 0.7, "fontsize": 8.5}
    style |= {"title": heading, "title_fontsize": 9, "alignment": "left"}
    figure.legend(handles=marks, loc="center left", bbox_to_anchor=(PLACE[0] + PLACE[2] + 0.01, 0.5), **style)


def distance_picture(points: Floats, symbols: Sequence[str], labels: Labels) -> Figure:
    """All distances as a heat map in the order of Ward's tree, with the tree above and the families in colours.

    Args:
        points: coordinates of the elements, (E, D).
        symbols: of the elements.
        labels: families of the elements, (E,).
    """
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import leaves_list, optimal_leaf_ordering
    from scipy.spatial.distance import pdist

    tree = optimal_leaf_ordering(ward_tree(points), pdist(points))
    order = leaves_list(tree)
    figure = Figure(figsize=(11, 12))
    top, heat = figure.add_axes((0.065, 0.865, 0.85, 0.125)), figure.add_axes((0.065, 0.045, 0.85, 0.805))
    _draw_tree(top, tree, labels)
    between = distances(points)[np.ix_(order, order)]
    image = heat.imshow(between, cmap=SEQUENTIAL, aspect="auto", interpolation="nearest")
    _name_rows(heat, [symbols[i] for i in order], labels[order])
    bar = figure.colorbar(image, cax=figure.add_axes((0.93, 0.3, 0.015, 0.3)))
    bar.set_label("distance")
    bar.outline.set_visible(False)
    return figure


def _name_rows(axes: Axes, symbols: Sequence[str], labels: Labels) -> None:
    """Label rows and columns with symbols and the colours of the families, which white lines separate."""
    from matplotlib.patches import Rectangle

    n, strip = len(symbols), 0.008 * len(symbols)
    for i, label in enumerate(labels.tolist()):
        style: dict[str, Any] = {"facecolor": family_colour(label), "edgecolor": "none", "clip_on": False}
        axes.add_patch(Rectangle((-0.5 - 1.4 * strip, i - 0.5), strip, 1, **style))
        axes.add_patch(Rectangle((i - 0.5, n - 0.5 + 0.4 * strip), 1, strip, **style))
    size = min(9, 560 / n)
    axes.set_xticks(range(n), symbols, fontsize=size, rotation=90)
    axes.set_yticks(range(n), symbols, fontsize=size)
    axes.tick_params(length=0, pad=9)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    axes.spines[:].set_visible(False)
    edges = np.flatnonzero(np.diff(labels)) + 0.5
    axes.hlines(edges, -0.5, n - 0.5, color="white", linewidth=1.2)
    axes.vlines(edges, -0.5, n - 0.5, color="white", linewidth=1.2)


def _draw_tree(axes: Axes, tree: Floats, labels: Labels) -> None:
    """Draw Ward's tree, with branches inside a family in its colour."""
    from scipy.cluster.hierarchy import dendrogram

    n = len(labels)
    inside = [int(label) for label in labels]
    for a, b, *_ in tree:
        one, other = inside[int(a)], inside[int(b)]
        inside.append(one if one == other else -1)
    colour = {n + i: family_colour(c) if c >= 0 else RULE for i, c in enumerate(inside[n:])}
    dendrogram(tree, ax=axes, no_labels=True, link_color_func=lambda node: colour[node])
    axes.set(ylabel="height", xticks=[])
    axes.spines[["bottom"]].set_visible(False)
    axes.tick_params(labelsize=7)
