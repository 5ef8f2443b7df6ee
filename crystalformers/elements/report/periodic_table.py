"""Pictures of the periodic table: 18 columns, lanthanides and actinides below."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.elements.analysis.properties import places
from crystalformers.periodic import ELEMENTS, NUMBER_OF
from crystalformers.plots.style import DIVERGING, PALE, RULE, family_colour, ink_on, signed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GAP = 0.4
"""Height between the main table and the two rows below it, in tiles."""

SIDE = 0.94
"""Width of a tile, in columns."""


def tiles(last: int = len(ELEMENTS)) -> NDArray[np.float64]:
    """Column (1 to 18) and row (1 to 7, or below for the f block) of the elements 1 to `last`, (last, 2)."""
    numbers = np.arange(1, last + 1)
    where = places(numbers)
    f_block = where.block == "f"
    # La and Ac begin the two rows, in the column of group 3.
    column = np.where(f_block, 3 + numbers - np.where(where.period == 6, 57, 89), where.group)
    row = where.period + np.where(f_block, 2 + GAP, 0.0)
    return np.stack([column, row], axis=1).astype(float)


def draw_table(axes: Axes, colours: Mapping[str, str], notes: Mapping[str, str], rare: Collection[str] = ()) -> None:
    """Draw all elements; the tile of an element without a colour is empty.

    Args:
        axes: to draw on.
        colours: symbol -> colour of its tile.
        notes: symbol -> text at the bottom of its tile.
        rare: symbols of elements whose tiles get a dashed border.
    """
    from matplotlib.patches import Rectangle

    last = max(103, *(NUMBER_OF[symbol] for symbol in colours))
    for symbol, (x, y) in zip(ELEMENTS, tiles(last), strict=False):
        known = symbol in colours
        fill = colours.get(symbol, "white")
        ink = ink_on(fill) if known else RULE
        edge = "none" if known else PALE
        corner = (x - SIDE / 2, y - SIDE / 2)
        axes.add_patch(Rectangle(corner, SIDE, SIDE, facecolor=fill, edgecolor=edge, linewidth=0.8))
        if symbol in rare:
            inner = (x - SIDE / 2 + 0.05, y - SIDE / 2 + 0.05)
            axes.add_patch(Rectangle(inner, SIDE - 0.1, SIDE - 0.1, fill=False, edgecolor=ink, linewidth=1, ls="--"))
        style: dict[str, Any] = {"color": ink, "ha": "center", "va": "center"}
        axes.text(x, y - 0.04, symbol, fontsize=10.5, fontweight="bold" if known else "normal", **style)
        left = x - (0.36 if symbol in rare else 0.42)
        axes.text(left, y - 0.28, str(NUMBER_OF[symbol]), fontsize=5.5, color=ink, ha="left", va="center")
        axes.text(x, y + 0.32, notes.get(symbol, ""), fontsize=6, **style)
    axes.set(xlim=(0.4, 18.6), ylim=(9 + GAP + 0.6, 0.4), aspect="equal")
    axes.axis("off")


def families_picture(symbols: Sequence[str], labels: NDArray[np.int64], rare: Collection[str] = ()) -> Figure:
    """The elements coloured by family.

    Args:
        symbols: of the elements.
        labels: families, (E,), from 0; numbered from 1 at the bottom of the tiles.
        rare: symbols of elements whose tiles get a dashed border.
    """
    family_of = dict(zip(symbols, labels.tolist(), strict=True))
    figure, axes = _sheet()
    draw_table(
        axes,
        {symbol: family_colour(label) for symbol, label in family_of.items()},
        {symbol: str(label + 1) for symbol, label in family_of.items()},
        rare,
    )
    return figure


def values_picture(
    symbols: Sequence[str], values: NDArray[np.float64], label: str, rare: Collection[str] = ()
) -> Figure:
    """The elements coloured by a number: blue below 0, red above.

    Args:
        symbols: of the elements.
        values: (E,).
        label: of the colour bar.
        rare: symbols of elements whose tiles get a dashed border.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, to_hex

    largest = float(abs(values).max())
    norm = Normalize(-largest, largest)
    figure, axes = _sheet()
    value_of = dict(zip(symbols, values.tolist(), strict=True))
    colours = {symbol: to_hex(colormaps[DIVERGING](norm(value))) for symbol, value in value_of.items()}
    draw_table(axes, colours, {symbol: signed(value) for symbol, value in value_of.items()}, rare)
    bar = figure.colorbar(
        ScalarMappable(norm, DIVERGING), cax=axes.inset_axes((0.2, 0.88, 0.42, 0.025)), orientation="horizontal"
    )
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure


def _sheet() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 5.7))
    return figure, figure.add_axes((0.005, 0.005, 0.99, 0.99))
