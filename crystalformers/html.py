"""HTML as notebooks show objects, tables and crystals: every text is escaped, and nothing is loaded from elsewhere.

Shapes: N atoms of a crystal. Lengths in Angstrom.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from functools import cache
from html import escape
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).parent
LIBRARY = HERE / "serve" / "static" / "vendor" / "3Dmol-min.js"

MOST_ATOMS = 2000
"""A crystal with more is not drawn."""

FACE = 1e-3
"""Atoms that are as near to a face of the cell, in fractional coordinates, are drawn on the opposite one as well."""


def html_table(title: str, about: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A titled table.

    Args:
        title: in bold above the table.
        about: behind the title.
        header: names of the columns.
        rows: cells, which are shown as their text.
    """
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    caption = f"<div><b>{escape(title)}</b> {escape(about)}</div>"
    return f"<div>{caption}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def html_crystal(symbols: Sequence[str], frac_coords: NDArray[np.float64], lattice: NDArray[np.float64]) -> str:
    """A crystal in 3D, which the mouse turns; empty for one with more than `MOST_ATOMS`.

    It is a frame of its own with all that it needs, about 210 kB, so that it works without a network, wherever a
    notebook is opened, and whatever else is on its page.

    Args:
        symbols: of the atoms.
        frac_coords: fractional coordinates, (N, 3).
        lattice: lattice vectors as rows, (3, 3), Angstrom.
    """
    if len(symbols) > MOST_ATOMS:
        return ""
    wrapped = (frac_coords + FACE) % 1 - FACE
    copies = [(symbol, frac + shift) for symbol, frac in zip(symbols, wrapped, strict=True) for shift in SHIFTS]
    atoms = [(symbol, *np.round(frac @ lattice, 4).tolist()) for symbol, frac in copies if (frac < 1 + FACE).all()]
    crystal = json.dumps({"atoms": atoms, "lattice": np.round(lattice, 4).tolist()})
    document = (HERE / "view.html").read_text(encoding="utf-8")
    document = document.replace("{{ crystal }}", crystal).replace("{{ library }}", _library())
    style = "width: 100%; max-width: 30em; height: 22em; border: 0"
    frame = f'sandbox="allow-scripts" loading="lazy" title="The crystal in 3D" style="{style}"'
    return f'<iframe {frame} srcdoc="{escape(document)}"></iframe>'


SHIFTS = np.array(list(product((0, 1), repeat=3)), dtype=np.float64)


@cache
def _library() -> str:
    """3Dmol.js, compressed, in base64."""
    return base64.b64encode(zlib.compress(LIBRARY.read_bytes(), 9)).decode()
