"""Colours, fonts and file format of all pictures of a report; every palette is safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
INK, PALE, RULE = "#222222", "#eeeeee", "#999999"

FAMILY_COLOURS = (
    *("#88ccee", "#cc6677", "#ddcc77", "#117733", "#332288", "#aa4499"),
    *("#44aa99", "#999933", "#882255", "#e69f00", "#777777", "#ffccdd"),
)
"""For families of elements: Paul Tol's muted scheme and three more; families are numbered as well."""

BLOCK_COLOURS = {"s": "#e69f00", "p": "#0072b2", "d": "#009e73", "f": "#cc79a7"}
"""For blocks of the periodic table: the palette of Okabe and Ito."""

SUBJECT_COLOUR, OTHER_COLOUR, CONTROL_COLOUR = "#cc3311", "#4477aa", "#aaaaaa"
DIVERGING, SEQUENTIAL = "RdBu_r", "viridis_r"

FONT: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}


@contextmanager
def report_style() -> Iterator[None]:
    """Draw with the fonts and lines of a report within the block."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(FONT)
        yield


def family_colour(label: int) -> str:
    """Colour of a family of elements, grey for -1 (none); the colours repeat after twelve families."""
    return FAMILY_COLOURS[label % len(FAMILY_COLOURS)] if label >= 0 else PALE


def ink_on(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour (WCAG's relative luminance)."""
    from matplotlib.colors import to_rgb

    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return "#000000" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.18 else "#ffffff"


def signed(value: float, digits: int = 2) -> str:
    """A number with a typographic minus sign, and none before zero."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def png(figure: Figure) -> bytes:
    """The figure as a PNG file without date or version, so that equal figures give equal bytes."""
    content = BytesIO()
    figure.savefig(content, format="png", dpi=DPI, metadata={"Software": None}, facecolor="white")
    return content.getvalue()
