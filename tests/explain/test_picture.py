"""Pictures of what a model attends to: drawn for every variant, line widths are weights, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explained import model_of
from strategies import SYMMETRIC_CRYSTALS as CRYSTALS

from crystalformers.errors import ConfigError
from crystalformers.explain import draw, explain


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
