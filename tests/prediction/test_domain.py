"""Flags: which crystals are unlike the training data, and what is said of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import invoke
from samples import ENERGY, many, rock_salt, supercell
from strategies import random_crystals

from crystalformers import load_model
from crystalformers.checkpoint import save_model
from crystalformers.errors import CheckpointError, StructureError
from crystalformers.models import build_model
from crystalformers.prediction.domain import Domain, shortest_distances
from crystalformers.prediction.reference import FLAG_PERCENTILE

TINY = {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 16, "radial_functions": 8}
KNOWN = Domain({"Na": 100, "Cl": 100, "K": 2, "O": 1}, (20.0, 30.0), 2.5)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    card = {"element_counts": KNOWN.element_counts, "domain": KNOWN.to_dict()}
    save_model(path, build_model("crystalformer", TINY), [ENERGY], card)
    return path


@pytest.mark.parametrize(
    ("crystal", "words"),
    [
        (rock_salt(), []),
        (rock_salt("K"), ["only 2 training crystals hold K"]),
        (rock_salt("Na", "O"), ["only 1 training crystal holds O"]),
        (rock_salt("Na", "Po"), ["no training crystal holds Po"]),
        (rock_salt(a=6.5), ["34.3 Å³ per atom, 20 to 30 in the training crystals"]),
        (rock_salt(a=4.8), ["13.8 Å³ per atom", "atoms 2.40 Å apart, 2.50 or more"]),
    ],
)
def test_what_is_unlike_the_training_data_is_said(crystal: Any, words: list[str]) -> None:
    (flag,) = KNOWN.flags([crystal])
    assert all(word in flag for word in words)
    assert bool(flag) == bool(words)
    assert KNOWN.flags([supercell(crystal, 3), rock_salt()])[1] == ""
    assert bool(KNOWN.flags([supercell(crystal, 3)])[0]) == bool(words)


def test_the_shortest_distance_is_that_of_all_images() -> None:
    crystals = random_crystals(6)
    for crystal, found in zip(crystals, shortest_distances(crystals, 6.0), strict=True):
        grid = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3), -1).reshape(-1, 3) @ crystal.lattice
        vectors = crystal.positions[:, None, None] - crystal.positions[None, :, None] + grid
        distances = np.linalg.norm(vectors, axis=-1)
        assert found == pytest.approx(distances[distances > 1e-9].min())
    assert np.isinf(shortest_distances([rock_salt()], 1.0)).all()


def test_members_that_disagree_give_a_flag() -> None:
    known = replace(KNOWN, spread={"gap": 0.2, "energy": 0.1})
    spreads = {"gap": np.array([0.1, 0.3, 0.3]), "energy": np.array([0.05, 0.05, 0.2]), "other": np.full(3, 9.0)}
    crystals = [rock_salt()] * 3
    one, two = (f"members agree less about {name} than for 97 % of held-out crystals" for name in ("gap", "energy"))
    assert known.flags(crystals, spreads=spreads) == ["", one, f"{one}; {two}"]
    assert KNOWN.flags(crystals, spreads=spreads) == [""] * 3
    assert Domain.from_card({"domain": known.to_dict()}).spread == known.spread
    assert "spread" not in KNOWN.to_dict()


def test_the_training_crystals_themselves_have_no_flag() -> None:
    crystals = many(24)
    counts = {symbol: 24 for crystal in crystals for symbol in crystal.symbols}
    domain = Domain.of(crystals, counts)
    assert domain.flags(crystals) == [""] * 24
    assert Domain.from_card(json.loads(json.dumps({"domain": domain.to_dict(), "element_counts": counts}))) == domain


@pytest.mark.parametrize(
    ("card", "words"),
    [
        ({"element_counts": ["Na"]}, r"element_counts: "),
        ({"domain": {"spread": {"gap": -1.0}}}, r"domain\.spread\.gap: "),
        ({"domain": {"spread": {"gap": float("nan")}}}, r"domain\.spread\.gap: "),
        ({"element_counts": {"Na": -1}}, r"element_counts\.Na: "),
        ({"element_counts": {"Xx": 1}}, "'Xx' is not the symbol of an element"),
        ({"domain": 3.0}, r"domain: "),
        ({"domain": {"volume_per_atom": [1.0]}}, r"domain\.volume_per_atom"),
        ({"domain": {"volume_per_atom": [1.0, float("nan")]}}, r"domain\.volume_per_atom\.1: "),
        ({"domain": {"shortest_distance": 1e9}}, r"domain\.shortest_distance: "),
        ({"domain": {"shortest_distance": "short"}}, r"domain\.shortest_distance: "),
    ],
)
def test_a_card_that_cannot_be_used_is_refused(card: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=f"card of the model.*{words}"):
        Domain.from_card(card)


def test_a_model_that_knows_nothing_flags_nothing() -> None:
    assert Domain.from_card({}).flags([rock_salt("Na", "Po")]) == [""]
    assert Domain.from_card({"element_counts": {"Na": 9}}).flags([rock_salt()]) == ["no training crystal holds Cl"]
    assert KNOWN.flags([]) == []


def test_the_bundled_model_flags_what_it_never_saw() -> None:
    fine, flagged = load_model().predict([rock_salt(), rock_salt("Na", "Po", 6.5)])
    assert not fine.flag
    assert "no training crystal holds Po" in flagged.flag


def test_strict_refuses_what_has_a_flag(weights: Path) -> None:
    model = load_model(weights)
    assert model.predict(rock_salt("K"))[0].flag == "only 2 training crystals hold K"
    with pytest.raises(StructureError, match="unlike the training data"):
        model.predict(rock_salt("K"), strict=True)
    assert list(model.predict([rock_salt(), rock_salt("K")], as_frame=True)["flag"]) == [
        "",
        "only 2 training crystals hold K",
    ]


def test_flags_on_the_command_line(weights: Path, tmp_path: Path) -> None:
    for name, element in (("good.vasp", "Na"), ("odd.vasp", "K")):
        (tmp_path / name).write_text(
            f"salt\n5.64\n0 .5 .5\n.5 0 .5\n.5 .5 0\n{element} Cl\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"
        )
    good, odd = tmp_path / "good.vasp", tmp_path / "odd.vasp"
    plain = invoke("predict", good, "-m", weights)
    assert "flag" not in plain.stdout.splitlines()[0]
    both = invoke("predict", good, odd, "-m", weights)
    assert both.exit_code == 0
    assert "only 2 training crystals hold K" in both.stdout
    assert "1 of 2 structures is unlike the training data" in both.stderr
    strict = invoke("predict", good, odd, "-m", weights, "--strict", "-o", tmp_path / "out.csv")
    assert strict.exit_code == 1
    assert "unlike the training data (only 2 training crystals hold K)" in strict.stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_help_and_pages_say_from_which_percentile_on_crystals_are_flagged() -> None:
    assert f"held-out crystals. Default: {FLAG_PERCENTILE:g}." in " ".join(invoke("predict", "--help").stdout.split())
    for page, words in (
        ("uncertainty", f"farther from the training crystals than those of {FLAG_PERCENTILE:g} % of held-out crystals"),
        ("screening", f"distance_percentile < {FLAG_PERCENTILE:g}"),
        ("tutorials/first-hour", f"above {FLAG_PERCENTILE:g} there is a flag"),
    ):
        assert words in " ".join((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").split()), page
