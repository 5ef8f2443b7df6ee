"""The pictures of a report, drawn from a study."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crystalformers.elements.analysis.spaces import explained
from crystalformers.elements.analysis.study import Study
from crystalformers.elements.report import charts, maps, periodic_table, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TYPICAL = 5
"""Number of members of a family that a legend names."""

RARE = 50
"""Elements in fewer training crystals are marked."""


def pictures(study: Study) -> dict[str, bytes]:
    """Draw all pictures of a study: name -> PNG file."""
    with style.report_style():
        drawn = {**_of_families(study), **_of_components(study), **_of_tables(study)}
        return {name: style.png(figure) for name, figure in drawn.items()}


def rare_elements(study: Study) -> dict[str, int]:
    """Symbol -> training crystals, of the subject's elements in fewer than `RARE` training crystals."""
    counts = study.subject.counts_by_symbol or {}
    return {symbol: count for symbol, count in counts.items() if count < RARE and symbol in study.symbols}


def typical_members(study: Study, label: int) -> list[str]:
    """Symbols of the members of a family, nearest to its centre first."""
    points = study.groups.points
    members = np.flatnonzero(study.groups.labels == label)
    distance = np.linalg.norm(points[members] - points[members].mean(axis=0), axis=1)
    return [study.symbols[i] for i in members[np.argsort(distance)]]


def _of_families(study: Study) -> dict[str, Figure]:
    groups, rare = study.groups, rare_elements(study)
    legend = {}
    for label in range(int(groups.labels.max()) + 1):
        members = typical_members(study, label)
        more = f" +{len(members) - TYPICAL}" if len(members) > TYPICAL else ""
        legend[f"{label + 1}  {' '.join(members[:TYPICAL])}{more}"] = style.family_colour(label)
    flat = maps.plane(groups.points, study.seed)
    colours = [style.family_colour(int(label)) for label in groups.labels]
    heading = "family, typical members"
    return {
        "families": periodic_table.families_picture(study.symbols, groups.labels, rare),
        "number": charts.separation_picture(groups.separation, len(legend)),
        "map": maps.map_picture(flat, study.symbols, colours, legend, heading=heading, rare=rare),
        "distances": maps.distance_picture(groups.points, study.symbols, groups.labels),
    }


def _of_components(study: Study) -> dict[str, Figure]:
    scores, symbols, rare = study.groups.components, study.symbols, rare_elements(study)
    shares = explained(scores)
    axes = [f"principal component {k + 1} ({100 * shares[k]:.0f} % of the variance)" for k in (0, 1)]
    blocks = {f"{block} block": colour for block, colour in style.BLOCK_COLOURS.items()}
    colours = [style.BLOCK_COLOURS[block] for block in study.places.block]
    return {
        "components": maps.map_picture(scores[:, :2], symbols, colours, blocks, axes, rare=rare),
        "component-1": periodic_table.values_picture(symbols, scores[:, 0], "score on component 1", rare),
        "component-2": periodic_table.values_picture(symbols, scores[:, 1], "score on component 2", rare),
        "correlations": charts.correlation_picture(study.correlations, shares, study.correlated),
    }


def _of_tables(study: Study) -> dict[str, Figure]:
    return {
        "probes": charts.probes_picture(study.probes, charts.ranked(study.probes, study.ensembles)),
        "likeness": charts.likeness_picture(study.likeness, [ensemble.name for ensemble in study.ensembles]),
    }
