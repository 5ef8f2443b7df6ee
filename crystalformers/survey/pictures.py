"""Pictures of a table: elements, sizes, labels, space groups."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from crystalformers.elements.report.periodic_table import draw_table
from crystalformers.plots.style import OTHER_COLOUR, SEQUENTIAL, SUBJECT_COLOUR, plot_style, png
from crystalformers.survey.facts import Facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BINS = 60
COLUMNS = 3
"""Histograms of labels next to each other."""

SYSTEMS = {
    "triclinic": 2,
    "monoclinic": 15,
    "orthorhombic": 74,
    "tetragonal": 142,
    "trigonal": 167,
    "hexagonal": 194,
    "cubic": 230,
}
"""Crystal systems and the last space group of each."""


def pictures(facts: Facts) -> dict[str, bytes]:
    """Name -> PNG file."""
    with plot_style():
        drawn = {"elements": elements_picture(facts), "sizes": sizes_picture(facts)}
        if facts.labels:
            drawn["labels"] = labels_picture(facts)
        drawn["space-groups"] = space_groups_picture(facts)
        return {name: png(figure) for name, figure in drawn.items()}


def elements_picture(facts: Facts) -> Figure:
    """The periodic table, coloured by the logarithm of the number of crystals that hold each element."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm, to_hex
    from matplotlib.figure import Figure

    norm = LogNorm(1, max(2, *facts.elements.values()))
    colours = {symbol: to_hex(colormaps[SEQUENTIAL](norm(count))) for symbol, count in facts.elements.items()}
    figure = Figure(figsize=(10.5, 5.7))
    axes = figure.add_axes((0.005, 0.005, 0.99, 0.99))
    draw_table(axes, colours, {symbol: f"{count:,}" for symbol, count in facts.elements.items()})
    bar = figure.colorbar(
        ScalarMappable(norm, SEQUENTIAL), cax=axes.inset_axes((0.2, 0.88, 0.42, 0.025)), orientation="horizontal"
    )
    bar.set_label("crystals with the element", fontsize=9)
    _plain_ticks(bar.ax.xaxis)
    bar.outline.set_visible(False)
    return figure


def sizes_picture(facts: Facts) -> Figure:
    """Histogram of the atoms in a cell."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    axes = figure.subplots()
    largest = int(facts.n_atoms.max())
    edges = np.arange(0.5, largest + 1) if largest <= BINS else np.geomspace(0.5, largest + 0.5, BINS)
    axes.hist(facts.n_atoms, bins=edges.tolist(), color=OTHER_COLOUR)
    axes.set(xlabel="atoms in a cell", ylabel="crystals", xscale="linear" if largest <= BINS else "log")
    _plain_ticks(axes.xaxis)
    return figure


def _plain_ticks(axis: Axis) -> None:
    """Numbers without powers, at the main ticks alone."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set_minor_formatter(NullFormatter())


def labels_picture(facts: Facts) -> Figure:
    """A histogram of each label with its unit; test rows, if there are any, as a line at the scale of all rows."""
    from matplotlib.figure import Figure

    lines = math.ceil(len(facts.labels) / COLUMNS)
    figure = Figure(figsize=(10.5, 2.6 * lines), layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False).ravel()
    for panel, (name, values) in zip(panels, facts.labels.items(), strict=False):
        _draw_label(panel, name, values, facts)
    for panel in panels[len(facts.labels) :]:
        panel.axis("off")
    return figure


def _draw_label(panel: Axes, name: str, values: NDArray[np.float64], facts: Facts) -> None:
    present = np.isfinite(values)
    counts, edges = np.histogram(values[present], bins=BINS)
    panel.stairs(counts, edges, fill=True, color=OTHER_COLOUR)
    if facts.part is not None and (test := present & (facts.part == "test")).any():
        share, _ = np.histogram(values[test], bins=edges)
        panel.stairs(share * present.sum() / test.sum(), edges, color=SUBJECT_COLOUR, lw=1)
    unit = f" ({facts.units[name]})" if facts.units[name] else ""
    panel.set_title(f"{present.sum():,} values", fontsize=9, fontweight="normal")
    panel.set_xlabel(f"{name}{unit}", fontsize=9)
    panel.set_yscale("log" if counts.max() > 0.5 * counts.sum() else "linear")
    _plain_ticks(panel.yaxis)


def space_groups_picture(facts: Facts) -> Figure:
    """How many crystals each space group has; crystal systems by their borders."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.bar(list(facts.space_groups), list(facts.space_groups.values()), width=1.0, color=OTHER_COLOUR)
    first = 0
    for name, last in SYSTEMS.items():
        axes.axvline(last + 0.5, color="#cccccc", lw=0.6, zorder=0)
        angle = 90 if last - first < 15 else 0
        place = ((first + last + 1) / 2, 1.01)
        axes.text(*place, name, transform=axes.get_xaxis_transform(), ha="center", fontsize=8, rotation=angle)
        first = last
    axes.set(xlabel="space group", ylabel="crystals", xlim=(0.5, 230.5))
    return figure
