"""Learning curves: budgets, exponents, and the table of the page."""

from __future__ import annotations

import math

import pytest

from benchmarks.accuracy.claims import CLAIMS
from benchmarks.accuracy.learning_curves import (
    TABLE,
    errors,
    errors_table,
    exponent,
    finished,
    recipe_for,
    settings,
)
from crystalformers import Recipe


@pytest.mark.parametrize("name", settings()["models"])
def test_small_tables_are_passed_more_often(name: str) -> None:
    known = settings()
    recipes = {rows: Recipe.parse(recipe_for(known, name, rows)) for rows in known["rows"]}
    for rows, recipe in recipes.items():
        assert recipe.epochs * math.ceil(rows / recipe.batch_size) >= known["least_steps"]
    assert recipes[1000].epochs > recipes[3000].epochs > recipes[31619].epochs == known["epochs"]


def test_a_run_of_the_claims_is_the_one_of_their_size() -> None:
    known, rows = settings(), CLAIMS.settings["data"]["training"]
    assert rows in known["rows"]
    assert recipe_for(known, "Crystalformer", rows) == CLAIMS.recipe_of("no frames")
    assert "Crystalformer" in {run["model"] for run in finished(known) if run["rows"]["train"] == rows}


def test_the_exponent_is_that_of_a_power_law() -> None:
    assert exponent({rows: [3 * rows**-0.4, 3 * rows**-0.4] for rows in (10, 100, 500)}) == pytest.approx(0.4)


def test_no_run_is_there_twice_and_all_have_the_recipe_of_their_size() -> None:
    known = settings()
    done = [(run["model"], run["rows"]["train"], run["seed"]) for run in finished(known)]
    assert len(done) == len(set(done))
    for run in finished(known):
        assert run["settings"] == recipe_for(known, run["model"], run["rows"]["train"])


def test_the_table_is_computed_from_the_runs() -> None:
    assert TABLE.read() == errors_table(errors()), "run python -m benchmarks.accuracy.learning_curves --table"
