"""What a run says of arguments that it cannot use, of another process in its folder, and of how it ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command import invoke
from samples import many, write_table

from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import CheckpointError, ConfigError, TableError, TargetError
from crystalformers.target import Target
from crystalformers.training import Observer, Recipe, fit
from crystalformers.training.state import Progress

TARGETS = [Target("energy", "eV")]


def table_in(folder: Path) -> CrystalTable:
    split = ["train"] * 8 + ["val"] * 2
    return open_table(write_table(folder / "t.parquet", many(10), energy=[0.1 * k for k in range(10)], split=split))


def recipe(**changes: Any) -> Recipe:
    model = {"dim": 4, "heads": 1, "blocks": 1, "feedforward": 4, "radial_functions": 2}
    usual = {"epochs": 2, "average_epochs": 0, "batch_size": 4, "threads": 1, "accelerator": "cpu", "tolerance": 1e-2}
    return Recipe.parse({**usual, "model": model, **changes})


class Messages(Observer):
    """Remembers what it hears."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def message(self, text: str) -> None:
        self.heard.append(text)


class StopAfter(Observer):
    """Ends a run after a step."""

    def __init__(self, step: int) -> None:
        self.last = step

    def step(self, progress: Progress) -> None:
        if progress.step == self.last:
            raise KeyboardInterrupt


def test_a_frame_or_path_given_to_fit_is_named_with_the_way_to_a_table(tmp_path: Path) -> None:
    table_in(tmp_path)
    run, path = tmp_path / "run", tmp_path / "t.parquet"
    frame: Any = pd.read_parquet(path)
    with pytest.raises(TableError, match=r"a DataFrame is no table of crystals; pass open_table\(frame\)"):
        fit(frame, TARGETS, run, recipe())
    with pytest.raises(TableError, match=r"a str is no table of crystals; pass open_table\(path\)"):
        fit(str(path), TARGETS, run, recipe())  # type: ignore[arg-type]
    assert not run.exists()


@pytest.mark.parametrize("targets", ["energy", ["energy"], TARGETS[0], None])
def test_targets_of_another_kind_are_refused(targets: Any, tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"pass \[Target\(column, unit\)\]"):
        fit(table_in(tmp_path), targets, tmp_path / "run", recipe())


def test_a_recipe_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a dict is no recipe; pass Recipe.parse\(settings\)"):
        fit(table_in(tmp_path), TARGETS, tmp_path / "run", {"epochs": 1})  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_an_absent_gpu_is_named_with_a_remedy_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"accelerator = gpu, devices = 1: .*; use accelerator: auto or cpu"):
        fit(table_in(tmp_path), TARGETS, tmp_path / "new" / "run", recipe(accelerator="gpu"))
    assert [path.name for path in tmp_path.iterdir()] == ["t.parquet"]


def test_how_a_run_ended_is_said_and_written(tmp_path: Path) -> None:
    said, early = Messages(), Messages()
    fit(table_in(tmp_path), TARGETS, tmp_path / "whole", recipe(), observer=said)
    assert "finished all 2 epochs" in said.heard[-1]
    assert json.loads((tmp_path / "whole" / "summary.json").read_text())["ended"] == "finished all 2 epochs"
    settings = {"epochs": 20, "lr": 1e-12, "early_stopping": 2, "precision": "bf16"}
    fit(table_in(tmp_path), TARGETS, tmp_path / "early", recipe(**settings), observer=early)
    ended = json.loads((tmp_path / "early" / "summary.json").read_text())["ended"]
    assert re.fullmatch(r"stopped early after epoch \d+ of 20: the validation error was smallest in epoch \d+", ended)
    assert ended in early.heard[-1]


def test_a_state_without_a_hash_is_refused(tmp_path: Path) -> None:
    table, run = table_in(tmp_path), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(table, TARGETS, run, recipe(checkpoint_steps=1), observer=StopAfter(1))
    torch.save(torch.load(run / "resume.pt", weights_only=True), run / "resume.pt")
    with pytest.raises(CheckpointError, match=r"resume\.pt: the state was saved by another version"):
        fit(table, TARGETS, run, recipe(checkpoint_steps=1), resume=True)


def test_a_second_training_in_one_folder_is_refused_with_the_process_that_has_it(tmp_path: Path) -> None:
    table, run = table_in(tmp_path), tmp_path / "run"
    (tmp_path / "recipe.yaml").write_text(recipe(epochs=100_000).to_yaml(), encoding="utf-8")
    options = ["--target", "energy", "--unit", "eV", "--config", tmp_path / "recipe.yaml", "-o", run]
    main = "from crystalformers.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", main, "train", tmp_path / "t.parquet", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as first:
        until = time.monotonic() + 120
        while not (run / "metrics.csv").exists() and time.monotonic() < until:
            time.sleep(0.05)
        for resume in (True, False):
            with pytest.raises(ConfigError, match=f"run is in use by process {first.pid} on .*; wait until it ends"):
                fit(table, TARGETS, run, recipe(), resume=resume)
        first.send_signal(signal.SIGTERM)
        said = first.communicate(timeout=120)[1]
    assert first.returncode == 143
    assert f"stopped by SIGTERM; the state is saved. Run the same command with --resume to continue in {run}." in said
    assert not (run / ".lock").exists()


def test_ctrl_c_in_the_final_evaluation_says_that_resume_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    table_in(tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe().to_yaml(), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    train = ["train", "t.parquet", "--target", "energy", "--unit", "eV", "--config", "recipe.yaml", "-o", "runs/int"]
    with monkeypatch.context() as patched:
        patched.setattr("crystalformers.training.report.parity_plot", interrupt)
        result = invoke(*train)
    assert result.exit_code == 130
    assert "Run the same command with --resume to continue in runs/int." in result.stderr
    assert invoke(*train, "--resume").stdout == "weights: runs/int/model.safetensors\n"
