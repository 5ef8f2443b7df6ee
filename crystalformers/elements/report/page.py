"""The page of a report: one HTML file with its pictures inside, which needs no network."""

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
"""Overlap above which a family counts as stable (Hennig 2007)."""

CSS_DPI = 96
"""Pixels of a page in an inch."""

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
    """The page as text.

    Args:
        study: what was found.
        numbers: the same as `results.results` gives it.
        pictures: in order.
    """
    extras = {
        "families": _families_table(study, numbers),
        "number": _agreement_table(numbers),
        "probes": _probes_table(numbers),
        "likeness": _seeds_table(numbers),
    }
    sections = [
        f'<h2 id="{p.name}">{escape(p.caption.title)}</h2>\n<p>{escape(p.caption.shows)}</p>\n{_image(p)}\n'
        f'<p class="limits"><b>Mind:</b> {escape(p.caption.limits)}</p>\n{extras.get(p.name, "")}'
        for p in pictures
    ]
    links = [(p.name, p.caption.title) for p in pictures] + [("neighbours", "Neighbours and substitutes")]
    contents = " ".join(f'<a href="#{name}">{escape(title)}</a>' for name, title in links)
    title = f"Elements as {study.subject.name} sees them"
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{CSS}</style></head>\n<body>\n<h1>{escape(title)}</h1>\n{_introduction(study)}\n<nav>{contents}</nav>\n"
        f"{''.join(sections)}\n{_neighbours(numbers)}\n{_footer(numbers)}\n</body></html>\n"
    )


def _image(picture: Picture) -> str:
    data = base64.b64encode(picture.content).decode()
    # Bytes 16 to 19 of a PNG are its width; pictures then keep their relative sizes, and with them one size of type.
    width = round(int.from_bytes(picture.content[16:20]) * CSS_DPI / DPI)
    return f'<img src="data:image/png;base64,{data}" alt="{escape(picture.caption.title)}" width="{width}">'


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], numeric: Sequence[int] = ()) -> str:
    """An HTML table; cells are HTML already, columns `numeric` stand right."""

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
        f"<p>{len(study.numbers)} elements, {subject.dim} numbers each{seeds}. Beside it stand: {escape(others)}; "
        f"comparisons use the {len(study.shared)} elements that all tables hold.</p>"
        + (f"<details><summary>About the table</summary><table>{about}</table></details>" if facts else "")
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
        "<p>Overlap: how much of a family returns, on average, when a fifth of the elements is left out "
        f"(Jaccard index; above {STABLE} it counts as stable). The most typical members stand first.</p>"
    )
    dense = " · ".join(" ".join(members) for members in numbers["families"]["hdbscan"]) or "none"
    by_density = f"<p>Families that stand out by density alone (HDBSCAN; all other elements are in none): {dense}.</p>"
    return _table(["family", "elements", "overlap", ""], rows, [2]) + note + by_density


def _agreement_table(numbers: dict[str, Any]) -> str:
    families = numbers["families"]
    words = {
        "k-means": "k-means, as many families",
        "HDBSCAN": "HDBSCAN, for the elements that it puts in a family",
        "all directions": "Ward's tree in all directions instead of the leading ones",
        "whitened": "Ward's tree with all leading directions of equal weight",
        "block": "block of the periodic table",
        "group": "group of the periodic table",
        "period": "period of the periodic table",
    }
    rows = [[escape(words[k]), signed(v["ari"]), f"{v['p']:.3g}"] for k, v in families["agreement"].items()]
    rows += [
        [escape(" and ".join(pair["tables"])) + ", families of each", signed(pair["ari"]), f"{pair['p']:.3g}"]
        for pair in families["seeds"]
    ]
    chance = "; ".join(f"{null}: p = {p:.3g}" for null, p in families["silhouette_p"].items())
    lone = "" if families["seeds"] else "<p>No other seed was given; another training may divide otherwise.</p>"
    return (
        f"<p>The silhouette criterion takes {families['number_by_silhouette']} families, the gap statistic "
        f"{families['number_by_gap']}; shown are {families['number']}. How often chance gives as sharp a division "
        f"({escape(chance)}). Agreement with other ways to divide the elements, as adjusted Rand index (1 the same, 0 "
        f"chance), with the share of permutations that reach it:</p>"
        + _table(["the families against", "index", "p"], rows, [1, 2])
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
        "are predicted as well. * the table holds the property.</p>"
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
        "<p>R² with each element left out, in brackets with whole groups left out; * the table holds the property:</p>"
        + _table(["table", *map(escape, properties)], rows, range(1, len(properties) + 1))
    )


def _seeds_table(numbers: dict[str, Any]) -> str:
    if not numbers["alignment_of_seeds"]:
        return ""
    rows = [
        [escape(" and ".join(pair["tables"])), signed(pair["value"]), signed(pair["chance"]), f"{pair['p']:.3g}"]
        for pair in numbers["alignment_of_seeds"]
    ]
    return (
        "<p>Coordinates of two seeds have nothing to do with each other. Once one cloud of elements is turned and "
        "scaled onto the other (Procrustes), they share this part of their variance:</p>"
        + _table(["seeds", "shared", "by chance", "p"], rows, [1, 2, 3])
    )


def _neighbours(numbers: dict[str, Any]) -> str:
    def listed(found: list[list[Any]]) -> str:
        return " ".join(f'<span class="one">{s} <small>{signed(cosine)}</small></span>' for s, cosine in found)

    rows = [
        [f"<b>{s}</b>", listed(found), listed(numbers["substitutes"][s])] for s, found in numbers["nearest"].items()
    ]
    return (
        '<h2 id="neighbours">Neighbours and substitutes</h2>\n<p>The elements most like each one, with the cosine '
        "between their centred vectors, and the most alike among those that share a common oxidation state with it.</p>"
        '<p class="limits"><b>Mind:</b> a substitute is a suggestion to try, no promise that the compound exists; '
        "size, site and charge balance of a real crystal are not looked at.</p>"
        + _table(["", "nearest", "with a common oxidation state"], rows)
    )


def _footer(numbers: dict[str, Any]) -> str:
    return (
        f"<footer>crystalformers {escape(numbers['version'])}, seed {numbers['seed']}, {numbers['draws']} draws of "
        "every null. Properties of the elements: pymatgen. All numbers of this page, and more, are in results.json."
        "</footer>"
    )
