"""`crystalformers learning-curve`: how the test error falls with the number of training rows."""

from __future__ import annotations

from typing import Annotated

import typer

from crystalformers.cli import options
from crystalformers.cli.train import accelerator, merged_recipe, opened, resumable, table_targets
from crystalformers.errors import ConfigError


def learning_curve_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    table: options.TrainingTable,
    target: options.TargetNames,
    output: options.RunFolder,
    sizes: Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of training rows, e.g. 30,100,300.")],
    unit: options.TargetUnits = None,
    basis: options.TargetBases = None,
    transform: options.TargetTransforms = None,
    label: options.Labels = None,
    split: options.SplitName = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each size.")] = 3,
    config: options.RecipeFile = None,
    init: options.StartModel = None,
    settings: options.Settings = None,
    epochs: options.Epochs = None,
    device: options.Device = None,
    threads: options.Threads = None,
    resume: options.ResumeTraining = False,
) -> None:
    """Train on nested parts of the training rows and measure each model on the same test rows.

    A larger part holds the smaller ones; every seed has its own order of the rows. The errors are in
    learning-curve.csv, a picture with the fitted power law in learning-curve.png, each training in a folder of its own.
    """
    from crystalformers.cli.training_progress import terminal_observer
    from crystalformers.training import fit_learning_curve
    from crystalformers.training.learning_curve import CURVE

    labels = options.renamed_labels(label)
    targets = table_targets(table, target, unit, basis, transform, labels)
    flags = {"init.model": init, "epochs": epochs, "threads": threads, "accelerator": accelerator(device)}
    recipe = merged_recipe(config, flags, settings)
    with resumable(output):
        rows = opened(table, targets, labels, split)
        numbers = parsed_sizes(sizes)
        fit_learning_curve(rows, targets, output, numbers, recipe, seeds, resume=resume, observer=terminal_observer())
    typer.echo(f"errors: {output / CURVE}")


def parsed_sizes(text: str) -> list[int]:
    """The numbers of `30,100,300`.

    Raises:
        ConfigError: if the text has another form.
    """
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"'{text}' is no list of numbers", where="--sizes", remedy="write 30,100,300") from error
