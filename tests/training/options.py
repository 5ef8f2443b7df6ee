"""Recipes, tables and stops for tests of settings of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from samples import many, write_table

from crystalformers.data.table import CrystalTable, open_table
from crystalformers.target import Target
from crystalformers.training import Observer, Recipe
from crystalformers.training.state import Progress

ENERGY, GAP = Target("energy", "eV/atom", "per_atom"), Target("gap", "eV")
NAN = float("nan")

TINY: dict[str, dict[str, Any]] = {
    "crystaltransformer": {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16},
    "cgcnn": {"dim": 8, "hidden": 8, "convolutions": 1},
}
SETTINGS: dict[str, Any] = {
    "defaults": "published",
    "epochs": 2, "average_epochs": 1, "batch_size": 4, "lr": 0.01, "threads": 1, "accelerator": "cpu",
    "tolerance": 1e-3, "checkpoint_steps": 1,
}  # fmt: skip


def recipe(architecture: str = "crystaltransformer", model: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    settings = {**SETTINGS, "architecture": architecture, "model": {**TINY[architecture], **(model or {})}}
    return Recipe.parse({**settings, **changes})


PUBLISHED = {"variant": "published", "dropout": 0.1}


def table_of(folder: Path, count: int = 24) -> CrystalTable:
    crystals = many(count)
    energy = [float(crystal.numbers[0] % 7) for crystal in crystals]
    gap = [None if k % 3 else k / count for k in range(count)]
    split = ["train"] * (count - 8) + ["val"] * 4 + ["test"] * 4
    return open_table(write_table(folder / "table.parquet", crystals, energy=energy, gap=gap, split=split))


class StoppedError(Exception):
    """In place of a kill."""


class StopAfter(Observer):
    """Raises `StoppedError` after given steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def step(self, progress: Progress) -> None:
        if progress.step in self.steps:
            raise StoppedError
