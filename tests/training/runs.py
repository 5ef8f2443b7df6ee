"""Small training runs: a recipe, a table, and an observer that remembers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samples import many, write_table

from crystalformers.data.table import CrystalTable, open_table
from crystalformers.target import Target
from crystalformers.training import Observer, Recipe
from crystalformers.training.state import Progress

TINY = {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 8}
SETTINGS: dict[str, Any] = {
    "defaults": "published",
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


class Listener(Observer):
    """Remembers what it is told; raises an error after a step if it is asked to."""

    def __init__(self, fail_after: int = 0) -> None:
        self.messages: list[str] = []
        self.calls: list[str] = []
        self.fail_after = fail_after

    def message(self, text: str) -> None:
        self.messages.append(text)

    def begin(self, progress: Progress, targets: Sequence[Target]) -> None:
        self.calls.append("begin " + ", ".join(target.name for target in targets))

    def step(self, progress: Progress) -> None:
        self.calls.append(f"step {progress.step}")
        if progress.step == self.fail_after:
            raise ZeroDivisionError

    def epoch(self, progress: Progress) -> None:
        self.calls.append(f"epoch {progress.epoch}")

    def end(self) -> None:
        self.calls.append("end")
