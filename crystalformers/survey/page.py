"""The page of a table: a single HTML file with its pictures in it, which needs no network."""

from __future__ import annotations

import base64
from importlib.metadata import version
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from crystalformers.survey import duplicates, facts
from crystalformers.survey.facts import Facts
from crystalformers.survey.pictures import SYSTEMS, pictures

SHOWN = 20
"""Groups of duplicates that are named."""


def page(found: Facts) -> str:
    """The page as HTML; its text is in `page.html`, a template of Jinja."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    drawn = {name: base64.b64encode(png).decode() for name, png in pictures(found).items()}
    return environment.get_template("page.html").render(
        facts=found,
        pictures=drawn,
        labels=label_rows(found),
        systems=system_counts(found),
        shown=SHOWN,
        version=version("crystalformers"),
        tolerance=duplicates.TOLERANCE,
        neighbours=duplicates.NEIGHBOURS,
        symmetry_tolerance=facts.SYMMETRY_TOLERANCE,
    )


def label_rows(found: Facts) -> list[tuple[str, ...]]:
    """Name, unit, number of values, mean, standard deviation, least and largest value of each label."""
    rows = []
    for name, values in found.labels.items():
        present = values[np.isfinite(values)]
        numbers = (present.mean(), present.std(), present.min(), present.max())
        rows.append((name, found.units[name] or "not stated", f"{len(present):,}", *(f"{x:.4g}" for x in numbers)))
    return rows


def system_counts(found: Facts) -> dict[str, int]:
    """Crystal system -> rows, among those whose space group was found."""
    counts, first = {}, 0
    for name, last in SYSTEMS.items():
        counts[name] = sum(n for group, n in found.space_groups.items() if first < group <= last)
        first = last
    return counts
