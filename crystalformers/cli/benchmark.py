"""`crystalformers benchmark`: the errors of a recipe by the folds that a table names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalformers.cli.options import (
    Device,
    ResumeTraining,
    Settings,
    StartModel,
    Threads,
    TrainingTable,
)
from crystalformers.cli.output import print_table
from crystalformers.cli.train import accelerator, merged_recipe, table_targets
from crystalformers.errors import ConfigError


def benchmark_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    table: TrainingTable,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write.")],
    target: Annotated[str | None, typer.Option(help="Column to learn. Default: the only one of the data set.")] = None,
    unit: Annotated[str | None, typer.Option(help="Its unit. Default: that of the data set.")] = None,
    basis: Annotated[str | None, typer.Option(help="intensive, per_atom or per_cell. Default: as stated.")] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "--config", help="Recipe (YAML). Default: the recommended settings.")
    ] = None,
    init: StartModel = None,
    settings: Settings = None,
    fold: Annotated[list[int] | None, typer.Option(help="Repeat for several. Default: all.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each fold; their mean is measured too.")] = 1,
    device: Device = None,
    threads: Threads = None,
    resume: ResumeTraining = False,
) -> None:
    """Train and predict each fold of a benchmark, such as matbench_phonons, by models that never see its rows.

    The folds are those of a column 'fold' or 'matbench_fold', or of a public data set. The folder gets every
    prediction (predictions.parquet), the errors (result.json), and, for a task of Matbench with all folds, the file
    that its package reads (matbench.json).
    """
    from crystalformers.benchmark import run_folds, write_matbench
    from crystalformers.cli.training_progress import terminal_observer
    from crystalformers.data.sets import resolve
    from crystalformers.data.table import open_table

    names = [target] if target else list(resolve(table).labels)
    if len(names) != 1:
        raise ConfigError("name what to learn with --target", where=str(table))
    (learned,) = table_targets(table, names, [unit] if unit else None, [basis] if basis else None, None)
    flags = {"init.model": init, "threads": threads, "accelerator": accelerator(device)}
    merged = merged_recipe(recipe, flags, settings)
    try:
        results = run_folds(
            open_table(table),
            learned,
            output,
            merged,
            folds=fold,
            seeds=seeds,
            resume=resume,
            observer=terminal_observer(),
            done=lambda fold, seed, error: typer.echo(f"fold {fold} seed {seed}: {error:.4g} {learned.unit}", err=True),
        )
    except KeyboardInterrupt as stop:
        stop.args = (f"{stop}. Run the same command with --resume to continue in {output}.",)
        raise
    summary = results.summary()
    seeds_done = sorted(summary["mean_over_folds"], key=int)
    rows = [
        [
            f"fold {number}",
            *(summary["mae"][str(number)][seed] for seed in seeds_done),
            summary["mae_of_mean"][str(number)],
        ]
        for number in summary["folds"]
    ]
    rows.append(
        ["mean", *(summary["mean_over_folds"][seed] for seed in seeds_done), summary["mean_over_folds_of_mean"]]
    )
    header = [f"MAE ({learned.unit})", *(f"seed {seed}" for seed in seeds_done), "mean of seeds"]
    print_table(header, [[row[0], *(f"{error:.4g}" for error in row[1:])] for row in rows])
    task = table.stem
    if task.startswith("matbench_") and len(summary["folds"]) == 5:
        about = {"algorithm": "crystalformers", "architecture": merged.architecture, "seeds": seeds}
        write_matbench(output / "matbench.json", task, results, about)
        typer.echo(f"wrote {output / 'matbench.json'}", err=True)
