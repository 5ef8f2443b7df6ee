"""`crystalformers crossval`: every row of a table predicted once by a model that never saw it."""

from __future__ import annotations

from typing import Annotated

import typer

from crystalformers.cli.options import (
    Device,
    Labels,
    RecipeFile,
    ResumeTraining,
    RunFolder,
    Settings,
    StartModel,
    TargetBases,
    TargetNames,
    TargetTransforms,
    TargetUnits,
    Threads,
    TrainingTable,
    renamed_labels,
)
from crystalformers.cli.train import accelerator, merged_recipe, run_training, table_targets


def crossval_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    table: TrainingTable,
    target: TargetNames,
    output: RunFolder,
    unit: TargetUnits = None,
    basis: TargetBases = None,
    transform: TargetTransforms = None,
    label: Labels = None,
    folds: Annotated[int, typer.Option(min=2, help="Parts that the rows are divided into at random.")] = 5,
    config: RecipeFile = None,
    init: StartModel = None,
    settings: Settings = None,
    device: Device = None,
    threads: Threads = None,
    resume: ResumeTraining = False,
) -> None:
    """Train one model per fold and predict each row by the model that was trained without it.

    All rows take part, whatever a column 'split' says. The predictions are in held-out.parquet; the models together
    are an ensemble, which can be used like any model.
    """
    labels = renamed_labels(label)
    targets = table_targets(table, target, unit, basis, transform, labels)
    flags = {"init.model": init, "threads": threads, "accelerator": accelerator(device)}
    recipe = merged_recipe(config, flags, settings)
    weights = run_training(
        table, targets, output, recipe, labels=labels, split=None, resume=resume, members=folds, every_row=True
    )
    typer.echo(f"weights: {weights}")
