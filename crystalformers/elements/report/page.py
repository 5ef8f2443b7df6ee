"""The page of a report: a single HTML file with its pictures in it, which needs no network."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from crystalformers.elements.analysis.study import Study
from crystalformers.elements.report.gallery import Picture, typical_members
from crystalformers.elements.report.style import DPI, family_colour, ink_on, signed
from crystalformers.periodic import ELEMENTS

STABLE = 0.75
"""Mean overlap above which a family counts as stable (Hennig 2007)."""

CSS_DPI = 96
"""Pixels per inch of a page."""

CSS = """
body { font: 16px/1.55 "DejaVu Sans", Verdana, sans-serif; color: #222; }
body { max-width: 1060px; margin: 2.5em auto; padding: 0 1.2em }
h1 { font-size: 1.7em; margin-bottom: .2em }
h2 { font-size: 1.25em; margin: 2.6em 0 .4em; border-bottom: 1px solid #ddd }
img { max-width: 100%; height: auto; display: block; margin: .8em auto }
table { border-collapse: collapse; font-size: .86em; margin: .8em 0 }
td, th { padding: .28em 1em .28em 0; text-align: left; vertical-align: top }
th { border-bottom: 1px solid #999; font-weight: 600 }
td.n, th.n { text-align: right; white-space: nowrap }
nav a { margin-right: 1em; white-space: nowrap }
a, summary { color: #2b5f8a } summary { cursor: pointer }
.limits, small, footer { color: #666 } footer { margin-top: 3em; font-size: .86em }
.tag { display: inline-block; min-width: 1.6em; text-align: center; border-radius: 3px; font-weight: 600 }
.one { white-space: nowrap; margin-right: .9em }
"""


def page(study: Study, numbers: dict[str, Any], pictures: Sequence[Picture]) -> str:
    """The page as HTML.

    Args:
        study: the analysis.
        numbers: of the analysis, from `results.results`.
        pictures: in the order of the page.
    """
    extras = {
        "families": _families_table(study, numbers),
        "number": _agreement_table(numbers),
        "probes": _probes_table(numbers),
        "likeness": _seeds_table(numbers),
    }
    sections = [
        f'<h2 id="{p.name}">{escape(p.caption.title)}</h2>\n<p>{escape(p.caption.shows)}</p>\n{_image(p)}\n'
        f'<p class="limits"><b>Note:</b> {escape(p.caption.limits)}</p>\n{extras.get(p.name, "")}'
        for p in pictures
    ]
    links = [(p.name, p.caption.title) for p in pictures] + [("neighbours", "Neighbours and substitutes")]
    contents = " ".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in links)
    title = f"The elements in {study.subject.name}"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{CSS}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{_introduction(study)}\n<nav>{contents}</nav>\n"
        f"{''.join(sections)}\n{_neighbours(numbers)}\n{_footer(numbers)}\n</body></html>\n"
    )


def _image(picture: Picture) -> str:
    data = base64.b64encode(picture.content).decode()
    # Bytes 16 to 19 of a PNG file are its width: at one scale the text of all pictures has the same size.
    width = round(int.from_bytes(picture.content[16:20]) * CSS_DPI / DPI)
    return f'<img src="data:image/png;base64,{data}" alt="{escape(picture.caption.title)}" width="{width}">'


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """An HTML table; cells are HTML, and the columns `numeric` are aligned right."""

    def line(cells: Sequence[str], tag: str) -> str:
        kind = [f'<{tag} class="n">' if i in numeric else f"<{tag}>" for i in range(len(cells))]
        return "<tr>" + "".join(f"{k}{cell}</{tag}>" for k, cell in zip(kind, cells, strict=True)) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f"<table>\n{line(headers, 'th')}\n{body}\n</table>"


def _introduction(study: Study) -> str:
    subject, first = study.subject, study.ensembles[0]
    seeds = f", one of {len(first.tables)} seeds" if len(first.tables) > 1 else ""
    others = ", ".join(ensemble.name for ensemble in study.ensembles[1:])
    facts = {str(key): value for key, value in subject.metadata.items() if isinstance(value, str | int | float)}
    about = "".join(f"<tr><td>{escape(k)}</td><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    return (
        f"<p>{len(study.numbers)} elements, {subject.dim} numbers each{seeds}. Compared with: {escape(others)}. "
        f"Comparisons use the {len(study.shared)} elements in all tables.{_note_on_encoder(study)}</p>"
        + (f"<details><summary>About the table</summary><table>{about}</table></details>" if facts else "")
    )


def _note_on_encoder(study: Study) -> str:
    """What tables named after CrystalTransformer were trained with."""
    architectures = {table.metadata.get("architecture") for ensemble in study.ensembles for table in ensemble.tables}
    if "CrystalTransformer" not in architectures:
        return ""
    return (
        " The invariant CrystalTransformer, which the bundled tables of this name come from, is an encoder built of "
        "Crystalformer's blocks, not the published network."
    )


def _families_table(study: Study, numbers: dict[str, Any]) -> str:
    symbols = [ELEMENTS[z - 1] for z in study.numbers]
    rows = []
    for label, overlap in enumerate(numbers["families"]["jaccard"]):
        colour = family_colour(label)
        tag = f'<span class="tag" style="background:{colour};color:{ink_on(colour)}">{label + 1}</span>'
        verdict = "stable" if overlap > STABLE else "loose"
        rows.append([tag, " ".join(typical_members(study.groups, label, symbols)), f"{overlap:.2f}", verdict])
    note = (
        "<p>Overlap: how much of a family is found again, on average, when a fifth of the elements is left out "
        f"(Jaccard index; above {STABLE} the family counts as stable). The most typical members come first.</p>"
    )
    dense = " · ".join(" ".join(members) for members in numbers["families"]["hdbscan"]) or "none"
    by_density = f"<p>Families by density (HDBSCAN; all other elements are in none): {dense}.</p>"
    return _table(["family", "elements", "overlap", ""], rows, [2]) + note + by_density


def _agreement_table(numbers: dict[str, Any]) -> str:
    families = numbers["families"]
    words = {
        "k-means": "k-means, the same number of families",
        "HDBSCAN": "HDBSCAN, for the elements in its families",
        "all directions": "Ward's method in all components instead of the leading ones",
        "whitened": "Ward's method in the leading components, scaled to equal variance",
        "block": "block of the periodic table",
        "group": "group of the periodic table",
        "period": "period of the periodic table",
    }
    rows = [[escape(words[k]), signed(v["ari"]), f"{v['p']:.3g}"] for k, v in families["agreement"].items()]
    rows += [
        [escape(" and ".join(pair["tables"])) + ", families of each", signed(pair["ari"]), f"{pair['p']:.3g}"]
        for pair in families["seeds"]
    ]
    chance = ", ".join(f"p = {p:.3g} ({null})" for null, p in families["silhouette_p"].items())
    lone = "" if families["seeds"] else "<p>Only one seed was given; another may divide the elements differently.</p>"
    return (
        f"<p>The silhouette criterion chooses {families['number_by_silhouette']} families, the gap statistic "
        f"{families['number_by_gap']}; {families['number']} are shown. Probability that chance separates families as "
        f"well: {escape(chance)}. Agreement of the families with other divisions of the elements, as adjusted Rand "
        f"index (1: the same, 0: chance), with the share of permutations that reach it:</p>"
        + _table(["compared with", "index", "p"], rows, [1, 2])
        + lone
    )


def _probes_table(numbers: dict[str, Any]) -> str:
    rows = [
        [
            escape(r["property"] + (f" ({r['unit']})" if r["unit"] else "")),
            escape(r["tables"]) + (" *" if r["holds_the_property"] else ""),
            r["left_out"],
            signed(r["r2"]),
            f"{signed(r['r2_low'])} to {signed(r['r2_high'])}",
            f"{r['p']:.3g}",
            f"{r['mae']:.3g}",
        ]
        for r in numbers["probes"]
    ]
    headers = ["property", "table", "left out", "R²", "95 % interval", "p", "mean error"]
    table = _table(headers, rows, [3, 4, 5, 6])
    note = (
        "<p>Mean error: mean absolute error, in the unit of the property. p: share of permutations of the values that "
        "are predicted as well. *: a column of the table is the property itself.</p>"
    )
    return _probes_in_short(numbers) + f"<details><summary>All numbers</summary>{table}{note}</details>"


def _probes_in_short(numbers: dict[str, Any]) -> str:
    """Tables as rows, properties as columns."""
    cells: dict[tuple[str, str], str] = {}
    for r in numbers["probes"]:
        place, star = (r["tables"], r["property"]), " *" if r["holds_the_property"] else ""
        text = signed(r["r2"]) + star
        cells[place] = f"{cells[place]} <small>({text})</small>" if place in cells else text
    tables, properties = (list(dict.fromkeys(place[i] for place in cells)) for i in (0, 1))
    rows = [[escape(table), *(cells[table, quantity] for quantity in properties)] for table in tables]
    return (
        "<p>R² with single elements left out, in brackets with whole groups left out (*: a column of the table is the "
        "property itself):</p>" + _table(["table", *map(escape, properties)], rows, range(1, len(properties) + 1))
    )


def _seeds_table(numbers: dict[str, Any]) -> str:
    if not numbers["alignment_of_seeds"]:
        return ""
    rows = [
        [escape(" and ".join(pair["tables"])), signed(pair["value"]), signed(pair["chance"]), f"{pair['p']:.3g}"]
        for pair in numbers["alignment_of_seeds"]
    ]
    return (
        "<p>The axes of two seeds are unrelated. After one table is rotated and scaled onto the other (Procrustes "
        "analysis), they share this part of their variance:</p>"
        + _table(["seeds", "shared", "by chance", "p"], rows, [1, 2, 3])
    )


def _neighbours(numbers: dict[str, Any]) -> str:
    def listed(found: list[list[Any]]) -> str:
        return " ".join(f'<span class="one">{s} <small>{signed(cosine)}</small></span>' for s, cosine in found)

    rows = [
        [f"<b>{s}</b>", listed(found), listed(numbers["substitutes"][s])] for s, found in numbers["nearest"].items()
    ]
    return (
        '<h2 id="neighbours">Neighbours and substitutes</h2>\n<p>The most similar elements of each element, with '
        "the cosine of the angle between their centred vectors, and the most similar ones with a common oxidation "
        "state.</p>"
        '<p class="limits"><b>Note:</b> a substitute is a suggestion to try, not a prediction that the compound '
        "exists; size, site and charge balance in a real crystal are not considered.</p>"
        + _table(["", "nearest", "with a common oxidation state"], rows)
    )


def _footer(numbers: dict[str, Any]) -> str:
    return (
        f"<footer>crystalformers {escape(numbers['version'])}, seed {numbers['seed']}, {numbers['draws']} draws from "
        "each null model. Properties of the elements: pymatgen. All numbers of this page, and more, are in "
        "results.json.</footer>"
    )
