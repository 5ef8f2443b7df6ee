"""Training: recipe, order of the data, images kept in memory, averaging, the run folder and its refusals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import rows_of
from samples import many, rock_salt, write_table

from crystalformers.checkpoint import load_checkpoint
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import ConfigError, CrystalformersError, TableError, TargetError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.target import Target
from crystalformers.training.averaging import WeightAverage
from crystalformers.training.batching import Batches, Loader, evaluation_order, training_order
from crystalformers.training.dataset import Dataset
from crystalformers.training.fit import fit
from crystalformers.training.image_store import ImageStore
from crystalformers.training.recipe import Recipe

TINY = {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 8}
SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "average_epochs": 1,
    "batch_size": 4,
    "lr": 0.01,
    "threads": 1,
    "accelerator": "cpu",
    "tolerance": 1e-3,
    "model": TINY,
}
ENERGY = Target("energy", "eV/atom", "per_atom")
GAP = Target("gap", "eV")


def recipe(**changes: Any) -> Recipe:
    return Recipe.parse({**SETTINGS, **changes})


def table_of(folder: Path, count: int = 24, split: Any = True, **columns: Any) -> CrystalTable:
    """Crystals of 2 to 8 atoms with an energy that can be learned and a gap with missing labels."""
    crystals = many(count)
    energy = [float(crystal.numbers[0] % 7) for crystal in crystals]
    gap = [None if k % 5 == 0 else k / count for k in range(count)]
    labels: dict[str, Any] = {"energy": energy, "gap": gap, **columns}
    if split is True:
        split = ["train"] * (count - 8) + ["val"] * 4 + ["test"] * 4
    if split:
        labels["split"] = split
    return open_table(write_table(folder / "table.parquet", crystals, **labels))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a finished run of two targets."""
    folder = tmp_path_factory.mktemp("finished")
    fit(table_of(folder), [ENERGY, GAP], folder / "run", recipe())
    return folder


class TestRecipe:
    def test_defaults_are_the_published_ones(self) -> None:
        published = Recipe.parse({})
        assert (published.lr, published.betas, published.eps) == (5e-4, (0.9, 0.98), 1e-8)
        assert (published.weight_decay, published.clip_norm) == (1e-5, 1.0)
        assert (published.schedule, published.schedule_steps, published.warmup_steps) == ("inverse-sqrt", 4000, 0)
        assert (published.batch_size, published.epochs, published.average_epochs) == (128, 500, 50)
        assert (published.seed, published.precision, published.early_stopping) == (123, "32", None)
        assert published.model["dim"] == 128
        assert "n_targets" not in published.model

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

    @pytest.mark.parametrize("text", ["- 1\n- 2\n", "a: [1\n", "epochs: many\n"])
    def test_bad_files_are_named(self, tmp_path: Path, text: str) -> None:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"recipe\.yaml"):
            Recipe.load(path)

    def test_shipped_recipes_are_valid(self) -> None:
        folder = Path(__file__).parents[2] / "recipes"
        assert Recipe.load(folder / "published.yaml") == Recipe.parse({})
        for path in folder.glob("*.yaml"):
            Recipe.load(path)


class TestOrder:
    rows = np.arange(100, 1100)
    n_atoms = np.random.default_rng(0).integers(1, 200, 1000)

    def order(self, epoch: int = 0, max_atoms: int | None = None, seed: int = 1) -> list[np.ndarray]:
        return training_order(self.rows, self.n_atoms, 64, max_atoms, seed, epoch)

    def test_depends_on_seed_and_epoch_alone(self) -> None:
        assert np.array_equal(self.order(), self.order())
        assert not np.array_equal(self.order(), self.order(epoch=1))
        assert not np.array_equal(self.order(), self.order(seed=2))

    def test_no_row_twice_and_full_batches(self) -> None:
        order = self.order()
        assert [len(batch) for batch in order] == [64] * 15
        assert len(np.unique(np.concatenate(order))) == 960

    def test_every_row_has_its_turn(self) -> None:
        left_out = [set(self.rows) - set(np.concatenate(self.order(epoch)).tolist()) for epoch in range(2)]
        assert left_out[0] != left_out[1]

    def test_batches_cost_the_same(self) -> None:
        cost = [self.n_atoms[batch - 100].sum() for batch in self.order()]
        assert max(cost) < 1.05 * min(cost)

    def test_batches_are_mixed_anew_each_epoch(self) -> None:
        first = {frozenset(batch) for batch in self.order()}
        assert not first & {frozenset(batch) for batch in self.order(1)}

    def test_atoms_per_batch_are_bounded(self) -> None:
        cost = [self.n_atoms[batch - 100].sum() for batch in self.order(max_atoms=2000)]
        assert max(cost) <= 2100

    def test_fewer_rows_than_a_batch(self) -> None:
        order = training_order(np.arange(3), np.ones(3, int), 64, None, 0, 0)
        assert [sorted(batch) for batch in order] == [[0, 1, 2]]

    def test_evaluation_covers_all_rows_once(self) -> None:
        order = evaluation_order(self.rows, self.n_atoms, 64, None)
        assert max(map(len, order)) <= 64
        assert sorted(np.concatenate(order)) == sorted(self.rows)


class TestImageStore:
    def test_kept_rebuilt_and_direct_images_are_the_same_bits(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        kept, rebuilt = (ImageStore(table, 6.0, budget, directions=True) for budget in (1e9, 0))
        kept.batch(np.array([3, 4, 5, 6]))  # with other mates
        for rows in (np.array([0, 5, 3]), np.array([5, 0, 3, 7])):
            direct = with_images(CrystalBatch.from_crystals([table[int(row)] for row in rows]), 6.0, directions=True)
            direct = direct.to(torch.float32)
            for batch in (kept.batch(rows), rebuilt.batch(rows)):
                for name in ("numbers", "positions", "lattice", "ptr"):
                    assert torch.equal(getattr(batch, name), getattr(direct, name))
                for name in ("distance", "pair", "ptr", "pair_target", "pair_source", "vectors"):
                    ours, theirs = getattr(batch.images, name), getattr(direct.images, name)
                    assert ours.dtype == theirs.dtype
                    assert torch.equal(ours, theirs)

    def test_budget_is_kept(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        store = ImageStore(table, 6.0, 1e9)
        store.batch(np.arange(10))
        small = ImageStore(table, 6.0, store.used / 2)
        small.batch(np.arange(10))
        assert store.used / 4 < small.used <= store.used / 2


class TestLoader:
    def loader(self, folder: Path, batches: int = 9) -> Loader:
        store = ImageStore(table_of(folder), 5.0, 1e9)
        return Loader(store, torch.zeros(24, 1), [np.array([k, k + 1]) for k in range(batches)])

    def test_order_is_kept(self, tmp_path: Path) -> None:
        loader = self.loader(tmp_path)
        assert [batch.rows.tolist() for batch in loader] == [[k, k + 1] for k in range(9)]

    def test_thread_ends_when_the_loop_is_left(self, tmp_path: Path) -> None:
        others = set(threading.enumerate())  # of tests before, until Python collects them
        for _ in self.loader(tmp_path):
            break
        assert not [thread.name for thread in set(threading.enumerate()) - others if "batches" in thread.name]

    def test_errors_of_the_thread_arrive(self, tmp_path: Path) -> None:
        loader = self.loader(tmp_path)
        loader.batches[5] = np.array([999])
        with pytest.raises(IndexError):
            list(loader)


class TestStep:
    def test_loss_is_the_mean_over_present_labels(self) -> None:
        from crystalformers.training.loss import Loss

        predicted = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        loss = Loss("l1", "none", 2)(predicted, torch.tensor([[0.0, float("nan")], [1.0, 3.5]]))
        assert loss.item() == pytest.approx((1 + 2 + 0.5) / 3)
        loss.backward()
        assert predicted.grad is not None
        assert predicted.grad[0, 1] == 0

    def test_loss_without_labels_is_zero(self) -> None:
        from crystalformers.training.loss import Loss

        assert Loss("l1", "none", 1)(torch.ones(2, 1), torch.full((2, 1), float("nan"))).item() == 0

    def test_learning_rates(self) -> None:
        from crystalformers.training.optimisation import learning_rate

        published = Recipe.parse({})
        assert learning_rate(published, 0, 0.0) == 5e-4
        assert learning_rate(published, 12000, 0.5) == pytest.approx(2.5e-4)
        cosine = Recipe.parse({"schedule": "cosine", "warmup_steps": 10})
        assert learning_rate(cosine, 0, 0.0) == pytest.approx(5e-5)
        assert learning_rate(cosine, 50, 0.5) == pytest.approx(2.5e-4)
        assert learning_rate(cosine, 99, 1.0) == pytest.approx(0)

    def test_average_is_the_mean_of_the_weights(self) -> None:
        model = torch.nn.Linear(3, 2)
        average = WeightAverage(model)
        seen = []
        for _ in range(5):
            with torch.no_grad():
                model.weight.add_(torch.randn(2, 3))
            seen.append(model.weight.detach().clone())
            average.update()
        own = model.weight.detach().clone()
        average.swap()
        torch.testing.assert_close(model.weight.detach(), torch.stack(seen).mean(0))
        average.swap()
        assert torch.equal(model.weight.detach(), own)

    def test_biases_do_not_decay(self, tmp_path: Path) -> None:
        from crystalformers.models import build_model
        from crystalformers.training.module import TrainingModule

        dataset = Dataset.of(table_of(tmp_path), [ENERGY], recipe())
        model = build_model("crystalformer", TINY)
        module = TrainingModule(model, Batches(dataset, 5.0, recipe()), recipe(weight_decay=0.1))
        weights, biases = module.configure_optimizers().param_groups
        assert (weights["weight_decay"], biases["weight_decay"]) == (0.1, 0)
        assert all(parameter.dim() == 1 for parameter in biases["params"])
        assert len(weights["params"]) + len(biases["params"]) == len(list(model.parameters()))


class TestRun:
    def test_folder_holds_everything(self, finished: Path) -> None:
        files = {path.name for path in (finished / "run").iterdir()}
        described = {"recipe.yaml", "environment.json", "splits.json", "metrics.csv", "summary.json"}
        assert files == described | {"model.safetensors", "parity.png"}
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

    def test_best_epoch_is_kept_without_averaging(self, tmp_path: Path) -> None:
        fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(epochs=8, average_epochs=0, lr=0.1))
        best = min(float(row["val_mae_energy (eV/atom)"]) for row in rows_of(tmp_path / "run" / "metrics.csv"))
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["errors"]["val"]["energy"]["mae"] == pytest.approx(best, rel=1e-4)

    def test_per_cell_and_log_targets(self, tmp_path: Path) -> None:
        cell = [10.0 * len(crystal) + k for k, crystal in enumerate(many(24))]
        table = table_of(tmp_path, cell=cell, modulus=[10.0 ** (k % 3) for k in range(24)])
        targets = [Target("cell", "eV", "per_cell"), Target("modulus", "GPa", transform="log10")]
        fit(table, targets, tmp_path / "run", recipe())
        assert set(json.loads((tmp_path / "run" / "summary.json").read_text())["errors"]["test"]) == {"cell", "modulus"}


class TestData:
    def test_bad_and_unlabelled_rows_are_left_out(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        crystals = many(24)
        crystals[2] = rock_salt(a=0.5, name="squeezed")
        energy = [None if k == 5 else float(k) for k in range(24)]
        table = open_table(write_table(tmp_path / "t.parquet", crystals, energy=energy))
        fit(table, [ENERGY], tmp_path / "run", recipe(epochs=1))
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert [row["name"] for row in summary["left_out"]] == ["squeezed"]
        assert summary["unlabelled"] == 1
        assert sum(summary["rows"].values()) == 22
        printed = capsys.readouterr().err
        assert "squeezed" in printed
        assert "carry none of the labels" in printed
        assert "eV/atom" in printed

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

    def test_a_file_is_no_folder(self, tmp_path: Path) -> None:
        (tmp_path / "run").touch()
        with pytest.raises(ConfigError, match="is a file"):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe())

    def test_missing_tensorboard_is_said_before_training(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(ConfigError, match="pip install"):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(tensorboard=True))


SIGNALLED = """
import sys
from pathlib import Path
from crystalformers.data.table import open_table
from crystalformers.target import Target
from crystalformers.training import Recipe, fit
folder = Path(sys.argv[1])
fit(open_table(folder / "table.parquet"), [Target("energy", "eV/atom", "per_atom")], folder / "run",
    Recipe.load(folder / "recipe.yaml"), resume=True)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_exit(tmp_path: Path, number: signal.Signals, code: int) -> None:
    table_of(tmp_path)
    (tmp_path / "recipe.yaml").write_text(recipe(epochs=100_000).to_yaml(), encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-c", SIGNALLED, str(tmp_path)],
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
