"""The page of a report: a single HTML file with its pictures in it, which needs no network.

Its text, with what each picture shows and does not show, is in `page.html`, a template of Jinja.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from crystalformers.elements.analysis.study import Study
from crystalformers.elements.report.gallery import RARE, rare_elements, typical_members
from crystalformers.elements.report.maps import map_method
from crystalformers.plots.style import DPI, family_colour, ink_on, signed

STABLE = 0.75
"""Mean overlap above which a family counts as stable (Hennig 2007)."""

CSS_DPI = 96
"""Pixels per inch of a page."""


def page(study: Study, numbers: dict[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page as HTML.

    Args:
        study: the analysis.
        numbers: of the analysis, from `results.results`.
        pictures: name -> PNG file.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"signed": signed, "family_colour": family_colour, "ink_on": ink_on}
    environment.filters |= {"base64": lambda png: base64.b64encode(png).decode(), "width": _width}
    probes = defaultdict(list)
    for probe in numbers["probes"]:
        probes[probe["tables"], probe["property"]].append(probe)
    architectures = {table.metadata.get("architecture") for ensemble in study.ensembles for table in ensemble.tables}
    return environment.get_template("page.html").render(
        study=study,
        numbers=numbers,
        pictures=pictures,
        probes=probes,
        probed=list(dict.fromkeys(probe["property"] for probe in numbers["probes"])),
        facts={key: value for key, value in study.subject.metadata.items() if isinstance(value, str | int | float)},
        from_crystaltransformer="CrystalTransformer" in architectures,
        map_method=map_method(),
        rare=rare_elements(study),
        rare_below=RARE,
        typical=[typical_members(study, label) for label in range(numbers["families"]["number"])],
        stable=STABLE,
    )


def _width(png: bytes) -> int:
    """Width in pixels of the page; at one scale the text of all pictures has the same size."""
    # Bytes 16 to 19 of a PNG file are its width.
    return round(int.from_bytes(png[16:20]) * CSS_DPI / DPI)
