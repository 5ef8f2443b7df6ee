"""Pictures: what is drawn where, and the one style of all."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from crystalformers.errors import ConfigError
from crystalformers.files import PICTURES
from crystalformers.plots import Pairs, coverage_curve, learning_curve, loss_curves, parity, power_law, save, style

SIZES = np.repeat([30.0, 100.0, 300.0], 2)
ERRORS = 3 * SIZES**-0.5


def grey(colour: str) -> float:
    """Lightness of a colour in a black and white print, 0 to 1."""
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114)))


def test_a_parity_plot_has_the_points_and_both_distributions() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.normal(size=50), rng.normal(size=50) + 1
    figure = parity([Pairs("energy", "eV/atom", truth, predicted, "test: MAE 1 eV/atom")])
    (panel,) = figure.axes
    above, right = panel.child_axes
    assert np.array_equal(panel.collections[0].get_offsets(), np.column_stack([truth, predicted]))
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("true energy (eV/atom)", "predicted energy (eV/atom)")
    assert above.get_title(loc="left") == "test: MAE 1 eV/atom"
    assert panel.get_xlim() == panel.get_ylim()
    for edge, values in ((above, truth), (right, predicted)):
        counts, edges, _ = edge.patches[0].get_data()
        assert np.array_equal(counts, np.histogram(values, edges)[0])
        assert counts.sum() == len(values)


@pytest.mark.parametrize("values", [np.array([]), np.array([2.0]), np.array([2.0, 2.0])])
def test_few_or_equal_points_are_drawn_too(values: np.ndarray, tmp_path: Path) -> None:
    save(parity([Pairs("energy", "eV", values, values), Pairs("gap", "eV", values, values)]), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_the_exponent_of_a_power_law_is_found() -> None:
    fitted = power_law(SIZES, ERRORS)
    assert fitted == pytest.approx((0.5, 3))
    assert power_law([30, 30], [1.0, 2.0]) is None
    assert power_law([30, 100], [1.0, 0.0]) is None


def test_a_learning_curve_shows_every_training_the_means_and_the_law() -> None:
    noisy = ERRORS * np.tile([0.9, 1.1], 3)
    figure = learning_curve({"energy": (SIZES, noisy), "gap": (SIZES, ERRORS)}, ["eV/atom", "eV"])
    first, second = figure.axes
    curves = {line.get_label(): line for line in first.lines}
    assert np.array_equal(curves["one training"].get_xydata(), np.column_stack([SIZES, noisy]))
    assert curves["mean over seeds"].get_ydata() == pytest.approx(ERRORS[::2])
    fitted = next(label for label in curves if label.startswith("error ∝"))
    assert fitted == "error ∝ rows^−0.50"
    assert second.get_ylabel() == "test error, MAE (eV)"
    assert [text.get_text() for text in first.get_xticklabels()] == ["30", "100", "300"]


def test_curves_can_be_told_apart_without_colours() -> None:
    epochs = [1, 2, 3]
    figure = loss_curves({name: (epochs, [1.0, 0.5, 0.4]) for name in ("a", "b", "c")}, 3, "finished")
    lines = figure.axes[0].lines[:3]
    assert len({line.get_linestyle() for line in lines}) == len(lines)
    assert figure.axes[0].lines[3].get_xdata()[0] == 3


def test_coverage_has_the_standard_error_of_a_share() -> None:
    nominal, share, count = np.array([0.5, 0.9]), np.array([0.55, 0.88]), np.array([100.0, 100.0])
    (panel,) = coverage_curve({"energy": (nominal, share, count)}).axes
    (bars,) = panel.containers
    lower, upper = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()]).T
    assert (upper - lower) / 2 == pytest.approx([0.05, 0.03])


def test_the_style_is_ours_whatever_the_user_has_set() -> None:
    with mpl.rc_context({"font.size": 30, "axes.spines.top": True}):
        figure = loss_curves({"a": ([1, 2], [1.0, 0.5])}, 1, "x")
        assert figure.axes[0].xaxis.label.get_fontsize() == style.FONT["font.size"]
        assert not figure.axes[0].spines["top"].get_visible()
        assert mpl.rcParams["font.size"] == 30


def test_neighbouring_colours_differ_in_grey_or_line() -> None:
    for (one, line), (other, next_line) in pairwise(zip(style.LINE_COLOURS, style.LINE_STYLES, strict=True)):
        assert line != next_line or abs(grey(one) - grey(other)) > 0.15
    assert len(set(style.LINE_COLOURS)) == len(style.LINE_COLOURS)


@pytest.mark.parametrize("suffix", PICTURES)
def test_equal_pictures_are_equal_files(suffix: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(loss_curves({"a": ([1, 2], [1.0, 0.5])}, 1, "x"), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.png, \.svg or \.pdf"):
        save(Figure(), tmp_path / "picture.bmp")
    assert list(tmp_path.iterdir()) == []
