"""The seed of the split, more epochs, devices and threads, and what a run says about its end."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import invoke
from matplotlib.figure import Figure
from runs import ENERGY, GAP, Listener, recipe, table_of

from crystalformers.checkpoint import load_checkpoint
from crystalformers.cli import app
from crystalformers.errors import ConfigError
from crystalformers.training import fit, fit_ensemble, report
from crystalformers.training.dataset import Dataset
from crystalformers.training.recipe import accelerator_of
from crystalformers.training.state import Progress


def test_the_seed_of_the_split_leaves_the_weights_alone(tmp_path: Path) -> None:
    table = table_of(tmp_path, split=False)

    def ids(**seeds: int) -> dict[str, list[str]]:
        return Dataset.of(table, [ENERGY], recipe(**seeds)).ids

    assert ids(seed=1) == ids(seed=1, split_seed=1) == ids(seed=2, split_seed=1)
    assert ids(seed=1) != ids(seed=1, split_seed=2)
    same = fit(table, [ENERGY], tmp_path / "a", recipe(epochs=1, seed=1, average_epochs=0))
    other = fit(table, [ENERGY], tmp_path / "b", recipe(epochs=1, seed=3, split_seed=1, average_epochs=0))
    assert json.loads((tmp_path / "a/splits.json").read_text()) == json.loads((tmp_path / "b/splits.json").read_text())
    weights = [load_checkpoint(path).model.state_dict()["embedding.weight"] for path in (same, other)]
    assert not torch.allclose(*weights, atol=0.1)


def test_the_folds_follow_the_seed_of_the_split(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    settings = recipe(epochs=1, seed=5, split_seed=7)
    fit_ensemble(table, [ENERGY], tmp_path / "a", settings, 2)
    fit_ensemble(table, [ENERGY], tmp_path / "b", recipe(epochs=1, seed=7), 2)
    splits = [json.loads((tmp_path / name / "member-1" / "splits.json").read_text()) for name in ("a", "b")]
    assert splits[0] == splits[1]
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "b/model.safetensors").read_bytes()


@pytest.mark.parametrize("members", [1, 2])
def test_more_epochs_of_a_finished_run_are_refused_with_a_way_to_go_on(tmp_path: Path, members: int) -> None:
    table = table_of(tmp_path)

    def run(folder: str, **changes: Any) -> Path:
        if members == 1:
            return fit(table, [ENERGY], tmp_path / folder, recipe(**changes), resume=True)
        return fit_ensemble(table, [ENERGY], tmp_path / folder, recipe(**changes), members, resume=True)

    weights = run("run", epochs=1)
    before = weights.read_bytes()
    assert run("run", epochs=1, threads=2) == weights
    with pytest.raises(ConfigError, match=r"finished after 1 epoch and cannot go on to 3.*--init .*run with another"):
        run("run", epochs=3)
    with pytest.raises(ConfigError, match=r"cannot resume .*\(lr: 0.01 in the run, 0.02 now\)"):
        run("run", epochs=1, lr=0.02)
    assert weights.read_bytes() == before
    settings = {"init": str(tmp_path / "run"), "epochs": 1, "average_epochs": 1, "accelerator": "cpu", "lr": 1e-3}
    fit(table, [ENERGY], tmp_path / "on", recipe().parse(settings))


def test_an_early_stop_is_told_on_the_card_and_in_the_log(tmp_path: Path) -> None:
    listener = Listener()
    changes = {"epochs": 20, "average_epochs": 0, "lr": 1e-12, "early_stopping": 2, "precision": "bf16"}
    path = fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(**changes), observer=listener)
    ended = json.loads((tmp_path / "run" / "summary.json").read_text())["ended"]
    assert ended.startswith("stopped early after epoch")
    assert load_checkpoint(path).card["ended"] == ended
    assert any(ended in message for message in listener.messages)
    whole = fit(table_of(tmp_path), [ENERGY], tmp_path / "whole", recipe(epochs=1))
    assert load_checkpoint(whole).card["ended"] == "finished all 1 epoch"


def test_the_curves_are_those_of_the_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(report, "save", lambda figure, path: drawn.append(figure))
    history = [
        {"epoch": k + 1, "train_loss": 1 / (k + 1), "plain_val_loss": 2 / (k + 1), "val_loss": (2 - k // 3) / (k + 1)}
        for k in range(4)
    ]
    report.loss_plot(tmp_path / "loss.png", Progress(4, 1, epoch=4, history=history, best_epoch=3))
    (panel,) = drawn[0].axes
    curves = {str(line.get_label()): line.get_xydata().tolist() for line in panel.lines}
    assert curves["training loss"] == [[row["epoch"], row["train_loss"]] for row in history]
    assert curves["validation error"] == [[row["epoch"], row["plain_val_loss"]] for row in history]
    assert curves["validation error of averaged weights"] == [[4, history[3]["val_loss"]]]
    assert curves["best by validation"][0][0] == 4


def test_a_run_without_average_has_its_curves_too(tmp_path: Path) -> None:
    fit(table_of(tmp_path), [ENERGY, GAP], tmp_path / "run", recipe(epochs=2, average_epochs=0))
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_every_command_that_computes_takes_the_same_device_and_threads() -> None:
    commands = {command.name: command.callback for command in app.registered_commands}
    kinds = []
    for name in ("train", "crossval", "predict", "evaluate", "embed", "explain"):
        callback = commands[name]
        assert callback is not None
        parameters = inspect.signature(callback, eval_str=True).parameters
        kinds.append([(parameters[option].annotation, parameters[option].default) for option in ("device", "threads")])
    assert all(kind == kinds[0] for kind in kinds)


def test_threads_and_device_on_the_command_line(tmp_path: Path) -> None:
    table_of(tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe(epochs=1, accelerator="auto").to_yaml())
    options = ["--target", "energy", "--unit", "eV/atom", "--config", tmp_path / "recipe.yaml", "-o", tmp_path / "run"]
    before = torch.get_num_threads()
    try:
        result = invoke("train", tmp_path / "table.parquet", *options, "--device", "cpu", "--threads", 2)
        assert result.exit_code == 0, result.output
        assert "accelerator: cpu\n" in (tmp_path / "run" / "recipe.yaml").read_text()
        assert torch.get_num_threads() == 2
        torch.set_num_threads(1)
        result = invoke(
            "predict", tmp_path / "table.parquet", "-m", tmp_path / "run", "--device", "cpu", "--threads", 2
        )
        assert result.exit_code == 0, result.output
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    refused = invoke("train", tmp_path / "table.parquet", *options, "--device", "cuda:1")
    assert refused.exit_code == 2
    assert "CUDA_VISIBLE_DEVICES" in refused.stderr


def test_devices_of_training() -> None:
    assert (accelerator_of("cpu"), accelerator_of("cuda"), accelerator_of("cuda:0")) == ("cpu", "gpu", "gpu")
    with pytest.raises(ConfigError, match="not 'tpu'"):
        accelerator_of("tpu")
