"""The published numbers, with the data and the recipe behind each; all of it is written in `published.yaml`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from crystalformers.data.sets import SETS, Label
from crystalformers.errors import ConfigError
from crystalformers.extras import optional
from crystalformers.training.recipe import Recipe
from crystalformers.training.yaml_settings import with_overrides

with optional("train", "the list of published numbers"):
    import yaml

SOURCE = Path(__file__).with_name("published.yaml")

FOLLOWING_THE_AUTHORS: dict[str, Any] = {"published_slips": True, "model.tie_width": 1e-8}
"""Settings that follow the authors' training also where ours differs on purpose."""

SPEED_ATOMS = 16.4
"""Atoms per cell, on average, of the crystals that the speed was measured with."""

SPEED_BLOCKS = 4
"""Blocks of the models that the speed was measured with."""


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        name: MODEL/SET/PROPERTY, what users type.
        source: paper, table and split.
        data: name of the data set.
        target: label to learn, a column of the converted data set.
        mae: published mean absolute error in the unit of the label.
        train: published number of training crystals.
        atoms: of a cell, on average; for the estimated hours.
        training: name of the row whose training gives this number: its own, or that of a row that only measures
            otherwise; empty if one training cannot give it.
        split: that the error is of, `test` or `val`.
        weights: `average`: those averaged over the last epochs; `best`: those of the best epoch by validation.
        settings: of the recipe, as far as they differ from `training.recipe.PUBLISHED` and the other defaults.
        speed: training crystals per second of this kind of model with `SPEED_BLOCKS` blocks; None if not measured.
    """

    name: str
    source: str
    data: str
    target: str
    mae: float
    train: int
    atoms: float
    training: str
    split: Literal["test", "val"] = "test"
    weights: Literal["average", "best"] = "average"
    settings: dict[str, Any] = field(default_factory=dict)
    speed: float | None = None

    @property
    def label(self) -> Label:
        """The label to learn, with its unit and basis."""
        return next(label for label in SETS[self.data].labels if label.name == self.target)

    @property
    def hours(self) -> float | None:
        """Estimated hours of one training on the machine whose speed was measured; None if nothing like it was.

        Published epochs and crystals by the measured speed; time is taken to grow with the atoms of a cell and with the
        blocks of the model.
        """
        if self.speed is None:
            return None
        recipe = self.recipe()
        seconds = recipe.epochs * self.train / self.speed
        return seconds * self.atoms / SPEED_ATOMS * recipe.model["blocks"] / SPEED_BLOCKS / 3600

    def recipe(self, changes: dict[str, Any] | None = None, *, follow_authors: bool = False) -> Recipe:
        """The recipe of the paper.

        Args:
            changes: settings that take precedence; `model.blocks` names one of a section.
            follow_authors: do as the authors did also where this library differs on purpose.

        Raises:
            ConfigError: if one training cannot give the number, or a setting is wrong.
        """
        if not self.training:
            raise ConfigError(
                "its vectors come from a front-end whose training data are not published as a fixed set",
                where=self.name,
                remedy="docs/reproduce.md names the nearest experiment",
            )
        authors = FOLLOWING_THE_AUTHORS if follow_authors else {}
        settings = {"defaults": "published", **self.settings}
        return Recipe.parse(with_overrides(settings, {**authors, **(changes or {})}), self.name)


@cache
def published() -> dict[str, Published]:
    """All published numbers by name, in the order of the papers' tables."""
    content = yaml.safe_load(SOURCE.read_text(encoding="utf-8"))
    return {row.name: row for row in (*_trained(content), *_not_trained(content))}


def _trained(content: dict[str, Any]) -> Iterator[Published]:
    for table in content["tables"]:
        for name, row in table["rows"].items():
            model = row.get("of", name)
            for task, mae in zip(table["tasks"], row["mae"], strict=True):
                yield Published(
                    name=f"{name}/{task}",
                    source=table["source"],
                    **content["tasks"][task],
                    mae=mae,
                    training=f"{model}/{task}",
                    split=table.get("split", "test"),
                    weights=row.get("weights", "average"),
                    settings=_settings(content, model, task),
                    speed=content["speed"].get(content["models"][model].get("speed")),
                )


def _not_trained(content: dict[str, Any]) -> Iterator[Published]:
    for table in content["other"]:
        for name, row in table["rows"].items():
            for task, mae in zip(table["tasks"], row, strict=True):
                if mae is not None:
                    facts = content["tasks"][task]
                    yield Published(f"{name}/{task}", table["source"], **facts, mae=mae, training="")


def _settings(content: dict[str, Any], model: str, task: str) -> dict[str, Any]:
    """Settings of the recipe: the model's, and the schedule of the task, else that of its set."""
    about = content["models"][model]
    schedule = content["schedules"][about["schedule"]]
    length = schedule.get(task) or schedule[task.partition("/")[0]]
    return {"preset": about["preset"], "model": about.get("model", {}), **length}


def find(name: str) -> Published:
    """The published number of a name; raises ConfigError, with the nearest name, if there is none such."""
    rows = published()
    if name not in rows:
        close = difflib.get_close_matches(name, rows, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "'crystalformers reproduce --list' shows all names"
        raise ConfigError(f"no published number is called '{name}'", remedy=hint)
    return rows[name]
