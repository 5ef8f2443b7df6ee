"""`crystalformers train`: a table with labels in, a run folder with weights out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crystalformers.cli import options
from crystalformers.errors import ConfigError

if TYPE_CHECKING:
    from crystalformers.data.sets import Label
    from crystalformers.data.table import CrystalTable
    from crystalformers.target import Target
    from crystalformers.training.recipe import Recipe


def train_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    table: options.TrainingTable,
    target: options.TargetNames,
    output: options.RunFolder,
    unit: options.TargetUnits = None,
    basis: options.TargetBases = None,
    transform: options.TargetTransforms = None,
    label: options.Labels = None,
    split: options.SplitName = None,
    config: options.RecipeFile = None,
    init: options.StartModel = None,
    settings: options.Settings = None,
    members: Annotated[
        int,
        typer.Option(min=1, help="Train an ensemble: so many models, each without one fold of the rows."),
    ] = 1,
    epochs: options.Epochs = None,
    average_epochs: Annotated[
        int | None, typer.Option(help="Last epochs whose weights are averaged; overrides the recipe.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Crystals per step; overrides the recipe.")] = None,
    seed: options.Seed = None,
    device: options.Device = None,
    threads: options.Threads = None,
    resume: options.ResumeTraining = False,
) -> None:
    """Train a model on your own table, or on a public data set by its name.

    A data set states the unit and basis of its labels; for another table, give --unit. Several targets are learned at
    once by repeating --target and --unit (and --basis, --transform) in the same order; a label may be missing in some
    rows.
    """
    flags = {
        "init.model": init,
        "epochs": epochs,
        "average_epochs": average_epochs,
        "batch_size": batch_size,
        "seed": seed,
        "threads": threads,
        "accelerator": accelerator(device),
    }
    labels = options.renamed_labels(label)
    targets = table_targets(table, target, unit, basis, transform, labels)
    recipe = merged_recipe(config, flags, settings)
    weights = run_training(table, targets, output, recipe, labels=labels, split=split, resume=resume, members=members)
    typer.echo(f"weights: {weights}")


def run_training(
    table: Path,
    targets: list[Target],
    run: Path,
    recipe: Recipe,
    *,
    labels: dict[str, str] | None = None,
    split: str | None,
    resume: bool,
    members: int = 1,
    every_row: bool = False,
) -> Path:
    """Train with messages and progress on stderr; returns the weight file.

    Args:
        table: a table, or the name of a data set.
        targets: what to learn.
        run: folder to write.
        recipe: settings.
        labels: columns with another name than their target, and that target.
        split: `NAME` for the column `split_NAME`; by default the one published for the target, else `split`.
        resume: go on with an interrupted run.
        members: models to train, each without one fold of the rows if there are several.
        every_row: divide the test rows among the folds too.

    Raises:
        KeyboardInterrupt: after SIGINT or SIGTERM, saying how to go on.
        Exit: in the other processes of a parallel run, which have nothing to say.
    """
    from crystalformers.cli.training_progress import terminal_observer
    from crystalformers.training import fit, fit_ensemble
    from crystalformers.training.processes import is_first_process

    with resumable(run):
        rows, observer = opened(table, targets, labels, split), terminal_observer()
        if members > 1:
            weights = fit_ensemble(
                rows, targets, run, recipe, members, every_row=every_row, resume=resume, observer=observer
            )
        else:
            weights = fit(rows, targets, run, recipe, resume=resume, observer=observer)
    if not is_first_process():
        raise typer.Exit
    return weights


def opened(table: Path, targets: list[Target], labels: dict[str, str] | None, split: str | None) -> CrystalTable:
    """The table with the split that is published for the targets, unless another is named; arguments as above."""
    from crystalformers.data.sets import resolve
    from crystalformers.data.table import open_table
    from crystalformers.training.processes import is_first_process

    if split is None:
        column_of = {name: column for column, name in (labels or {}).items()}
        split = resolve(table).split_for([column_of.get(target.name, target.name) for target in targets])
        if split and is_first_process():
            typer.echo(f"split: column 'split_{split}', published for this target", err=True)
    return open_table(table, split=split, labels=labels)


@contextmanager
def resumable(run: Path) -> Iterator[None]:
    """Say how to go on, if the training in the block is interrupted.

    Raises:
        KeyboardInterrupt: after SIGINT or SIGTERM, in the first process.
    """
    from crystalformers.training import TrainingInterrupted
    from crystalformers.training.folder import RunFolder
    from crystalformers.training.processes import is_first_process

    try:
        yield
    except KeyboardInterrupt as stop:
        said = f"{stop}. " if isinstance(stop, TrainingInterrupted) else ""
        if is_first_process():
            if said or RunFolder(run).state.exists():
                stop.args = (f"{said}Run the same command with --resume to continue in {run}.",)
            raise


def table_targets(
    table: Path,
    names: list[str],
    units: list[str] | None,
    bases: list[str] | None,
    transforms: list[str] | None,
    renamed: dict[str, str] | None = None,
) -> list[Target]:
    """One target per name, with the unit, basis and transform given at the same place.

    Unit and basis are those that the table states, where the options are not given; `renamed` as of `renamed_labels`.

    Raises:
        ConfigError: if the numbers of options do not fit, or the unit of a target is neither given nor stated.
        TargetError: if a basis or transform is unknown.
        DataSetError: if the data set has not been fetched.
    """
    from crystalformers.data.sets import resolve
    from crystalformers.target import Target

    renamed = renamed or {}
    labels = {renamed.get(name, name): label for name, label in resolve(table).labels.items()}
    if units is None:
        units = [_stated_unit(labels, name, table) for name in names] if labels else []
    given: dict[str, list[Any]] = {
        "--unit": units,
        "--basis": bases or [labels[name].basis if name in labels else "intensive" for name in names],
        "--transform": transforms or ["none"] * len(names),
    }
    for option, values in given.items():
        if len(values) != len(names):
            problem = f"{len(names)} --target but {len(values)} {option}"
            raise ConfigError(problem, remedy=f"give one {option} per --target, in order")
    if len(set(names)) < len(names):
        raise ConfigError("a --target is named twice", remedy="name each column once")
    return [Target(*values) for values in zip(names, *given.values(), strict=True)]


def _stated_unit(labels: dict[str, Label], name: str, table: Path) -> str:
    if name in labels and labels[name].unit:
        return labels[name].unit
    known = ", ".join(label.name for label in labels.values() if label.unit)
    raise ConfigError(
        f"the unit of '{name}' is not stated (stated are those of {known})",
        where=str(table),
        remedy="choose one of these, or give one --unit per --target, in order",
    )


def accelerator(device: str | None) -> str | None:
    """The setting `accelerator` that `--device` stands for; None if the option is not given.

    Raises:
        ConfigError: if training does not take that device.
    """
    from crystalformers.training.recipe import accelerator_of

    return None if device is None else accelerator_of(device)


def parsed_settings(texts: list[str]) -> dict[str, Any]:
    """Settings given as `NAME=VALUE`, the value as YAML has it.

    Raises:
        ConfigError: if a text has another form.
    """
    from crystalformers.training.yaml_settings import read_yaml

    settings: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            settings[name.strip()] = read_yaml(value, f"--set {text}")
        except ConfigError:
            equals = ""
        if not equals or not name.strip():
            raise ConfigError(f"--set {text}: write SETTING=VALUE, for example lr=1e-3.")
    return settings


def merged_recipe(config: Path | None, flags: dict[str, Any], settings: list[str] | None = None) -> Recipe:
    """The recipe of a file, or the published one, with the settings of the command line in front.

    Args:
        config: the file.
        flags: settings with an option of their own, None where it was not given.
        settings: those given as `NAME=VALUE`.
    """
    from crystalformers.training.recipe import Recipe
    from crystalformers.training.yaml_settings import with_overrides

    given = parsed_settings(settings or []) | {name: value for name, value in flags.items() if value is not None}
    return Recipe.load(config, given) if config else Recipe.parse(with_overrides({}, given))
