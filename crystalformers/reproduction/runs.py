"""Training a published row again, with several seeds, each in a run folder of its own that can be resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from crystalformers.data.sets import Store, resolve
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import ConfigError, DataSetError
from crystalformers.reproduction.catalogue import Published
from crystalformers.reproduction.results import Result
from crystalformers.target import Target
from crystalformers.training import Observer, fit
from crystalformers.training.folder import RunFolder
from crystalformers.training.recipe import OPERATIONAL, Recipe


def plan(
    row: Published, seeds: int, changes: Mapping[str, Any] | None = None, *, follow_authors: bool = False
) -> dict[int, Recipe]:
    """Seed -> recipe of each run; seeds count up from that of the recipe.

    Args:
        row: what to reproduce.
        seeds: number of runs.
        changes: settings that differ from those of the paper.
        follow_authors: as in `Published.recipe`.

    Raises:
        ConfigError: if one training cannot give the number, a setting is wrong, or no run is asked for.
    """
    if seeds < 1:
        raise ConfigError("there is no seed to train", remedy="ask for at least one")
    given = dict(changes or {})
    first = row.recipe(given, follow_authors=follow_authors).seed
    every = range(first, first + seeds)
    return {seed: row.recipe({**given, "seed": seed}, follow_authors=follow_authors) for seed in every}


def run_folder(row: Published, output: Path, seed: int) -> Path:
    """Where a seed of a row is trained; rows that only measure otherwise share the folder."""
    return output / row.training / f"seed-{seed}"


def reproduce(
    row: Published,
    recipes: Mapping[int, Recipe],
    output: Path,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    started: Callable[[int, Path], None] = lambda *_: None,
) -> Result:
    """Train all seeds of a row, and write `result.json` to the folder of the row after each.

    Args:
        row: what to reproduce; its data set must be here.
        recipes: seed -> recipe, at least one, from `plan`.
        output: folder of all reproductions.
        resume: go on with runs that are there; finished ones are only read.
        observer: of each training.
        started: called with each seed and its run folder before it is trained.

    Raises:
        DataSetError: if the set is not here or is not the published one.
        ConfigError: if there are runs already that are not to be resumed, or that have another recipe.
        TrainingInterrupted: after SIGINT or SIGTERM; the state is saved.
        CrystalformersError: as `fit` raises it.
    """
    folders = {seed: run_folder(row, output, seed) for seed in recipes}
    for seed, folder in folders.items():
        RunFolder(folder).check_free(recipes[seed], resume=resume)
    table = open_published(row)
    target = Target(row.target, row.label.unit, row.label.basis)
    for count, (seed, recipe) in enumerate(recipes.items(), 1):
        started(seed, folders[seed])
        fit(table, [target], folders[seed], recipe, resume=True, observer=observer)
        result = _collect(row, dict(list(folders.items())[:count]), recipe, table)
        result.write(output / row.name)
    return result


def open_published(row: Published) -> CrystalTable:
    """The table of a row, with the split that is published for its target.

    Raises:
        DataSetError: if the set is not here, or one of the parts is not the published one.
    """
    split = resolve(row.data).split_for([row.target])
    about = Store().about(row.data)
    column = f"split_{split}" if split else "split"
    parts = {} if about is None else about["splits"].get(column, {})
    for part, facts in parts.items():
        if facts["published"] not in (None, facts["sha256"]):
            raise DataSetError(
                f"the rows for {part} in the column '{column}' have the SHA-256 {facts['sha256']}, published is "
                f"{facts['published']}",
                where=row.data,
                remedy=f"fetch the published files with 'crystalformers data get {row.data} --again'",
            )
    return open_table(row.data, split=split)


def _collect(row: Published, runs: Mapping[int, Path], recipe: Recipe, table: CrystalTable) -> Result:
    """The result of finished runs, seed -> run folder."""
    errors, n = {}, 0
    for seed, folder in runs.items():
        summary = json.loads(RunFolder(folder).summary.read_text(encoding="utf-8"))
        measured = (summary["best"] if row.weights == "best" else summary)["errors"][row.split][row.target]
        errors[seed], n = measured["mae"], measured["n"]
    return Result(
        name=row.name,
        published=row.mae,
        unit=row.label.unit,
        split=row.split,
        weights=row.weights,
        errors=errors,
        n=n,
        follows_authors=recipe.published_slips,
        changes=differences(row, recipe),
        data={"name": row.data, "fingerprint": table.fingerprint},
        environment=json.loads((folder / "environment.json").read_text(encoding="utf-8")),
    )


def differences(row: Published, recipe: Recipe) -> dict[str, Any]:
    """Settings in which a recipe differs from that of the paper; neither the seed nor how a run is carried out."""
    ours = _settings(recipe)
    theirs = _settings(row.recipe(follow_authors=recipe.published_slips))
    return {name: value for name, value in ours.items() if name != "seed" and theirs[name] != value}


def _settings(recipe: Recipe) -> dict[str, Any]:
    """All settings that change the result, flat."""
    settings = recipe.model_dump(mode="json", exclude=set(OPERATIONAL))
    model: dict[str, Any] = settings.pop("model")
    return settings | {f"model.{name}": value for name, value in model.items()}
