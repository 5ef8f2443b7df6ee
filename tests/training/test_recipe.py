"""The recipe: its defaults, its files, and settings that are refused."""

from __future__ import annotations

import datetime
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from runs import recipe

from crystalformers.errors import ConfigError
from crystalformers.training import Recipe
from crystalformers.training.recipe import PUBLISHED
from crystalformers.training.yaml_settings import with_overrides


class TestRecipe:
    def test_published_defaults(self) -> None:
        published = Recipe.parse({"defaults": "published"})
        assert (published.optimizer, published.lr, published.betas, published.eps) == ("adamw", 5e-4, (0.9, 0.98), 1e-8)
        assert (published.weight_decay, published.clip_norm) == (1e-5, 1.0)
        assert (published.schedule, published.schedule_steps, published.warmup_steps) == ("inverse-sqrt", 4000, 0)
        assert (published.batch_size, published.epochs, published.average_epochs) == (128, 500, 50)
        assert (published.seed, published.precision, published.early_stopping) == (123, "32", None)
        assert published.model["dim"] == 128
        assert "n_targets" not in published.model

    def test_published_defaults_hold_for_what_is_left_out(self) -> None:
        mine = Recipe.parse({"defaults": "published", "epochs": 40, "lr": 0.1})
        assert (mine.epochs, mine.average_epochs, mine.lr, mine.batch_size) == (40, 4, 0.1, 128)
        assert Recipe.parse(mine.model_dump()) == mine

    def test_recommended_defaults(self) -> None:
        recommended = Recipe.parse({})
        assert Recipe.parse({"defaults": "recommended"}) == recommended == Recipe()
        assert {name: getattr(recommended, name) for name in PUBLISHED} == {
            "epochs": 100, "batch_size": 32, "optimizer": "muon", "lr": 1e-3, "schedule": "cosine", "warmup_steps": 250,
        }  # fmt: skip
        assert (recommended.average_epochs, recommended.momentum) == (10, 0.95)

    def test_average_is_a_tenth_of_the_epochs(self) -> None:
        assert Recipe.parse({"epochs": 40}).average_epochs == 4

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"epoch": 3}, "Unknown setting 'epoch'; did you mean 'epochs'"),
            ({"model": {"dims": 3}}, "Unknown crystalformer setting 'dims'; did you mean 'dim'"),
            ({"model": {"n_targets": 3}}, "n_targets follows from the targets"),
            ({"model": {"dim": "wide"}}, "dim = 'wide'"),
            ({"model": {"dim": 30}}, "multiple of heads"),
            ({"model": 3}, "'model' must be a mapping"),
            ({"lr": -1}, "lr = -1"),
            ({"defaults": "authors"}, "defaults = 'authors'"),
            ({"schedule": "linear"}, "schedule = 'linear'"),
            ({"epochs": 3, "average_epochs": 4}, "average_epochs = 4 exceeds epochs = 3"),
            ({"betas": [0.9, 1.0]}, r"betas = \(0.9, 1.0\) must lie"),
            ({"architecture": "transformer"}, "Architecture 'transformer'"),
        ],
    )
    def test_wrong_settings_are_named(self, settings: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            Recipe.parse(settings)

    def test_saved_recipe_reads_back(self, tmp_path: Path) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_text(recipe().to_yaml(), encoding="utf-8")
        assert Recipe.load(path) == recipe()
        assert Recipe.load(path, {"seed": 5}) == recipe(seed=5)

    @pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", "epochs: many\n", "1: 2\n"])
    def test_bad_files_are_named(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"recipe\.yaml"):
            Recipe.load(path)

    def test_shipped_recipes_are_valid(self) -> None:
        folder = Path(__file__).parents[2] / "recipes"
        assert Recipe.load(folder / "published.yaml") == Recipe.parse({"defaults": "published"})
        for path in folder.glob("*.yaml"):
            Recipe.load(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("epochs: 2026-13-45", "month must be in 1..12"),
        ("epochs: " + "9" * 5000, "4300 digits"),
        ("model: " + "[" * 5000, "too deep"),
        ("model: &a {x: *a}", "line 1: aliases such as"),
        ("a: &a [1, 2]\nb: [*a, *a]", "line 2: aliases such as"),
        ("epochs: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    ],
)
def test_text_that_yaml_cannot_hold_is_refused_in_a_sentence(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"recipe.yaml: not a YAML file .*{problem}"):
        Recipe.load(path)


VALUES = ({}, [], {"a": 1}, {1: 2}, [[1]], [{}], "x", "", 1e308, -1, 0, math.nan, math.inf, 10**400, True, [1, 2, 3])
PLACES = (*Recipe.model_fields, *(f"model.{name}" for name in Recipe.parse({"preset": "crystalframer"}).model))


@pytest.mark.parametrize("setting", [*PLACES, "init.model", "augment.jitter", "elements.table", "exclude.table"])
def test_any_value_of_any_setting_is_taken_or_refused_in_a_sentence(setting: str) -> None:
    for value in (*VALUES, datetime.date(2020, 1, 1), b"x"):
        with suppress(ConfigError):  # any other exception fails the test
            Recipe.parse(with_overrides({"preset": "crystalframer"}, {setting: value}))
