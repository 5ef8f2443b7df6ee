"""Predicted against true values, with the distributions of both at the edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.extras import require
from crystalformers.plots.style import INK, OTHER_COLOUR, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BINS = 40
"""Of each distribution."""

MARGIN = 0.16
"""Height of a distribution in units of the panel."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """True and predicted values of a target.

    Attributes:
        name: of the target.
        unit: of the values.
        truth: (N,), without NaN.
        predicted: (N,).
        title: above the panel.
    """

    name: str
    unit: str
    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    title: str = ""


def parity(pairs: Sequence[Pairs]) -> Figure:
    """A panel for each target, and beside it the distributions of true (above) and predicted values (right)."""
    require("plots", "a picture", "matplotlib")
    from matplotlib.figure import Figure

    with plot_style():
        figure = Figure(figsize=(4.6 * len(pairs), 4.6), layout="constrained")
        for panel, one in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
            draw_parity(panel, one)
    return figure


def draw_parity(panel: Axes, pairs: Pairs) -> None:
    """The panel of one target, in a figure with other panels."""
    x, y = pairs.truth, pairs.predicted
    panel.scatter(x, y, s=7, alpha=0.4, linewidths=0, color=OTHER_COLOUR, rasterized=True)
    panel.set_xlabel(f"true {pairs.name} ({pairs.unit})")
    panel.set_ylabel(f"predicted {pairs.name} ({pairs.unit})")
    above, right = panel.inset_axes((0, 1.02, 1, MARGIN)), panel.inset_axes((1.02, 0, MARGIN, 1))
    above.set_title(pairs.title)
    for edge in (above, right):
        edge.axis("off")
    if not len(x):
        return
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    space = 0.04 * ((high - low) or 1)
    low, high = low - space, high + space
    panel.plot([low, high], [low, high], color=INK, linewidth=0.8)
    panel.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    edges = np.linspace(low, high, BINS + 1)
    style: dict[str, Any] = {"fill": True, "color": OTHER_COLOUR, "alpha": 0.6}
    above.stairs(np.histogram(x, edges)[0], edges, **style)
    right.stairs(np.histogram(y, edges)[0], edges, orientation="horizontal", **style)
    above.set_xlim(low, high)
    right.set_ylim(low, high)
