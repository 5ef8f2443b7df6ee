"""The pictures of a report, drawn from a study."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from crystalformers.elements.analysis.published import PublishedFamilies
from crystalformers.elements.analysis.spaces import explained
from crystalformers.elements.analysis.study import Study
from crystalformers.elements.report import charts, maps, periodic_table
from crystalformers.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TYPICAL = 5
"""Number of members of a family that a legend names."""

RARE = 50
"""Elements in fewer training crystals are marked."""


def pictures(study: Study) -> dict[str, bytes]:
    """Draw all pictures of a study: name -> PNG file."""
    groups, symbols, rare = study.groups, study.symbols, rare_elements(study)
    legend = {}
    for label in range(int(groups.labels.max()) + 1):
        members = typical_members(study, label)
        more = f" +{len(members) - TYPICAL}" if len(members) > TYPICAL else ""
        legend[f"{label + 1}  {' '.join(members[:TYPICAL])}{more}"] = style.family_colour(label)
    families = [style.family_colour(int(label)) for label in groups.labels]
    heading = "family, typical members"
    scores, shares = groups.components, explained(groups.components)
    axes = [f"principal component {k + 1} ({100 * shares[k]:.0f} % of the variance)" for k in (0, 1)]
    blocks = {f"{block} block": colour for block, colour in style.BLOCK_COLOURS.items()}
    colours = [style.BLOCK_COLOURS[block] for block in study.places.block]
    with style.plot_style():
        flat = maps.plane(groups.points, study.seed)
        drawn = {
            "families": periodic_table.families_picture(symbols, groups.labels, rare),
            "number": charts.separation_picture(groups.separation, len(legend)),
            "map": maps.map_picture(flat, symbols, families, legend, heading=heading, rare=rare),
            "components": maps.map_picture(scores[:, :2], symbols, colours, blocks, axes, rare=rare),
            "distances": maps.distance_picture(groups.points, symbols, groups.labels),
            "component-1": periodic_table.values_picture(symbols, scores[:, 0], "score on component 1", rare),
            "component-2": periodic_table.values_picture(symbols, scores[:, 1], "score on component 2", rare),
            "correlations": charts.correlation_picture(study.correlations, shares, study.correlated),
            "probes": charts.probes_picture(study.probes, charts.ranked(study.probes, study.ensembles)),
            "likeness": charts.likeness_picture(study.likeness, [ensemble.name for ensemble in study.ensembles]),
        }
        if study.published is not None:
            drawn |= published_pictures(study.published, symbols, rare)
        return {name: style.png(figure) for name, figure in drawn.items()}


def published_pictures(found: PublishedFamilies, symbols: list[str], rare: Collection[str]) -> dict[str, Figure]:
    """The curves by which the paper chooses the number of families, and its map with them."""
    letters = [chr(ord("A") + int(label)) for label in found.labels]
    legend = {letter: style.family_colour(ord(letter) - ord("A")) for letter in sorted(set(letters))}
    colours = [legend[letter] for letter in letters]
    return {
        "published-number": charts.elbow_picture(found),
        "published-map": maps.map_picture(found.flat, symbols, colours, legend, heading="class", rare=rare),
    }


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
