"""Several models at once: those of the same target are an ensemble of equals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from command import invoke, rows_of
from samples import CELL_ENERGY, ENERGY, MODULUS, many, rock_salt, write_table

from crystalformers import load_model
from crystalformers.checkpoint import save_model
from crystalformers.errors import ConfigError
from crystalformers.models import build_model
from crystalformers.prediction import forward
from crystalformers.prediction.intervals import Calibration
from crystalformers.prediction.several import Models
from crystalformers.target import Target

TINY = {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 16, "radial_functions": 8}


def model_file(
    path: Path, *targets: Target, seed: int = 0, architecture: str = "crystalformer", rows: int = 0, **card: Any
) -> Path:
    """A random model; with `rows` its intervals come from so many residuals of 0.1, 0.2..."""
    torch.manual_seed(seed)
    settings = TINY if architecture == "crystalformer" else {"dim": 8, "hidden": 8}
    residuals = Calibration.of(0.1 * np.arange(1.0, rows + 1)).to_dict()
    card |= {"calibration": {target.name: residuals for target in targets}} if rows else {}
    save_model(path, build_model(architecture, {**settings, "n_targets": len(targets)}), targets, card)
    return path


@pytest.fixture
def three(tmp_path: Path) -> list[Path]:
    """Energy alone; with a modulus; by another architecture with another radius and scale."""
    scaled = Target("energy", "eV/atom", "per_atom", mean=-1.0, std=0.5)
    return [
        model_file(tmp_path / "a.safetensors", ENERGY, seed=1),
        model_file(tmp_path / "b.safetensors", MODULUS, ENERGY, seed=2),
        model_file(tmp_path / "c.safetensors", scaled, CELL_ENERGY, seed=3, architecture="cgcnn"),
    ]


def test_the_mean_and_the_spread_are_those_of_the_single_predictions(three: list[Path]) -> None:
    crystals, single = many(7), [load_model(path) for path in three]
    rows = load_model(three).predict(crystals)
    values = np.array([[row.values["energy"] for row in model.predict(crystals)] for model in single])
    np.testing.assert_array_equal([row.values["energy"] for row in rows], values.mean(axis=0))
    np.testing.assert_array_equal([row.std["energy"] for row in rows], values.std(axis=0, ddof=1))
    modulus = [row.values["modulus"] for row in single[1].predict(crystals)]
    assert [row.values["modulus"] for row in rows] == modulus
    assert list(rows[0].std) == ["energy"]
    assert list(rows[0].units.items()) == [("energy", "eV/atom"), ("modulus", "GPa"), ("cell_energy", "eV")]


def test_images_are_computed_once_for_models_with_the_same_radius(three: list[Path]) -> None:
    models = load_model(three)
    assert models.models[0].radius == models.models[1].radius != models.models[2].radius
    counts = []
    for several in (models, Models(models.models[:2])):
        with patch.object(forward, "with_images", wraps=forward.with_images) as images:
            several.predict(many(5))
        counts.append(images.call_count)
    assert counts == [2, 1]


def test_different_units_or_bases_are_refused_with_both_named(tmp_path: Path) -> None:
    one = model_file(tmp_path / "a.safetensors", ENERGY)
    for field, other in (
        ("unit 'eV/atom', ", Target("energy", "kJ/mol", "per_atom")),
        ("basis 'per_atom'", Target("energy", "eV/atom", "intensive")),
    ):
        two = model_file(tmp_path / "b.safetensors", other, seed=1)
        with pytest.raises(ConfigError, match=rf"a\.safetensors' predicts energy with {field}.*b\.safetensors' with"):
            load_model([one, two])
    refused = invoke("predict", write_table(tmp_path / "t.parquet", many(2)), "-m", one, "-m", two)
    assert refused.exit_code == 2
    assert "'per_atom'" in refused.stderr
    assert "'intensive'" in refused.stderr


def test_a_model_named_twice_is_no_ensemble(three: list[Path]) -> None:
    with pytest.raises(ConfigError, match="both predict energy, and are the same"):
        load_model([three[0], three[0]])
    with pytest.raises(ConfigError, match="the list of models is empty"):
        load_model([])


def test_the_interval_is_the_mean_of_intervals_that_hold_together(tmp_path: Path) -> None:
    """With two models, those of coverage 0.95 for 0.9: the 19th and the 38th smallest of 0.1, 0.2..."""
    paths = [model_file(tmp_path / f"{rows}.safetensors", ENERGY, seed=rows, rows=rows) for rows in (19, 39)]
    models = load_model(paths)
    (row,) = models.predict(rock_salt())
    half = ENERGY.std * (1.9 + 3.8) / 2
    assert row.high["energy"] - row.values["energy"] == pytest.approx(half)
    assert row.values["energy"] - row.low["energy"] == pytest.approx(half)
    (narrow,) = models.predict(rock_salt(), coverage=0.5)  # 0.75 of each: ranks 15 and 30
    assert narrow.high["energy"] - narrow.low["energy"] == pytest.approx(2 * ENERGY.std * (1.5 + 3.0) / 2)
    with pytest.raises(ConfigError, match=r"19\.safetensors: coverage: .*coverage 0.98 needs 49 rows .*there are 19"):
        models.predict(rock_salt(), coverage=0.96)


def test_no_interval_without_those_of_all_models(tmp_path: Path) -> None:
    paths = [model_file(tmp_path / f"{rows}.safetensors", ENERGY, seed=rows, rows=rows) for rows in (19, 12, 0)]
    assert load_model(paths[:1]).doubt() == {"energy": ["low", "high"]}
    assert load_model(paths[:2]).doubt() == {"energy": ["std"]}  # 12 rows allow 0.9, but not 0.95
    assert load_model([paths[0], paths[2]]).doubt() == {"energy": ["std"]}
    with pytest.raises(ConfigError, match=r"0\.safetensors has no intervals of energy, so its ensemble"):
        load_model([paths[0], paths[2]]).predict(rock_salt(), coverage=0.9)
    with pytest.raises(ConfigError, match="between 0 and 1"):
        load_model(paths[:2]).predict(rock_salt(), coverage=0.0)


def test_intervals_that_hold_together_cover_as_often_as_promised() -> None:
    """Three predictors whose errors are shared in part, each with its own 99 calibration rows."""
    rng, covered, draws = np.random.default_rng(3), 0, 3000
    for _ in range(draws):
        errors = rng.standard_t(3, size=(3, 100)) + rng.normal(size=100)
        widths = [Calibration.of(one[:-1]).half_width(1 - 0.1 / 3) for one in errors]
        covered += abs(errors[:, -1].mean()) <= np.mean(widths)
    assert covered / draws >= 0.9 - 3 * np.sqrt(0.09 / draws)


def test_flags_say_which_model_is_meant(tmp_path: Path) -> None:
    paths = [
        model_file(tmp_path / "a.safetensors", ENERGY, seed=1, element_counts={"Na": 9, "Cl": 9}),
        model_file(tmp_path / "b.safetensors", ENERGY, seed=2, element_counts={"Na": 9}),
    ]
    assert load_model(paths).predict(rock_salt())[0].flag == f"{paths[1]}: no training crystal holds Cl"


def test_an_ensemble_of_files_on_the_command_line_goes_on_after_an_interruption(
    three: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crystalformers.prediction import predictor

    monkeypatch.setattr(predictor, "WINDOW", 4)
    table = write_table(tmp_path / "t.parquet", many(10))
    command = ["predict", table, *(word for path in three for word in ("-m", path))]
    assert invoke(*command, "-o", tmp_path / "whole.csv").exit_code == 0
    original, calls = predictor.predict_window, []

    def stopped(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*given)

    with monkeypatch.context() as context:
        context.setattr(predictor, "predict_window", stopped)
        assert invoke(*command, "-o", tmp_path / "out.csv").exit_code == 130
    assert invoke(*command, "-o", tmp_path / "out.csv", "--resume").exit_code == 0
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    row = rows_of(tmp_path / "out.csv")[0]
    assert float(row["energy_std (eV/atom)"]) > 0
    assert invoke(*command, "-o", tmp_path / "out.json").exit_code == 0
    assert len(json.loads((tmp_path / "out.json").read_text())["models"]) == 3
