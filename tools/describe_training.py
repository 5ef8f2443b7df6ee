"""Add to a weight file what newer versions write with every training: intervals, reference crystals, domain, lineage.

    python tools/describe_training.py crystalformers/bundled/materials-project.safetensors mp36k.parquet

The table must be the one that the model was trained on, with the same split. Intervals are calibrated on the validation
rows, so they are added only to weights that were averaged over their last epochs: these rows chose nothing. Weights,
targets and the rest of the card stay as they are.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from crystalformers import Recipe, evaluate_model, load_model, open_table
from crystalformers.checkpoint import save_model
from crystalformers.errors import ConfigError
from crystalformers.prediction.domain import Domain
from crystalformers.training import calibration, lineage
from crystalformers.training.dataset import Dataset

SAME = 1e-3
"""Largest relative difference between the errors on the card and those found again."""


def check_same(model_path: Path, table_path: Path) -> None:
    """Refuse a table on which the model does not have the test errors that its card states."""
    model = load_model(model_path)
    stated = model.card["errors"]["test"]
    for score in evaluate_model(model, open_table(table_path), "test").scores:
        expected = stated[score.target]
        if score.n != expected["n"] or abs(score.mae - expected["mae"]) > SAME * expected["mae"]:
            problem = f"{score.target}: MAE {score.mae:.5g} on {score.n} rows, on the card {expected['mae']:.5g}"
            raise ConfigError(problem, where=str(table_path), remedy="give the table that the model was trained on")


def describe(model_path: Path, table_path: Path) -> None:
    """Rewrite a weight file with what its training crystals were like."""
    check_same(model_path, table_path)
    model, table = load_model(model_path), open_table(table_path)
    recipe = Recipe.parse({key: value for key, value in model.card["recipe"].items() if key in Recipe.model_fields})
    if recipe.average_epochs < 1 or recipe.early_stopping is not None:
        raise ConfigError("these weights were chosen by validation rows", where=str(model_path))
    dataset = Dataset.of(table, model.targets, recipe)
    train = dataset.splits["train"]
    domain = Domain.of((table[row] for row in train.tolist()), {})
    held_out = calibration.learn_reference(model, dataset, recipe.seed)
    calibration.calibrate(model, dataset, dataset.splits["val"], held_out, recipe.seed)
    measured = calibration.measured_coverage(model, dataset, dataset.splits["test"])
    print(calibration.describe_coverage(measured, model.units))
    card = {**model.card, "domain": domain.to_dict(), **calibration.card_of(model, measured, "validation rows")}
    arrays = {**lineage.rows_seen(table, train), **calibration.arrays_of(model)}
    save_model(model_path, model.network, model.targets, card, arrays)
    print(f"{model_path}: {os.path.getsize(model_path) / 1e6:.2f} MB")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("table", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(2)
    describe(given.model, given.table)


if __name__ == "__main__":
    main()
