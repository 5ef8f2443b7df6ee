"""`crystalformers crossval`: every row of a table predicted once by a model that never saw it."""

from __future__ import annotations

from typing import Annotated

import typer

from crystalformers.cli.options import (
    RecipeFile,
    ResumeTraining,
    RunFolder,
    Settings,
    StartModel,
    TargetBases,
    TargetNames,
    TargetTransforms,
    TargetUnits,
    TrainingTable,
)
from crystalformers.cli.train import merged_recipe, run_training, table_targets


def crossval_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    table: TrainingTable,
    target: TargetNames,
    output: RunFolder,
    unit: TargetUnits = None,
    basis: TargetBases = None,
    transform: TargetTransforms = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts that the rows are divided into at random.")] = 5,
    config: RecipeFile = None,
    init: StartModel = None,
    settings: Settings = None,
    resume: ResumeTraining = False,
) -> None:
    """Train one model per fold and predict each row by the model that was trained without it.

    All rows take part, whatever a column 'split' says. The predictions are in held-out.parquet; the models together
    are an ensemble, which can be used like any model.
    """
    targets = table_targets(table, target, unit, basis, transform)
    recipe = merged_recipe(config, {"init.model": init}, settings)
    weights = run_training(table, targets, output, recipe, split=None, resume=resume, members=folds, every_row=True)
    typer.echo(f"weights: {weights}")
