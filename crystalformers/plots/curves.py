"""Curves: losses over epochs, errors over the number of training rows, coverage of intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalformers.extras import require
from crystalformers.plots.style import INK, LINE_COLOURS, LINE_STYLES, plot_style

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


def loss_curves(curves: Mapping[str, tuple[ArrayLike, ArrayLike]], best: float, title: str) -> Figure:
    """Losses of standardised labels over epochs.

    Args:
        curves: epochs and losses, by label.
        best: the epoch with the smallest validation error, marked by a line.
        title: above the picture.
    """
    require("plots", "a picture", "matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with plot_style():
        figure = Figure(figsize=(5, 3.6), layout="constrained")
        panel = figure.subplots()
        for (label, (epochs, losses)), colour, line in zip(curves.items(), LINE_COLOURS, LINE_STYLES, strict=False):
            panel.plot(epochs, losses, color=colour, linestyle=line, label=label)
        panel.axvline(best, color=INK, linewidth=0.8, linestyle=":", label="best by validation")
        panel.set_yscale("log")
        _plain_powers(panel.yaxis)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set(xlabel="epoch", ylabel="error of standardised labels", title=title)
        panel.legend(frameon=False)
    return figure


def power_law(rows: ArrayLike, errors: ArrayLike) -> tuple[float, float] | None:
    """The exponent b and the factor a of error = a rows^-b, by least squares of the logarithms.

    Args:
        rows: numbers of training rows, (P,).
        errors: mean absolute errors, (P,).

    Returns:
        b and a; None for fewer than two different numbers of rows, or if an error is not positive.
    """
    x, y = np.asarray(rows, float), np.asarray(errors, float)
    if len(np.unique(x)) < 2 or not (y > 0).all():
        return None
    slope, offset = np.polyfit(np.log(x), np.log(y), 1)
    return float(-slope), float(np.exp(offset))


def learning_curve(
    points: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]], units: Sequence[str]
) -> Figure:
    """Test errors over the number of training rows, a panel for each target, with the fitted power law.

    Args:
        points: numbers of rows and mean absolute errors of all trainings, both (P,), by target.
        units: of the targets.
    """
    require("plots", "a picture", "matplotlib")
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    with plot_style():
        figure = Figure(figsize=(4.6 * len(points), 3.6), layout="constrained")
        panels = figure.subplots(1, len(points), squeeze=False)[0]
        for panel, (name, (rows, errors)), unit in zip(panels, points.items(), units, strict=True):
            sizes = np.unique(rows)
            means = [errors[rows == size].mean() for size in sizes]
            panel.plot(rows, errors, "o", markersize=4, alpha=0.6, color=LINE_COLOURS[0], label="one training")
            panel.plot(sizes, means, "_", markersize=16, markeredgewidth=2, color=INK, label="mean over seeds")
            if (fitted := power_law(rows, errors)) is not None:
                exponent, factor = fitted
                label = f"error ∝ rows^{-exponent:.2f}".replace("-", "−")  # mathtext needs fonts that may be absent
                panel.plot(sizes, factor * sizes**-exponent, linestyle="--", color=LINE_COLOURS[1], label=label)
            panel.set(
                xscale="log", yscale="log", xlabel="training rows", ylabel=f"test error, MAE ({unit})", title=name
            )
            panel.set_xticks(sizes, [f"{size:g}" for size in sizes])
            panel.xaxis.set_minor_formatter(NullFormatter())
            _plain_powers(panel.yaxis)
            panel.legend(frameon=False)
    return figure


def coverage_curve(
    measured: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]],
) -> Figure:
    """Measured against nominal coverage of intervals, with the standard error of a share.

    Args:
        measured: nominal coverage, share of the labels that the intervals hold, and number of labels, by target.
    """
    from matplotlib.figure import Figure

    with plot_style():
        figure = Figure(figsize=(4.2, 4.2), layout="constrained")
        panel = figure.subplots()
        for (name, (nominal, share, count)), colour in zip(measured.items(), LINE_COLOURS, strict=False):
            error = np.sqrt(nominal * (1 - nominal) / count)
            panel.errorbar(nominal, share, error, marker="o", markersize=4, capsize=2, color=colour, label=name)
        panel.plot([0.45, 1], [0.45, 1], color=INK, linewidth=0.8)
        panel.set(xlabel="nominal coverage", ylabel="measured coverage on test rows")
        panel.legend(frameon=False)
    return figure


def _plain_powers(axis: Axis) -> None:
    """Numbers at 1, 2 and 5 of each power of ten; the usual powers need fonts that may be absent."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_minor_locator(LogLocator(subs=(2, 5)))
    for set_formatter in (axis.set_major_formatter, axis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
