"""Training: runs, what is told of them, their data, their folder and its refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import invoke, rows_of
from runs import ENERGY, GAP, TINY, Listener, recipe, table_of
from samples import many, rock_salt, write_table

from crystalformers import load_model
from crystalformers.checkpoint import load_checkpoint
from crystalformers.data.table import open_table
from crystalformers.errors import CheckpointError, ConfigError, CrystalformersError, TableError, TargetError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.prediction.evaluation import evaluate_model
from crystalformers.target import Target
from crystalformers.training import Observer, Recipe, TrainingInterrupted, fit
from crystalformers.training.dataset import Dataset
from crystalformers.training.interruption import Signals
from crystalformers.training.state import Progress


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a finished run of two targets."""
    folder = tmp_path_factory.mktemp("finished")
    fit(table_of(folder), [ENERGY, GAP], folder / "run", recipe())
    return folder


class TestRun:
    def test_folder_holds_everything(self, finished: Path) -> None:
        files = {path.name for path in (finished / "run").iterdir()}
        described = {"recipe.yaml", "environment.json", "splits.json", "metrics.csv", "summary.json"}
        assert files == described | {"model.safetensors", "model-best.safetensors", "parity.png", "loss.png"}
        assert Recipe.load(finished / "run" / "recipe.yaml") == recipe()
        assert "/" not in (finished / "run" / "environment.json").read_text()

    def test_one_row_of_metrics_per_epoch(self, finished: Path) -> None:
        rows = rows_of(finished / "run" / "metrics.csv")
        assert [(row["epoch"], row["step"]) for row in rows] == [("1", "4"), ("2", "8"), ("3", "12")]
        assert float(rows[0]["lr"]) == pytest.approx(0.01 * np.sqrt(4000 / 4003))
        # The learning rate stands still while weights are averaged.
        assert rows[2]["lr"] == rows[1]["lr"]

    def test_errors_are_those_of_the_saved_weights(self, finished: Path) -> None:
        table = open_table(finished / "table.parquet")
        checkpoint = load_checkpoint(finished / "run" / "model.safetensors")
        rows = [row for row, split in enumerate(table.split or []) if split == "test"]
        batch = CrystalBatch.from_crystals([table[row] for row in rows])
        batch = with_images(batch, checkpoint.model.radius(1e-3)).to(torch.float32)
        with torch.no_grad():
            predicted = checkpoint.model(batch).numpy()
        summary = json.loads((finished / "run" / "summary.json").read_text())
        assert checkpoint.card["errors"] == summary["errors"]
        for k, target in enumerate(checkpoint.targets):
            error = np.abs(target.physical(predicted[:, k], 1) - table.labels(target.name)[rows])
            measured = summary["errors"]["test"][target.name]
            assert measured["mae"] == pytest.approx(np.nanmean(error), rel=1e-4)
            assert measured["n"] == np.isfinite(error).sum()
        last = rows_of(finished / "run" / "metrics.csv")[-1]
        assert float(last["val_mae_gap (eV)"]) == pytest.approx(summary["errors"]["val"]["gap"]["mae"], rel=1e-4)

    def test_scale_comes_from_the_training_split(self, finished: Path) -> None:
        table = open_table(finished / "table.parquet")
        target = load_checkpoint(finished / "run" / "model.safetensors").targets[1]
        labels = table.labels("gap")[:16]
        assert target.mean == pytest.approx(np.nanmean(labels))
        assert target.std == pytest.approx(np.nanstd(labels))

    def test_splits_are_recorded(self, finished: Path) -> None:
        splits = json.loads((finished / "run" / "splits.json").read_text())
        assert splits["test"] == [f"x{k}" for k in range(20, 24)]
        assert len(splits["train"]) == 16

    def test_learns(self, tmp_path: Path) -> None:
        fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(epochs=30, model={**TINY, "dim": 16}))
        rows = rows_of(tmp_path / "run" / "metrics.csv")
        assert float(rows[-1]["train_loss"]) < 0.5 * float(rows[0]["train_loss"])

    def test_image_budget_changes_no_bit_and_the_seed_does(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        base = fit(table, [ENERGY], tmp_path / "a", recipe()).read_bytes()
        other = recipe(image_cache_gb=0.0)
        rebuilt = load_checkpoint(fit(table, [ENERGY], tmp_path / "b", other)).model.state_dict()
        for name, tensor in load_checkpoint(tmp_path / "a" / "model.safetensors").model.state_dict().items():
            assert torch.equal(tensor, rebuilt[name])
        assert fit(table, [ENERGY], tmp_path / "c", recipe(seed=5)).read_bytes() != base

    def test_bf16_and_early_stopping(self, tmp_path: Path) -> None:
        changes = {"epochs": 20, "average_epochs": 0, "lr": 1e-12, "early_stopping": 2, "precision": "bf16"}
        fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(**changes))
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        rows = rows_of(tmp_path / "run" / "metrics.csv")
        assert summary["stopped_early"]
        assert len(rows) == summary["epochs"] < 20

    def test_both_sets_of_weights_are_measured(self, tmp_path: Path) -> None:
        """The best epoch by validation is one of those whose weights are averaged, too."""
        settings = recipe(epochs=8, average_epochs=5)
        average = fit(table_of(tmp_path), [ENERGY], tmp_path / "run", settings)
        best = average.with_name("model-best.safetensors")
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        rows = rows_of(tmp_path / "run" / "metrics.csv")
        for row in rows[:3]:
            assert row["plain_val_loss"] == row["val_loss"]
            assert row["plain_val_mae_energy (eV/atom)"] == row["val_mae_energy (eV/atom)"]
        assert all(row["plain_val_loss"] != row["val_loss"] for row in rows[4:])
        plain = [float(row["plain_val_mae_energy (eV/atom)"]) for row in rows]
        assert summary["best"]["epoch"] == plain.index(min(plain)) + 1 > 3
        assert summary["best"]["errors"]["val"]["energy"]["mae"] == pytest.approx(min(plain), rel=1e-4)
        assert summary["weights"] == "average over the last 5 epochs"
        for path, said in ((average, summary), (best, summary["best"])):
            card = load_checkpoint(path).card
            assert (card["errors"], card["weights"]) == (said["errors"], said["weights"])
            measured = evaluate_model(load_model(path, tolerance=1e-3), open_table(tmp_path / "table.parquet"))
            assert measured.scores[0].mae == pytest.approx(said["errors"]["test"]["energy"]["mae"], rel=1e-4)
        assert load_model(tmp_path / "run").fingerprint == load_model(average).fingerprint

    def test_best_epoch_is_kept_without_averaging(self, tmp_path: Path) -> None:
        fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(epochs=8, average_epochs=0, lr=0.1))
        best = min(float(row["val_mae_energy (eV/atom)"]) for row in rows_of(tmp_path / "run" / "metrics.csv"))
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["errors"]["val"]["energy"]["mae"] == pytest.approx(best, rel=1e-4)
        assert summary["best"]["errors"] == summary["errors"]
        assert not (tmp_path / "run" / "model-best.safetensors").exists()

    def test_a_target_without_labels_in_a_split_has_no_error(self, tmp_path: Path) -> None:
        table = table_of(tmp_path, late=[float(k) if k < 18 else None for k in range(24)])
        listener = Listener()
        fit(table, [ENERGY, Target("late", "eV")], tmp_path / "run", recipe(), observer=listener)
        errors = json.loads((tmp_path / "run" / "summary.json").read_text())["errors"]
        assert errors["test"]["late"] == {"mae": None, "rmse": None, "n": 0, "unit": "eV"}
        assert errors["val"]["late"]["n"] == 2
        assert "energy" in listener.messages[-1]
        assert "late" not in listener.messages[-1]

    def test_per_cell_and_log_targets(self, tmp_path: Path) -> None:
        cell = [10.0 * len(crystal) + k for k, crystal in enumerate(many(24))]
        table = table_of(tmp_path, cell=cell, modulus=[10.0 ** (k % 3) for k in range(24)])
        targets = [Target("cell", "eV", "per_cell"), Target("modulus", "GPa", transform="log10")]
        fit(table, targets, tmp_path / "run", recipe())
        assert set(json.loads((tmp_path / "run" / "summary.json").read_text())["errors"]["test"]) == {"cell", "modulus"}


class TestObserver:
    def test_hears_steps_and_epochs_in_order(self, tmp_path: Path) -> None:
        listener = Listener()
        fit(table_of(tmp_path), [ENERGY, GAP], tmp_path / "run", recipe(epochs=2), observer=listener)
        steps = ["step 1", "step 2", "step 3", "epoch 1", "step 5", "step 6", "step 7", "epoch 2"]
        assert listener.calls == ["begin energy, gap", *steps, "end"]
        assert "2 epochs of 4 batches" in listener.messages[1]
        assert "test MAE energy: " in listener.messages[2]

    def test_hears_the_end_of_a_failed_run(self, tmp_path: Path) -> None:
        listener = Listener(fail_after=2)
        with pytest.raises(ZeroDivisionError):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(), observer=listener)
        assert listener.calls[-2:] == ["step 2", "end"]

    def test_nothing_is_printed_without_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe())
        fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(), resume=True)
        assert capsys.readouterr() == ("", "")

    def test_the_command_line_prints_it(self, tmp_path: Path) -> None:
        table_of(tmp_path)
        (tmp_path / "recipe.yaml").write_text(recipe(epochs=1, batch_size=16).to_yaml(), encoding="utf-8")
        options = ["--target", "energy", "--unit", "eV/atom", "--config", tmp_path / "recipe.yaml"]
        result = invoke("train", tmp_path / "table.parquet", *options, "-o", tmp_path / "run")
        assert result.stdout == f"weights: {tmp_path / 'run' / 'model.safetensors'}\n"
        for said in (
            "labels",
            "1 epoch of 1 batch\n",
            "epoch 1/1  val MAE energy ",
            "test MAE energy: ",
            "last epoch:",
        ):
            assert said in result.stderr
        again = invoke("train", tmp_path / "table.parquet", *options, "-o", tmp_path / "run", "--resume")
        assert "finished already" in again.stderr

    def test_a_terminal_gets_a_bar(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from crystalformers.cli.training_progress import Bar

        fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(), observer=Bar())
        said = capsys.readouterr().err
        assert "100.0 %" in said
        assert "epoch 3/3" in said


class TestInterruption:
    def test_fit_raises_and_a_resume_ends_with_the_same_bits(self, tmp_path: Path) -> None:
        class Terminator(Observer):
            def step(self, progress: Progress) -> None:
                if progress.step == 6:
                    os.kill(os.getpid(), signal.SIGTERM)

        table = table_of(tmp_path)
        whole = fit(table, [ENERGY], tmp_path / "whole", recipe()).read_bytes()
        handler = signal.getsignal(signal.SIGTERM)
        with pytest.raises(TrainingInterrupted, match="stopped by SIGTERM; the state is saved") as caught:
            fit(table, [ENERGY], tmp_path / "run", recipe(), observer=Terminator())
        assert caught.value.signal == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) == handler
        assert torch.load(tmp_path / "run" / "resume.pt", weights_only=True)["progress"]["step"] == 7
        assert fit(table, [ENERGY], tmp_path / "run", recipe(), resume=True).read_bytes() == whole

    def test_a_second_signal_does_not_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        signals = Signals()
        with signals.caught():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received == signal.SIGINT
            monkeypatch.setattr("crystalformers.training.interruption.SECONDS_OF_ONE_SIGNAL", 0.0)
            with pytest.raises(TrainingInterrupted, match="SIGINT; steps since the last saved state are lost"):
                signal.raise_signal(signal.SIGINT)

    def test_a_loop_that_goes_on_after_errors_ends(self) -> None:
        assert not issubclass(TrainingInterrupted, Exception)


class TestData:
    def test_bad_and_unlabelled_rows_are_left_out(self, tmp_path: Path) -> None:
        crystals = many(24)
        crystals[2] = rock_salt(a=0.5, name="squeezed")
        energy = [None if k == 5 else float(k) for k in range(24)]
        table = open_table(write_table(tmp_path / "t.parquet", crystals, energy=energy))
        listener = Listener()
        fit(table, [ENERGY], tmp_path / "run", recipe(epochs=1), observer=listener)
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert [row["name"] for row in summary["left_out"]] == ["squeezed"]
        assert summary["unlabelled"] == 1
        assert sum(summary["rows"].values()) == 22
        said = "\n".join(listener.messages)
        assert "squeezed" in said
        assert "carry none of the labels" in said
        assert "eV/atom" in said

    def test_split_is_drawn_from_the_seed(self, tmp_path: Path) -> None:
        table = table_of(tmp_path, split=False)
        splits = [Dataset.of(table, [ENERGY], recipe(seed=seed)).splits for seed in (1, 1, 2)]
        assert {name: len(rows) for name, rows in splits[0].items()} == {"train": 20, "val": 2, "test": 2}
        assert all(np.array_equal(splits[0][name], splits[1][name]) for name in splits[0])
        assert not np.array_equal(splits[0]["train"], splits[2]["train"])
        assert sorted(np.concatenate(list(splits[0].values()))) == list(range(24))

    def test_validation_is_taken_from_training_where_there_is_none(self, tmp_path: Path) -> None:
        table = table_of(tmp_path, split=["train"] * 20 + ["test"] * 4)
        splits = Dataset.of(table, [ENERGY], recipe()).splits
        assert {name: len(rows) for name, rows in splits.items()} == {"train": 18, "val": 2, "test": 4}

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ([1.0] * 24, "all 16 training labels equal 1"),
            ([None] * 16 + [1.0] * 8, "not one label is present"),
            ([1.0, 2.0, float("inf")] * 8, "label of x2 is infinite"),
        ],
    )
    def test_targets_that_cannot_be_learned(self, tmp_path: Path, column: list[Any], message: str) -> None:
        table = table_of(tmp_path, bad=column)
        with pytest.raises(TargetError, match=f"bad: .*{message}"):
            fit(table, [ENERGY, Target("bad", "eV")], tmp_path / "run", recipe())
        assert not (tmp_path / "run").exists()

    def test_absent_column_and_tiny_table(self, tmp_path: Path) -> None:
        with pytest.raises(TableError, match="no column 'gaps'"):
            fit(table_of(tmp_path), [Target("gaps", "eV")], tmp_path / "run", recipe())
        with pytest.raises(TableError, match="val split holds no usable row"):
            fit(table_of(tmp_path, 3, split=False), [ENERGY], tmp_path / "run", recipe())


class TestRefusals:
    def test_finished_run_is_not_overwritten(self, finished: Path) -> None:
        table, run = open_table(finished / "table.parquet"), finished / "run"
        before = (run / "model.safetensors").read_bytes()
        with pytest.raises(ConfigError, match="holds a finished run; choose another folder"):
            fit(table, [ENERGY], run, recipe())
        assert fit(table, [ENERGY, GAP], run, recipe(), resume=True) == run / "model.safetensors"
        assert (run / "model.safetensors").read_bytes() == before

    def test_unfinished_run_wants_resume_and_the_same_settings(self, tmp_path: Path) -> None:
        table, run = table_of(tmp_path), tmp_path / "run"
        with pytest.raises(CrystalformersError, match="training loss became"):
            fit(table, [ENERGY], run, recipe(lr=1e30))
        assert not (run / "model.safetensors").exists()
        with pytest.raises(ConfigError, match="unfinished run; add --resume"):
            fit(table, [ENERGY], run, recipe(lr=1e30))
        with pytest.raises(ConfigError, match=r"recipe setting lr: 1e\+30 in the run, 0.01 now"):
            fit(table, [ENERGY], run, recipe(), resume=True)
        with pytest.raises(ConfigError, match="target 1"):
            fit(table, [GAP], run, recipe(lr=1e30), resume=True)
        other = table_of(tmp_path, 28)
        with pytest.raises(ConfigError, match="table fingerprint"):
            fit(other, [ENERGY], run, recipe(lr=1e30), resume=True)

    def test_damaged_state_is_named(self, tmp_path: Path) -> None:
        table, run = table_of(tmp_path), tmp_path / "run"
        with pytest.raises(CrystalformersError):
            fit(table, [ENERGY], run, recipe(lr=1e30))
        (run / "resume.pt").write_bytes((run / "resume.pt").read_bytes()[:1000])
        with pytest.raises(CrystalformersError, match=r"resume\.pt: the saved state cannot be read"):
            fit(table, [ENERGY], run, recipe(lr=1e30), resume=True)

    def test_every_flipped_bit_of_a_state_is_noticed(self, tmp_path: Path) -> None:
        table, run = table_of(tmp_path), tmp_path / "run"
        with pytest.raises(ZeroDivisionError):
            fit(table, [ENERGY], run, recipe(), observer=Listener(fail_after=1))
        whole = (run / "resume.pt").read_bytes()
        for place in range(1000, len(whole) - 100, len(whole) // 5):
            changed = bytearray(whole)
            changed[place] ^= 1
            (run / "resume.pt").write_bytes(changed)
            with pytest.raises(CheckpointError, match=r"resume\.pt: the saved state cannot be read.*hash"):
                fit(table, [ENERGY], run, recipe(), resume=True)

    def test_state_of_another_version_is_named(self, tmp_path: Path) -> None:
        table, run = table_of(tmp_path), tmp_path / "run"
        with pytest.raises(ZeroDivisionError):
            fit(table, [ENERGY], run, recipe(), observer=Listener(fail_after=1))
        saved = torch.load(run / "resume.pt", weights_only=True)
        del saved["format"]
        torch.save(saved, run / "resume.pt")
        with pytest.raises(CheckpointError, match=r"resume\.pt: the state was saved by another version"):
            fit(table, [ENERGY], run, recipe(), resume=True)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_an_absent_device_is_said_before_anything_is_written(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="accelerator = gpu, devices = 1: "):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(accelerator="gpu"))
        assert not (tmp_path / "run").exists()

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "run").touch()
        with pytest.raises(ConfigError, match="is a file"):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe())

    def test_missing_tensorboard_is_said_before_training(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="pip install"):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(tensorboard=True))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_exit(tmp_path: Path, number: signal.Signals, code: int) -> None:
    table_of(tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe(epochs=100_000).to_yaml(), encoding="utf-8")
    options = ["--target", "energy", "--unit", "eV/atom", "--config", tmp_path / "recipe.yaml", "-o", tmp_path / "run"]
    main = "from crystalformers.cli import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", main, "train", tmp_path / "table.parquet", *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + 120
    while not (tmp_path / "run" / "metrics.csv").exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == code, said
    assert "--resume" in said
    assert "Traceback" not in said
    saved = torch.load(tmp_path / "run" / "resume.pt", weights_only=True)["progress"]
    assert saved["step"] > 0
    assert len(rows_of(tmp_path / "run" / "metrics.csv")) == saved["epoch"]
