"""Charts: number of families, correlations, probes, and similarity of tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.elements.analysis.clusters import Separation
from crystalformers.elements.analysis.comparison import Correlations
from crystalformers.elements.analysis.ensembles import Ensemble
from crystalformers.elements.analysis.properties import PROPERTIES
from crystalformers.elements.analysis.published import PublishedFamilies
from crystalformers.elements.analysis.spaces import Floats, Likeness
from crystalformers.elements.analysis.study import SPLITS, ProbeResult
from crystalformers.plots.style import (
    CONTROL_COLOUR,
    DIVERGING,
    INK,
    OTHER_COLOUR,
    PALE,
    RULE,
    SUBJECT_COLOUR,
    ink_on,
    signed,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST_R2 = -0.6
"""Left end of the R2 axis; smaller values are drawn there and printed."""

NULL_COLOURS = {"one cloud": "#999933", "shuffled": "#88ccee"}


def separation_picture(found: Separation, chosen: int) -> Figure:
    """Silhouette and gap statistic for each number of families, with 95 % bands of chance.

    Args:
        found: the statistics.
        chosen: number of families that the report shows.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, draws in found.chance.items():
        low, high = np.quantile(draws, [0.025, 0.975], axis=0)
        left.fill_between(found.ks, low, high, color=NULL_COLOURS[name], alpha=0.45, lw=0, label=f"chance: {name}")
    line: dict[str, Any] = {"color": SUBJECT_COLOUR, "marker": "o", "ms": 4, "capsize": 2}
    left.errorbar(found.ks, found.silhouette, found.spread, label="elements", **line)
    left.set(title="Silhouette", xlabel="number of families", ylabel="mean silhouette", ylim=(0, None))
    right.errorbar(found.ks, found.gap, found.gap_error, **line)
    right.set(title="Gap statistic", xlabel="number of families", ylabel="gap of log W")
    for axes, k in ((left, chosen), (right, found.by_gap)):
        axes.axvline(k, color=RULE, ls=":", zorder=0)
        axes.annotate(
            f" {k}", (k, 0.02), xycoords=("data", "axes fraction"), color=INK, fontsize=9, annotation_clip=False
        )
        axes.set_xticks(found.ks)
    left.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def elbow_picture(found: PublishedFamilies) -> Figure:
    """Squares and silhouette of k-means on the maps of UMAP for each number of families; a line for each seed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 3.8), layout="constrained")
    curves = (
        ("Sum of squared errors", found.squares, found.elbow),
        ("Silhouette", found.silhouette, found.by_silhouette),
    )
    for axes, (title, values, chosen) in zip(figure.subplots(1, 2), curves, strict=True):
        axes.plot(found.ks, values.T, color=PALE, lw=1)
        axes.plot(found.ks, values.mean(axis=0), color=SUBJECT_COLOUR, marker="o", ms=4)
        axes.axvline(chosen, color=RULE, ls=":", zorder=0)
        axes.set(title=title, xlabel="number of families", xticks=found.ks)
    return figure


def correlation_picture(found: Correlations, shares: Floats, names: Sequence[str]) -> Figure:
    """Spearman correlations of principal components (rows) with properties; bold: beyond chance.

    Args:
        found: the correlations.
        shares: of the variance, for each component.
        names: of the properties.
    """
    rows = [f"PC {k + 1}  ({100 * share:.0f} %)" for k, share in enumerate(shares[: len(found.rho)])]
    bold = abs(found.rho) > found.threshold
    figure, axes = _heat_map(found.rho, rows, names, bold, "Spearman correlation")
    axes.set_ylabel("principal component (share of the variance)")
    return figure


def likeness_picture(likeness: dict[tuple[str, str], Likeness], names: Sequence[str]) -> Figure:
    """Spearman correlations between the distances in pairs of ensembles; bold: beyond chance (p < 0.05).

    Args:
        likeness: by the names of two ensembles.
        names: of the ensembles, in the order of rows and columns.
    """
    values = np.full((len(names), len(names)), np.nan)
    bold = np.zeros(values.shape, dtype=bool)
    for (a, b), like in likeness.items():
        for i, j in ((names.index(a), names.index(b)), (names.index(b), names.index(a))):
            values[i, j], bold[i, j] = like.value, like.p < 0.05
    return _heat_map(values, names, names, bold, "Spearman correlation of distances")[0]


def _heat_map(
    values: Floats, rows: Sequence[str], columns: Sequence[str], bold: NDArray[np.bool_], label: str
) -> tuple[Figure, Axes]:
    """Numbers from -1 to 1 as coloured cells; NaN as an empty cell."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 + 0.72 * len(columns), 1.9 + 0.46 * len(rows)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            ink = ink_on(to_hex(colormaps[DIVERGING]((value + 1) / 2)))
            weight = "bold" if bold[i, j] else "normal"
            axes.text(j, i, signed(value), color=ink, ha="center", va="center", fontsize=9, fontweight=weight)
    axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
    axes.set_yticks(range(len(rows)), rows, fontsize=9)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_facecolor(PALE)
    bar = figure.colorbar(image, shrink=0.8, aspect=25)
    bar.set_label(label, fontsize=9)
    bar.ax.tick_params(labelsize=8)
    bar.outline.set_visible(False)
    return figure, axes


def ranked(results: Sequence[ProbeResult], sets: Sequence[Ensemble]) -> list[str]:
    """Names of ensembles: the subject first, then the others by their mean R2 with single elements left out."""
    score = {e.name: np.mean([r.r2 for r in results if r.ensemble == e.name and r.split == "element"]) for e in sets}
    subject = sets[0].name
    return sorted(score, key=lambda name: (name != subject, -score[name]))


def probes_picture(results: Sequence[ProbeResult], names: Sequence[str]) -> Figure:
    """R2 of left-out elements (bars) and groups (diamonds) for each property and table, with 95 % intervals.

    Args:
        results: of all ensembles.
        names: of the ensembles, from top to bottom; the first is the subject.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10.5, 2 * (1.3 + 0.3 * len(names))), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True).ravel()
    for panel, quantity in zip(panels, PROPERTIES, strict=True):
        mine = {(r.ensemble, r.split): r for r in results if r.quantity == quantity}
        n = len(mine[names[0], SPLITS[0]].runs[0].values)
        panel.set_title(f"{quantity.name}  ({n})")
        for row, name in enumerate(names):
            _draw_probe(panel, row, mine[name, "element"], mine[name, "group"], names[0])
        panel.axvline(0, color=INK, lw=0.8)
        panel.set(xlim=(LEAST_R2, 1.06), ylim=(len(names) - 0.4, -0.6))
        panel.set_yticks(range(len(names)), names, fontsize=8.5)
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x", color=PALE, lw=0.8)
        panel.set_axisbelow(True)
    for panel in panels[3:]:
        panel.set_xlabel("R² of elements left out")
    _add_probe_legend(figure, seeds=any(len(result.runs) > 1 for result in results))
    return figure


def _draw_probe(axes: Axes, row: int, elements: ProbeResult, groups: ProbeResult, subject: str) -> None:
    control = elements.ensemble.startswith(("random", "one-hot"))
    colour = SUBJECT_COLOUR if elements.ensemble == subject else CONTROL_COLOUR if control else OTHER_COLOUR
    bar: dict[str, Any] = (
        {"facecolor": "white", "edgecolor": colour, "hatch": "////"} if elements.given else {"facecolor": colour}
    )
    axes.barh(row, max(elements.r2, LEAST_R2), height=0.62, alpha=0.55, lw=0, **bar)
    box: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
    beyond: dict[str, Any] = {"fontsize": 7, "va": "center", "bbox": box}
    if elements.r2 < LEAST_R2:
        axes.text(LEAST_R2 + 0.09, row - 0.18, signed(elements.r2, 1), **beyond)
    interval: dict[str, Any] = {"color": INK, "lw": 1, "solid_capstyle": "butt"}
    axes.plot(np.clip([elements.low, elements.high], LEAST_R2, 1), [row, row], **interval)
    if len(elements.runs) > 1:
        seeds = [max(run.r2, LEAST_R2) for run in elements.runs]
        axes.plot(seeds, [row] * len(seeds), ls="", marker=".", ms=5, color=colour, mec=INK, mew=0.4)
    r2 = max(groups.r2, LEAST_R2 + 0.03)
    axes.plot(r2, row + 0.18, marker="D", ms=5, mfc="white", mec=colour, mew=1.3, ls="", zorder=3)
    if groups.r2 < LEAST_R2:
        axes.text(r2 + 0.06, row + 0.18, signed(groups.r2, 1), **beyond)


def _add_probe_legend(figure: Figure, *, seeds: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    marks = [
        Patch(facecolor=SUBJECT_COLOUR, alpha=0.55, label="this table"),
        Patch(facecolor=OTHER_COLOUR, alpha=0.55, label="other tables"),
        Patch(
            facecolor="white", edgecolor=OTHER_COLOUR, alpha=0.55, hatch="////", lw=0, label="table holds the property"
        ),
        Patch(facecolor=CONTROL_COLOUR, alpha=0.55, label="controls"),
        Line2D([], [], color=INK, lw=1, label="95 % interval"),
        Line2D([], [], marker="D", mfc="white", mec=INK, ls="", ms=5, label="whole groups left out"),
    ]
    if seeds:
        marks.append(Line2D([], [], marker=".", mfc=PALE, mec=INK, ls="", ms=6, mew=0.6, label="each seed"))
    style: dict[str, Any] = {"frameon": False, "fontsize": 8.5, "columnspacing": 1.2}
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), **style)
