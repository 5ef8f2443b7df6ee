"""`crystalformers join`: finished runs on the same rows become one ensemble."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalformers.cli import options


def join_command(
    table: options.TrainingTable,
    runs: Annotated[list[Path], typer.Argument(help="Run folders, two or more.", show_default=False)],
    output: options.RunFolder,
    label: options.Labels = None,
    split: options.SplitName = None,
    device: options.Device = None,
    threads: options.Threads = None,
) -> None:
    """Join finished runs to one ensemble, with intervals of its own.

    The runs must have learned the same targets from the same rows of TABLE, with other seeds or other settings. Their
    common validation rows tell how wide the intervals must be and how far the members usually agree.
    """
    from crystalformers.cli.train import opened
    from crystalformers.cli.training_progress import terminal_observer
    from crystalformers.prediction.loading import load_model
    from crystalformers.training import join_runs

    chosen = options.set_up(device, threads)
    targets = list(load_model(runs[0]).targets)
    rows = opened(table, targets, options.renamed_labels(label), split)
    weights = join_runs(rows, runs, output, device=chosen, observer=terminal_observer())
    typer.echo(f"weights: {weights}")
