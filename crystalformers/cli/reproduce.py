"""`crystalformers reproduce`: a published number by its name, trained again, beside what was published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalformers.cli import options
from crystalformers.cli.output import print_table
from crystalformers.errors import ConfigError

if TYPE_CHECKING:
    from crystalformers.reproduction import Published, Result
    from crystalformers.training.recipe import Recipe

OUTPUT = Path("runs/reproduce")


def reproduce_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    name: Annotated[
        str | None, typer.Argument(help="A published number, e.g. crystalformer/jarvis/formation-energy.")
    ] = None,
    listed: Annotated[
        bool, typer.Option("--list", help="List all published numbers, or those whose name begins with NAME.")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Trainings that differ in the seed, counted up from the paper's.")] = 1,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of all reproductions.")] = OUTPUT,
    published: Annotated[
        bool, typer.Option("--published", help="Follow the authors' training also where ours differs on purpose.")
    ] = False,
    settings: options.Settings = None,
    device: options.Device = None,
    threads: options.Threads = None,
    show_recipe: Annotated[bool, typer.Option("--recipe", help="Print the whole recipe and train nothing.")] = False,
    resume: options.ResumeTraining = False,
) -> None:
    """Train what a paper trained, and print its error beside the published one.

    Fetches the data set if it is not here, takes the published split and recipe, and trains each seed in a run folder
    of its own. After an interruption the same command goes on with --resume.
    """
    from crystalformers.reproduction import find

    if listed:
        _print_list(name or "", output)
        return
    if name is None:
        raise ConfigError("name a published number", remedy="'crystalformers reproduce --list' shows all of them")
    row = find(name)
    from crystalformers.cli.train import accelerator, parsed_settings
    from crystalformers.reproduction import plan

    flags = {"threads": threads, "accelerator": accelerator(device)}
    changes = parsed_settings(settings or []) | {key: value for key, value in flags.items() if value is not None}
    recipes = plan(row, seeds, changes, follow_authors=published)
    if show_recipe:
        typer.echo(next(iter(recipes.values())).to_yaml(), nl=False)
        return
    result = _reproduced(row, recipes, output, resume=resume)
    print_table(
        ("published number", "split", "published MAE", "MAE here", "unit", "crystals", "seeds"),
        [_cells(row, result)],
        right=("published MAE", "MAE here", "crystals"),
    )
    for setting, value in result.changes.items():
        typer.echo(f"not the recipe of the paper: {setting} = {value}", err=True)
    typer.echo(f"result: {output / row.name / 'result.json'}")


def _reproduced(row: Published, recipes: Mapping[int, Recipe], output: Path, *, resume: bool) -> Result:
    from crystalformers.cli.training_progress import terminal_observer
    from crystalformers.data.sets import Store
    from crystalformers.reproduction import reproduce

    if Store().about(row.data) is None:
        from crystalformers.cli.data import get_command

        typer.echo(f"{row.data} is not here; fetching it.", err=True)
        get_command(row.data)

    def started(seed: int, folder: Path) -> None:
        typer.echo(f"seed {seed}: {folder}", err=True)

    try:
        return reproduce(row, recipes, output, resume=resume, observer=terminal_observer(), started=started)
    except KeyboardInterrupt as stop:
        stop.args = (f"{stop}{'. ' if str(stop) else ''}Repeat the command with --resume to go on.",)
        raise


def _cells(row: Published, result: Result) -> tuple[str, ...]:
    spread = "" if result.spread is None else f" ± {result.spread:.2g}"
    seeds = ", ".join(map(str, result.errors))
    return (row.name, row.split, f"{row.mae:g}", f"{result.mean:.4g}{spread}", result.unit, str(result.n), seeds)


def _print_list(beginning: str, output: Path) -> None:
    from crystalformers.reproduction import published

    rows = [row for row in published().values() if row.name.startswith(beginning)]
    if not rows:
        remedy = "'crystalformers reproduce --list' shows all of them"
        raise ConfigError(f"no published number begins with '{beginning}'", remedy=remedy)
    for source in dict.fromkeys(row.source for row in rows):
        cells = [_listed(row, output) for row in rows if row.source == source]
        headers = ("name", "data set", "epochs x batch", "published MAE", "hours here", "ours")
        print_table(headers, cells, right=("published MAE", "hours here"), title=f"\n{source}")
    typer.echo(
        "\nhours here: of one training, estimated from the published epochs and crystals and the speed measured on two "
        "cores of an AMD EPYC (docs/reproduce.md)"
    )


def _listed(row: Published, output: Path) -> tuple[str, ...]:
    from crystalformers.reproduction import committed, read_result
    from crystalformers.reproduction.results import RESULT

    recipe = row.recipe() if row.training else None
    length = "-" if recipe is None else f"{recipe.epochs} x {recipe.batch_size}"
    hours = "-" if row.hours is None else f"{row.hours:,.1f}"
    found = [read_result(output / row.name / RESULT), committed(row.name)]
    ours = next((result.describe() for result in found if result is not None), "not run")
    return (row.name, row.data, length, f"{row.mae:g} {row.label.unit}", hours, ours)
