"""The papers' models by name: their sizes, that each runs, and that a recipe may start from one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from strategies import make_crystal

from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import architecture_of, build_model
from crystalformers.models.crystalformer import CrystalformerConfig
from crystalformers.models.presets import PRESETS, preset
from crystalformers.training.recipe import Recipe

PARAMETERS = {
    "crystalformer": 853_505,
    "crystalformer-simplified": 820_737,
    "crystalformer-7": 1_471_745,
    "crystalformer-8": 1_677_825,
    "crystalformer-dual-space": 837_121,
    "crystalformer-reciprocal": 820_737,
    "crystalformer-alternating": 837_121,
    "crystalframer": 951_809,
    "crystalframer-lightweight": 878_081,
    "crystalframer-weighted-pca": 951_809,
    "crystalframer-static-local": 951_809,
    "crystalframer-pca": 951_809,
    "crystalframer-lattice": 951_809,
    "crystalframer-8": 1_874_433,
    "crystaltransformer": 853_889,
    "crystaltransformer-composition": 820_609,
    "crystaltransformer-published": 4_263_297,
}
"""Trainable numbers of each preset, for one target."""

PUBLISHED = {
    "crystalformer": 853_517,
    "crystalformer-simplified": 820_749,
    "crystalformer-7": 1_471_766,
    "crystalformer-8": 1_677_849,
    "crystalframer": 951_821,
    "crystalframer-lightweight": 878_093,
    "crystalframer-8": 1_874_457,
}
"""Numbers of parameters as the authors count them: with three scalars per block that are not trained (two width
statistics and one that is never used)."""

UNUSED = {"crystalformer-dual-space": 4 * 4 * 16 * 64, "crystalformer-alternating": 2 * 8 * 16 * 64}
"""Value encoding that reciprocal heads do not have, as many numbers fewer than in `crystalformer`. The authors allocate
it, and never use it."""


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_runs_and_has_its_size(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(architecture_of(preset(name)), asdict(preset(name)))
    assert parameters(model) == PARAMETERS[name]
    crystals = [make_crystal("random", n_atoms=2, seed=seed) for seed in (0, 1)]
    batch = with_images(CrystalBatch.from_crystals(crystals), model.radius(1e-2), directions=model.needs_directions)
    batch = batch.to(torch.float32)
    model.calibrate(batch)
    with torch.no_grad():
        predictions = model.eval()(batch)
    assert predictions.shape == (2, 1)
    assert predictions.isfinite().all()
    assert predictions[0] != predictions[1]


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_the_published_ones(name: str) -> None:
    assert PARAMETERS[name] == PUBLISHED[name] - 3 * preset(name).blocks


@pytest.mark.parametrize("name", UNUSED)
def test_reciprocal_heads_carry_no_value_encoding(name: str) -> None:
    assert PARAMETERS[name] == PARAMETERS["crystalformer"] - UNUSED[name]


def test_lightweight_settings_are_those_of_the_paper() -> None:
    config = preset("crystalframer-lightweight")
    assert (config.frame, config.angular_functions, config.angular_width) == ("max", 16, 1.0)
    assert (config.distance_coefficient, config.angle_coefficient) == (1.5, 6.0)
    assert preset("crystalformer") == CrystalformerConfig()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("crystalframer-lite", "did you mean 'crystalframer-"),
        ("Crystalformer", "did you mean 'crystalformer'"),
        ("crystalformer-dualspace", "did you mean 'crystalformer-dual-space'"),
        ("cgcnn", "known are crystalformer, "),
    ],
)
def test_a_typo_is_named(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        preset(name)


class TestRecipe:
    def test_a_recipe_starts_from_a_preset(self) -> None:
        recipe = Recipe.parse({"preset": "crystalframer-lightweight", "model": {"blocks": 2}})
        assert recipe.model["frame"] == "max"
        assert recipe.model["angular_functions"] == 16
        assert recipe.model["angle_coefficient"] == 6.0
        assert recipe.model["blocks"] == 2
        assert "n_targets" not in recipe.model

    def test_a_saved_recipe_names_every_setting_and_no_preset(self, tmp_path: Path) -> None:
        recipe = Recipe.parse({"preset": "crystalformer-dual-space", "model": {"sigma": 1.5}})
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe.to_yaml(), encoding="utf-8")
        assert "preset" not in recipe.to_yaml()
        assert "space: dual" in recipe.to_yaml()
        assert Recipe.load(path) == recipe
        assert recipe == Recipe.parse({"model": {"space": "dual", "sigma": 1.5}})

    def test_no_preset_is_the_first_paper(self) -> None:
        assert Recipe.parse({"preset": "crystalformer"}) == Recipe.parse({"preset": None}) == Recipe.parse({})

    @pytest.mark.parametrize("name", PRESETS)
    def test_every_preset_is_a_recipe(self, name: str) -> None:
        recipe = Recipe.parse({"preset": name})
        assert type(preset(name))(**recipe.model) == preset(name)
        expected = "crystaltransformer" if name.startswith("crystaltransformer") else "crystalformer"
        assert recipe.architecture == architecture_of(preset(name)) == expected

    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"preset": "crystalfomer"}, "recipe: Unknown preset 'crystalfomer'; did you mean 'crystalformer'"),
            ({"preset": 7}, "Unknown preset '7'"),
            ({"presets": "crystalformer"}, "Unknown setting 'presets'; did you mean 'preset'"),
            ({"preset": "crystalformer-reciprocal", "model": {"frame": "max"}}, "needs heads in real space"),
            ({"preset": "crystalformer", "model": {"dims": 3}}, "Unknown crystalformer setting 'dims'"),
        ],
    )
    def test_wrong_settings_are_named(self, settings: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            Recipe.parse(settings)
