"""Errors of models of other libraries (`graph_models.py`), trained here on the same rows.

    python -m benchmarks.accuracy.baselines --search         # learning rate and loss of each model, on validation rows
    python -m benchmarks.accuracy.baselines                  # what is missing, with what was chosen
    python -m benchmarks.accuracy.baselines --only MEGNet --rows 6000 --seeds 0

Settings are in `baselines.yaml`. The learning rate rises over the first twentieth of the steps and falls to nothing
along a cosine, as in the trainings of this library; the weights of the last epoch count, and test rows choose nothing.
One line of JSON a run in benchmarks/results/accuracy/baselines.jsonl, and of the search in baselines-search.jsonl. A
run that was stopped goes on at its last epoch, from runs/baselines.
"""

from __future__ import annotations

import importlib.util
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from numpy.typing import NDArray

from benchmarks.accuracy.graph_models import graph_model
from benchmarks.harness import RESULTS, ROOT, epochs_for, machine, parser, record, recorded, shared, versions
from benchmarks.speed.peers import INSTALL
from crystalformers import open_table
from crystalformers.data.table import CrystalTable
from crystalformers.files import replacing

SETTINGS = Path(__file__).with_suffix(".yaml")
RUNS = ROOT / "runs" / "baselines"
OUT = RESULTS / "accuracy" / "baselines.jsonl"
SEARCH = RESULTS / "accuracy" / "baselines-search.jsonl"
LOSSES = {"l1": F.l1_loss, "mse": F.mse_loss}
WARMUP = 0.05
"""Share of the steps in which the learning rate rises."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def rows_of(table: CrystalTable, split: str) -> IntArray:
    """Rows of one split."""
    return np.flatnonzero(np.array(table.split) == split)


def training_rows(table: CrystalTable, count: int) -> IntArray:
    """The first `count` rows of the training split in the random order of `claims.py`."""
    return np.random.default_rng(0).permutation(rows_of(table, "train"))[:count]


class Training:
    """One model, trained on some rows of a table, that goes on where it was stopped.

    Args:
        folder: of its state.
        name: of the model.
        settings: `epochs`, `batch`, `lr`, `loss` and `seed`.
        table: crystals.
        labels: of all rows.
        rows: to learn from.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        settings: dict[str, Any],
        table: CrystalTable,
        labels: FloatArray,
        rows: IntArray,
    ) -> None:
        torch.manual_seed(settings["seed"])
        self.outputs = graph_model(name, table)
        self.model, self.settings, self.rows = self.outputs.network, settings, rows
        self.mean, self.std = float(labels[rows].mean()), float(labels[rows].std())
        self.labels = (labels - self.mean) / self.std
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings["lr"])
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._rate)
        self.state, self.epoch, self.seconds = folder / "state.pt", 0, 0.0
        if self.state.exists():
            found = torch.load(self.state, weights_only=True)
            self.model.load_state_dict(found["model"])
            self.optimizer.load_state_dict(found["optimizer"])
            self.schedule.load_state_dict(found["schedule"])
            self.epoch, self.seconds = found["epoch"], found["seconds"]

    @property
    def steps(self) -> int:
        """Optimiser steps of all epochs."""
        return int(self.settings["epochs"]) * math.ceil(len(self.rows) / self.settings["batch"])

    def run(self) -> None:
        """Train to the last epoch; the state is written after each."""
        while self.epoch < self.settings["epochs"]:
            start, losses = time.monotonic(), []
            self.model.train()
            order = np.random.default_rng([self.settings["seed"], self.epoch]).permutation(self.rows)
            for rows in self._batches(order):
                expected = torch.as_tensor(self.labels[rows], dtype=torch.float32)
                loss = LOSSES[self.settings["loss"]](self.outputs(rows), expected)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.schedule.step()
                losses.append(loss.item())
            self.epoch += 1
            self.seconds += time.monotonic() - start
            print(f"epoch {self.epoch}: loss {np.mean(losses):.4f}, {self.seconds:.0f} s", flush=True)
            self._save()

    def error(self, rows: IntArray) -> float:
        """Mean absolute error, in the unit of the labels."""
        self.model.eval()
        with torch.inference_mode():
            outputs = [self.outputs(part).numpy() for part in self._batches(rows)]
        return float(np.abs(np.concatenate(outputs) - self.labels[rows]).mean() * self.std)

    def _batches(self, rows: IntArray) -> Iterator[IntArray]:
        size = self.settings["batch"]
        yield from (rows[start : start + size] for start in range(0, len(rows), size))

    def _rate(self, step: int) -> float:
        warmup = max(1, round(WARMUP * self.steps))
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, self.steps - warmup)))

    def _save(self) -> None:
        self.state.parent.mkdir(parents=True, exist_ok=True)
        parts: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "schedule": self.schedule}
        with replacing(self.state) as temporary:
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**state, "epoch": self.epoch, "seconds": self.seconds}, temporary)


def run(table: CrystalTable, name: str, target: str, count: int, settings: dict[str, Any], splits: list[str]) -> Any:
    """Train one model; what it was and its errors on some splits."""
    label = f"{name}-{target}-{count}-" + "-".join(str(settings[key]) for key in ("loss", "lr", "epochs", "seed"))
    training = Training(RUNS / label, name, settings, table, table.labels(target), training_rows(table, count))
    training.run()
    errors = {split: training.error(rows_of(table, split)) for split in splits}
    about = {"model": name, "target": target, "rows": len(training.rows), "settings": settings, "errors": errors}
    parameters = sum(one.numel() for one in training.model.parameters())
    about |= {"parameters": parameters, "seconds": round(training.seconds)}
    return {**about, "machine": machine(), "versions": versions("torch", "matgl", "torch_geometric")}


def chosen(name: str, target: str) -> dict[str, Any]:
    """Learning rate and loss with the lowest validation error in the search."""
    found = [row for row in recorded(SEARCH) if (row["model"], row["target"]) == (name, target)]
    if not found:
        raise SystemExit(f"No search for {name}, {target} yet: run with --search first.")
    best = min(found, key=lambda row: float(row["errors"]["val"]))["settings"]
    return {key: best[key] for key in ("lr", "loss")}


def main() -> None:
    """Run what is missing."""
    known = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))
    options = parser(__doc__)
    options.add_argument("--search", action="store_true", help="choose learning rates and losses")
    options.add_argument("--only", nargs="*", choices=known["models"], default=list(known["models"]))
    options.add_argument("--rows", type=int, nargs="*", default=known["rows"], help="training rows")
    options.add_argument("--seeds", type=int, nargs="*", default=known["seeds"])
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    if importlib.util.find_spec("matgl") is None:
        raise SystemExit(f"NOT MEASURED: matgl is not installed: {INSTALL}")
    torch.set_num_threads(given.threads)
    table = open_table(shared() / "data" / "mp36k.parquet")
    search, path = known["search"], SEARCH if given.search else OUT
    for name in given.only:
        for target in known["targets"]:
            own = known["models"][name]
            if given.search:
                common = {**own, "epochs": search["epochs"], "seed": search["seed"]}
                jobs = [(search["rows"], {**common, **choice}, ["val"]) for choice in known["choices"]]
            else:
                settings = {**own, **chosen(name, target)}
                jobs = []
                for seed in given.seeds:
                    for rows in given.rows:
                        epochs = epochs_for(rows, own["batch"], own["epochs"], known["least_steps"])
                        jobs.append((rows, {**settings, "epochs": epochs, "seed": seed}, ["val", "test"]))
            for count, settings, splits in jobs:
                done = [(row["model"], row["target"], row["rows"], row["settings"]) for row in recorded(path)]
                if (name, target, count, settings) not in done:
                    row = run(table, name, target, count, settings, splits)
                    record(path, row)
                    print(f"{name} {target} {count} rows {settings}: {row['errors']}", flush=True)


if __name__ == "__main__":
    main()
