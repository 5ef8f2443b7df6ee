"""The model that travels inside the package: what it says it is, and the numbers it must go on giving."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from crystalformers import evaluate_model, load_model, open_table
from crystalformers.elements import load_elements
from crystalformers.prediction import bundled
from crystalformers.prediction.bundled import find_weights
from crystalformers.prediction.evaluation import evaluate_rows

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("golden_predictions.json")
"""Predictions for the example crystals when the model was bundled, float32, by file name: a change of library versions
must not change them beyond rounding."""


def test_every_bundled_model_is_small_and_described() -> None:
    assert bundled.names()
    package = find_weights(bundled.names()[0]).parent
    assert sum(file.stat().st_size for file in package.rglob("*") if file.is_file()) < 25e6
    for name in bundled.names():
        assert find_weights(name).stat().st_size < 8e6
        model = load_model(name)
        assert model.card["data"]["name"]
        for target in model.targets:
            assert target.unit
            assert model.card["errors"]["test"][target.name]["mae"] > 0


def test_golden_predictions() -> None:
    golden = json.loads(GOLDEN.read_text())
    files = sorted((ROOT / "examples").glob("*.cif"))
    assert [file.name for file in files] == sorted(golden)
    for prediction, file in zip(load_model().predict(files), files, strict=True):
        for target, value in golden[file.name].items():
            assert prediction.values[target] == pytest.approx(value, abs=2e-5), (file.name, target)


def test_the_bundled_model_tells_which_elements_it_has_seen() -> None:
    table = load_elements("materials-project")
    assert table.counts is not None
    assert len(table) == 87
    assert (table.counts > 0).all()
    assert "Po" not in table


@pytest.mark.shared
@pytest.mark.parametrize("name", ["materials-project", "formation-energy", "materials-project-ensemble"])
def test_the_error_on_the_card_is_the_error_of_the_model(name: str, shared: Path) -> None:
    model = load_model(name, tolerance=1e-5)
    evaluation = evaluate_model(model, open_table(shared / "data" / "mp36k.parquet"), "test")
    limits = {"formation_energy_per_atom": 0.080, "band_gap": 0.50}
    for score in evaluation.scores:
        assert score.n == 1119
        assert score.mae < limits[score.target]
        np.testing.assert_allclose(score.mae, model.card["errors"]["test"][score.target]["mae"], rtol=1e-3)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["perovskites", "phonons"])
def test_the_error_on_the_card_is_that_on_fold_0_of_matbench(name: str, shared: Path) -> None:
    model, table = load_model(name, tolerance=1e-5), open_table(shared / "data" / f"matbench_{name}.parquet")
    rows = np.flatnonzero(table.labels("matbench_fold") == 0).tolist()
    (score,) = evaluate_rows(model, table, "fold 0", rows).scores
    on_card = model.card["errors"]["test"][score.target]
    assert score.n == on_card["n"] == len(rows)
    np.testing.assert_allclose(score.mae, on_card["mae"], rtol=1e-3)
