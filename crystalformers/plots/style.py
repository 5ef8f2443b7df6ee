"""Colours, fonts and file formats of all pictures; every palette is safe for colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalformers.errors import ConfigError
from crystalformers.files import PICTURES, write_atomically

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
LINE_COLOURS = (OTHER_COLOUR, SUBJECT_COLOUR, "#228833", "#ccbb44", "#66ccee", "#aa3377", "#777777")
"""For curves: Paul Tol's bright scheme."""

LINE_STYLES = ("-", "--", "-.", ":", "-", "--", "-.")
"""Of the curves, so that they can be told apart in grey."""

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
def plot_style() -> Iterator[None]:
    """Draw with the fonts and lines of the library within the block, whatever the user has set for other pictures."""
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


def check_suffix(path: Path) -> None:
    """Refuse a file name that is not that of a picture.

    Raises:
        ConfigError: naming the formats.
    """
    if path.suffix not in PICTURES:
        raise ConfigError(f"a picture must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}", where=str(path))


def save(figure: Figure, path: Path, dpi: int = DPI) -> None:
    """Write a picture, whole or not at all; the format follows from the suffix.

    Raises:
        ConfigError: if it is none of `PICTURES`.
    """
    check_suffix(path)
    write_atomically(path, _content(figure, path.suffix[1:], dpi))


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    return _content(figure, "png", DPI)


def _content(figure: Figure, kind: str, dpi: int) -> bytes:
    """A file without date or version, so that equal figures give equal bytes."""
    import matplotlib as mpl

    content = BytesIO()
    undated: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with mpl.rc_context({"svg.hashsalt": "crystalformers"}):  # random by default
        figure.savefig(content, format=kind, dpi=dpi, metadata=undated, facecolor="white")
    return content.getvalue()
