"""The pictures of a report, drawn from a study."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from crystalformers.elements.analysis.spaces import explained
from crystalformers.elements.analysis.study import Groups, Study
from crystalformers.elements.report import charts, maps, periodic_table, style
from crystalformers.elements.report.captions import CAPTIONS, Caption
from crystalformers.periodic import ELEMENTS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TYPICAL = 5
"""Number of members of a family that a legend names."""

RARE = 50
"""Elements in fewer training crystals are marked."""


@dataclass(frozen=True)
class Picture:
    """A picture with its caption.

    Attributes:
        name: of its file, without suffix.
        caption: its text.
        content: of the PNG file.
    """

    name: str
    caption: Caption
    content: bytes


def pictures(study: Study) -> Iterator[Picture]:
    """Draw all pictures of a study, in the order of the page."""
    share = 100 * explained(study.groups.components)
    facts = {
        "families": int(study.groups.labels.max()) + 1,
        "leading": study.groups.points.shape[1],
        "method": maps.map_method(),
        "plane": f"{share[:2].sum():.0f}",
        "share_1": f"{share[0]:.0f}",
        "share_2": f"{share[1]:.0f}",
        "rare": _note_on_rare(rare_elements(study)),
    }
    with style.report_style():
        drawn = {**_of_families(study), **_of_components(study), **_of_tables(study)}
        for name, caption in CAPTIONS.items():
            yield Picture(name, caption.filled(**facts), style.png(drawn[name]))


def rare_elements(study: Study) -> dict[int, int]:
    """Atomic number -> training crystals, of the subject's elements in fewer than `RARE` training crystals."""
    table = study.subject
    if table.counts is None:
        return {}
    return {int(z): int(n) for z, n in zip(table.numbers, table.counts, strict=True) if n < RARE and z in study.numbers}


def _note_on_rare(rare: dict[int, int]) -> str:
    if not rare:
        return ""
    held = ", ".join(f"{ELEMENTS[z - 1]} {n}" for z, n in rare.items())
    return f" Dashed: held by fewer than {RARE} training crystals ({held}), so that the vector rests on little data."


def typical_members(groups: Groups, label: int, symbols: list[str]) -> list[str]:
    """Symbols of the members of a family, nearest to its centre first."""
    members = np.flatnonzero(groups.labels == label)
    centre = groups.points[members].mean(axis=0)
    return [symbols[i] for i in members[np.argsort(np.linalg.norm(groups.points[members] - centre, axis=1))]]


def _of_families(study: Study) -> dict[str, Figure]:
    groups, symbols = study.groups, [ELEMENTS[z - 1] for z in study.numbers]
    legend = {}
    for label in range(int(groups.labels.max()) + 1):
        members = typical_members(groups, label, symbols)
        more = f" +{len(members) - TYPICAL}" if len(members) > TYPICAL else ""
        legend[f"{label + 1}  {' '.join(members[:TYPICAL])}{more}"] = style.family_colour(label)
    flat = maps.plane(groups.points, study.seed)
    colours = [style.family_colour(int(label)) for label in groups.labels]
    rare = rare_elements(study)
    marked, heading = [ELEMENTS[z - 1] for z in rare], "family, typical members"
    return {
        "families": periodic_table.families_picture(study.numbers, groups.labels, rare),
        "number": charts.separation_picture(groups.separation, len(legend)),
        "map": maps.map_picture(flat, symbols, colours, legend, heading=heading, rare=marked),
        "distances": maps.distance_picture(groups.points, symbols, groups.labels),
    }


def _of_components(study: Study) -> dict[str, Figure]:
    scores, symbols = study.groups.components, [ELEMENTS[z - 1] for z in study.numbers]
    shares = explained(scores)
    axes = [f"principal component {k + 1} ({100 * shares[k]:.0f} % of the variance)" for k in (0, 1)]
    blocks = {f"{block} block": colour for block, colour in style.BLOCK_COLOURS.items()}
    colours = [style.BLOCK_COLOURS[block] for block in study.places.block]
    rare = rare_elements(study)
    marked = [ELEMENTS[z - 1] for z in rare]
    return {
        "components": maps.map_picture(scores[:, :2], symbols, colours, blocks, axes, rare=marked),
        "component-1": periodic_table.values_picture(study.numbers, scores[:, 0], "score on component 1", rare),
        "component-2": periodic_table.values_picture(study.numbers, scores[:, 1], "score on component 2", rare),
        "correlations": charts.correlation_picture(study.correlations, shares, study.correlated),
    }


def _of_tables(study: Study) -> dict[str, Figure]:
    return {
        "probes": charts.probes_picture(study.probes, charts.ranked(study.probes, study.ensembles)),
        "likeness": charts.likeness_picture(study.likeness, [ensemble.name for ensemble in study.ensembles]),
    }
