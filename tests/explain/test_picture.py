"""Pictures of what a model attends to: drawn for every variant, line widths are weights, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained import model_of
from strategies import SYMMETRIC_CRYSTALS as CRYSTALS

from crystalformers.errors import ConfigError
from crystalformers.explain import draw, draw_gallery, explain


@pytest.mark.parametrize(
    ("variant", "name", "settings"),
    [
        ("max", "rock salt", {}),
        ("weighted-pca", "hexagonal", {"head": 2, "block": 0}),
        ("dual", "low", {}),
        ("alternating", "low", {}),
        ("max", "alone", {}),
    ],
)
def test_a_picture_is_drawn(variant: str, name: str, settings: dict[str, int], tmp_path: Path) -> None:
    draw(explain(model_of(variant), CRYSTALS[name], 0), 0, tmp_path / "atom.png", **settings)
    assert (tmp_path / "atom.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["atom.png"]


def test_line_width_is_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crystalformers.explain import picture, scene

    explanation = explain(model_of("real"), CRYSTALS["low"], 0, 1)
    drawn: list[float] = []

    def record(axes: Any, ends: Any, width: float, colour: str) -> None:
        drawn.append(width)

    monkeypatch.setattr(picture, "_paint_line", record)
    draw(explanation, 0, tmp_path / "atom.svg", head=2)
    seen = explanation.of(0, 1).real
    assert seen is not None
    weight = seen.weight[1:, 2]
    expected = sorted(w / weight.max() * picture.WIDEST_LINE for w in weight if w >= scene.LEAST_SHOWN * weight.max())
    assert len(expected) > 3
    np.testing.assert_allclose(sorted(drawn), expected, rtol=1e-9)


def test_pictures_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    explanation = explain(model_of("dual"), CRYSTALS["low"])
    with pytest.raises(ConfigError, match=r"must end in \.png, \.svg or \.pdf"):
        draw(explanation, 0, tmp_path / "atom.gif")
    with pytest.raises(ConfigError, match="Head 2 has no images to draw; real heads of block 1: 0, 1"):
        draw(explanation, 0, tmp_path / "atom.png", head=2)
    with pytest.raises(ConfigError, match="no atom 7"):
        draw(explanation, 7, tmp_path / "atom.png")
    with pytest.raises(ConfigError, match="Block 1 has only reciprocal heads"):
        draw(explain(model_of("alternating"), CRYSTALS["low"]), 0, tmp_path / "atom.png", block=1)
    with pytest.raises(ConfigError, match="no atom 0 with a real head"):
        draw(explain(model_of("reciprocal"), CRYSTALS["low"]), 0, tmp_path / "atom.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("variant", "heads"), [("max", 4), ("weighted-pca", 4), ("dual", 2), ("real", 4)])
def test_a_gallery_has_a_panel_for_each_block_and_head(
    variant: str, heads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crystalformers.explain import gallery

    drawn: list[Any] = []
    framed: list[Any] = []
    monkeypatch.setattr(gallery, "save", lambda figure, path: drawn.append(figure))
    monkeypatch.setattr(gallery, "paint_frame", lambda panel, frame, *_: framed.append(frame))
    explanation = explain(model_of(variant), CRYSTALS["low"], 0)
    draw_gallery(explanation, 0, tmp_path / "gallery.png")
    panels = drawn[0].axes
    assert [panel.get_title().partition("\n")[0] for panel in panels] == [
        f"block {block}, head {head}" for block in (0, 1) for head in range(heads)
    ]
    for panel, (block, head) in zip(panels, ((b, h) for b in (0, 1) for h in range(heads)), strict=True):
        seen = explanation.of(0, block).real
        assert seen is not None
        assert f"σ {seen.sigma[head]:.2f} Å" in panel.get_title()
        assert panel.get_xlim() == panels[0].get_xlim()
    assert len(framed) == (2 * heads if variant in ("max", "weighted-pca") else 0)


def test_a_gallery_is_written(tmp_path: Path) -> None:
    draw_gallery(explain(model_of("alternating"), CRYSTALS["low"], 0), 0, tmp_path / "gallery.svg")
    assert "<svg" in (tmp_path / "gallery.svg").read_text(encoding="utf-8")


def test_galleries_that_cannot_be_drawn_are_refused(tmp_path: Path) -> None:
    explanation = explain(model_of("reciprocal"), CRYSTALS["low"])
    with pytest.raises(ConfigError, match=r"must end in \.png"):
        draw_gallery(explanation, 0, tmp_path / "gallery.gif")
    with pytest.raises(ConfigError, match="no atom 0 with a real head"):
        draw_gallery(explanation, 0, tmp_path / "gallery.png")
    assert not list(tmp_path.iterdir())


def test_weights_are_percentages_of_two_digits() -> None:
    from crystalformers.explain.picture import percent

    assert [percent(weight) for weight in (1.0, 0.998, 0.38, 0.097, 0.0019)] == [
        "100 %",
        "100 %",
        "38 %",
        "9.7 %",
        "0.19 %",
    ]
