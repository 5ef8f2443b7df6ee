"""All pictures but those of single structures: one style, readable in print and for colour-blind readers.

`style` has the colours, fonts and file format that the other pictures of the library use too (`explain`, `survey`,
`elements.report`).
"""

from crystalformers.plots.curves import coverage_curve, learning_curve, loss_curves, power_law
from crystalformers.plots.parity import Pairs, draw_parity, parity
from crystalformers.plots.style import plot_style, save

__all__ = [
    "Pairs",
    "coverage_curve",
    "draw_parity",
    "learning_curve",
    "loss_curves",
    "parity",
    "plot_style",
    "power_law",
    "save",
]
