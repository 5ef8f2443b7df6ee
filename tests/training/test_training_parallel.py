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
from crystalformers.training.observer import Observer
from crystalformers.training.recipe import Recipe
from crystalformers.training.state import Progress

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
TORCHRUN_PROGRAM = """
import json, sys
from pathlib import Path
from crystalformers.data.table import open_table
from crystalformers.target import Target
from crystalformers.training import Observer, Recipe, fit

class Stop(Observer):
    def step(self, progress):
        if progress.step == int(stop):
            raise ZeroDivisionError

table, run, settings, stop = sys.argv[1:]
targets = [Target("energy", "eV/atom", "per_atom"), Target("gap", "eV")]
fit(open_table(table), targets, Path(run), Recipe.parse(json.loads(settings)), resume=True, observer=Stop())
"""
SETTINGS: dict[str, Any] = {
    "defaults": "published",  # Muon enlarges rounding of the shared gradients where there is hardly any gradient
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


def assert_equal_but_for_rounding(one: Path, two: Path) -> None:
    """Compare the errors of every epoch and all weights of two runs."""
    (one_metrics, one_weights), (two_metrics, two_weights) = outcome(one), outcome(two)
    assert len(one_metrics) == len(two_metrics) == SETTINGS["epochs"]
    errors = [name for name in one_metrics[0] if name.startswith(("val", "train_loss"))]
    assert errors, one_metrics[0].keys()
    for a, b in zip(one_metrics, two_metrics, strict=True):
        for name in errors:
            assert float(b[name]) == pytest.approx(float(a[name]), rel=1e-5), name
    assert one_weights.keys() == two_weights.keys()
    for name, weight in one_weights.items():
        if name.endswith("key.bias"):
            continue  # shifts all logits of an atom alike: its gradient is rounding alone, which AdamW blows up
        atol = 1e-4 * LARGEST if name.endswith("points") else 1e-5  # the coordinates of reference crystals are steps
        assert torch.allclose(two_weights[name], weight, rtol=1e-4, atol=atol), name


needs_gloo = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="NOT TESTED: PyTorch was built without gloo",
)


@needs_gloo
def test_two_processes_train_like_one(tmp_path: Path) -> None:
    """Same global batch, so the same gradients but for rounding."""
    crystals = many(24)
    energy = [float(crystal.numbers[0] % 7) for crystal in crystals]
    split = ["train"] * 16 + ["val"] * 4 + ["test"] * 4
    table = write_table(tmp_path / "table.parquet", crystals, energy=energy, split=split)
    fit(open_table(table), [Target("energy", "eV/atom", "per_atom")], tmp_path / "one", Recipe.parse(SETTINGS))
    shared = {**SETTINGS, "devices": 2}
    in_two_processes(table, tmp_path, {"two": shared, "cgcnn": {**shared, **CGCNN}})
    assert_equal_but_for_rounding(tmp_path / "one", tmp_path / "two")

    # Batch normalisation: each process has statistics of its own, but what is measured is what is saved.
    for weights in ("model.safetensors", "model-best.safetensors"):
        model = load_model(tmp_path / "cgcnn" / weights, tolerance=SETTINGS["tolerance"])
        for split, errors in model.card["errors"].items():
            (score,) = evaluate_model(model, open_table(table), split).scores
            assert score.mae == pytest.approx(errors["energy"]["mae"], rel=1e-4)


def with_torchrun(table: Path, run: Path, settings: dict[str, Any], processes: int, stop: int = 0) -> int:
    """Train in the processes that `torchrun` starts; its exit code."""
    program = run.parent / "torchrun.py"
    program.write_text(TORCHRUN_PROGRAM, encoding="utf-8")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *torchrun, str(program), str(table), str(run), json.dumps(settings), str(stop)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert (done.returncode == 0) == ("ZeroDivisionError" not in done.stderr), done.stderr
    return done.returncode


@needs_gloo
@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Shares of unequal size, with labels missing in some rows, give the loss of the whole batch."""
    crystals = many(26)
    energy = [None if k % 3 == 1 else float(crystal.numbers[0] % 7) for k, crystal in enumerate(crystals)]
    gap = [None if k % 4 == 0 else 0.1 * k for k in range(26)]
    split = ["train"] * 18 + ["val"] * 4 + ["test"] * 4
    table = write_table(tmp_path / "table.parquet", crystals, energy=energy, gap=gap, split=split)
    settings = {**SETTINGS, "batch_size": 5, "loss_balance": "targets", "checkpoint_steps": 1}
    targets = [Target("energy", "eV/atom", "per_atom"), Target("gap", "eV")]

    class Stop(Observer):
        def step(self, progress: Progress) -> None:
            if progress.step == 5:
                raise ZeroDivisionError

    def alone(run: str, **more: Any) -> None:
        fit(open_table(table), targets, tmp_path / run, Recipe.parse(settings), resume=True, **more)

    alone("one")
    assert with_torchrun(table, tmp_path / "fewer", settings, 2, stop=5) == 1
    alone("fewer")
    with pytest.raises(ZeroDivisionError):
        alone("more", observer=Stop())
    assert with_torchrun(table, tmp_path / "more", settings, 2) == 0
    assert with_torchrun(table, tmp_path / "more", settings, 2) == 0, "a finished run is left alone"
    for run in ("fewer", "more"):
        assert_equal_but_for_rounding(tmp_path / "one", tmp_path / run)
