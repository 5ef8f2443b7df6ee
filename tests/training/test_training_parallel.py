"""Training in two processes that share every batch, against one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command import rows_of
from safetensors.torch import load_file
from samples import many, write_table

from crystalformers import load_model
from crystalformers.data.table import open_table
from crystalformers.prediction.evaluation import evaluate_model
from crystalformers.prediction.reference import LARGEST
from crystalformers.target import Target
from crystalformers.training.fit import fit
from crystalformers.training.recipe import Recipe

PROGRAM = """
import json, sys
from pathlib import Path
from crystalformers.data.table import open_table
from crystalformers.target import Target
from crystalformers.training.fit import fit
from crystalformers.training.recipe import Recipe

table, folder, runs = sys.argv[1:]
for name, settings in json.loads(runs).items():
    run = Path(folder) / name
    fit(open_table(table), [Target("energy", "eV/atom", "per_atom")], run, Recipe.parse(settings))
"""
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "average_epochs": 1,
    "batch_size": 4,
    "lr": 0.002,
    "threads": 1,
    "accelerator": "cpu",
    "tolerance": 1e-3,
    "model": {"dim": 16, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 8},
}


CGCNN = {"architecture": "cgcnn", "model": {"dim": 8, "hidden": 8, "convolutions": 1}}


def in_two_processes(table: Path, folder: Path, runs: dict[str, Any]) -> None:
    """Train as a program of its own, which Lightning Fabric starts a second time."""
    program = folder / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command = [sys.executable, str(program), str(table), str(folder), json.dumps(runs)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode == 0, done.stderr


def outcome(run: Path) -> tuple[list[dict[str, str]], dict[str, torch.Tensor]]:
    """The metrics of every epoch, and the weights, averaged ones and best ones."""
    files = {name: load_file(run / name) for name in ("model.safetensors", "model-best.safetensors")}
    weights = {f"{file} {name}": weight for file, tensors in files.items() for name, weight in tensors.items()}
    return rows_of(run / "metrics.csv"), weights


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="NOT TESTED: PyTorch was built without gloo",
)
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Same global batch, so the same gradients but for rounding."""
    crystals = many(24)
    energy = [float(crystal.numbers[0] % 7) for crystal in crystals]
    split = ["train"] * 16 + ["val"] * 4 + ["test"] * 4
    table = write_table(tmp_path / "table.parquet", crystals, energy=energy, split=split)
    fit(open_table(table), [Target("energy", "eV/atom", "per_atom")], tmp_path / "one", Recipe.parse(SETTINGS))
    shared = {**SETTINGS, "devices": 2}
    in_two_processes(table, tmp_path, {"two": shared, "cgcnn": {**shared, **CGCNN}})
    (one_metrics, one), (two_metrics, two) = (outcome(tmp_path / name) for name in ("one", "two"))
    assert len(one_metrics) == len(two_metrics) == SETTINGS["epochs"]
    errors = [name for name in one_metrics[0] if name.startswith(("val", "train_loss"))]
    assert errors, one_metrics[0].keys()
    for a, b in zip(one_metrics, two_metrics, strict=True):
        for name in errors:
            assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-5), name
    assert one.keys() == two.keys()
    for name, weight in one.items():
        if name.endswith("key.bias"):
            continue  # shifts all logits of an atom alike: its gradient is rounding alone, which AdamW blows up
        atol = 1e-4 * LARGEST if name.endswith("points") else 1e-5  # the coordinates of reference crystals are steps
        assert torch.allclose(two[name], weight, rtol=1e-4, atol=atol), name

    # Batch normalisation: each process has statistics of its own, but what is measured is what is saved.
    for weights in ("model.safetensors", "model-best.safetensors"):
        model = load_model(tmp_path / "cgcnn" / weights, tolerance=SETTINGS["tolerance"])
        for split, errors in model.card["errors"].items():
            (score,) = evaluate_model(model, open_table(table), split).scores
            assert score.mae == pytest.approx(errors["energy"]["mae"], rel=1e-4)
