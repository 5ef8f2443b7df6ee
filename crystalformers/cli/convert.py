"""`crystalformers convert`: a checkpoint of the authors' code becomes weights of this library, or the other way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalformers.cli.options import Overwrite
from crystalformers.cli.output import check_output
from crystalformers.errors import ConfigError

if TYPE_CHECKING:
    from crystalformers.target import Target


def convert_command(
    source: Annotated[
        Path, typer.Argument(help="Checkpoint or state dict of the authors' code, or a weight file of this library.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Weight file of this library (.safetensors) or of the authors' (.ckpt, .pt, .pth, .safetensors).",
        ),
    ],
    preset: Annotated[
        str | None, typer.Option(help="The published model that a state dict holds, e.g. crystalformer.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="What the authors' file predicts, if it does not say; repeat for several."),
    ] = None,
    unit: Annotated[list[str] | None, typer.Option("--unit", help="Unit of each such target, e.g. eV/atom.")] = None,
    mean: Annotated[
        list[float] | None, typer.Option("--mean", help="Mean of each in training, in its unit. Default: 0.")
    ] = None,
    std: Annotated[
        list[float] | None, typer.Option("--std", help="Standard deviation of each, in its unit. Default: 1.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Convert checkpoints of the authors' code, both ways.

    A checkpoint of the authors' code becomes weights of this library, and the other way. What could not be mapped is
    listed on stderr.
    """
    from crystalformers.checkpoint import load_checkpoint, save_model
    from crystalformers.paper_checkpoints import is_paper_checkpoint, load_paper_checkpoint, save_paper_checkpoint
    from crystalformers.paper_checkpoints.files import TORCH

    theirs = is_paper_checkpoint(source)
    check_output(output, (".safetensors",) if theirs else (".safetensors", *TORCH), overwrite=overwrite)
    targets = _targets(target or [], unit or [], mean, std)
    if theirs:
        found = load_paper_checkpoint(source, preset, targets)
        save_model(output, found.model, found.targets, found.card)
        for note in found.card["unmapped"]:
            typer.echo(f"not mapped: {note}", err=True)
        return
    if preset is not None or targets is not None:
        problem = "a file of this library holds its own settings and targets"
        raise ConfigError(problem, where=str(source), remedy="leave out yours")
    checkpoint = load_checkpoint(source)
    save_paper_checkpoint(checkpoint.model, output, checkpoint.targets)


def _targets(
    names: Sequence[str], units: Sequence[str], mean: Sequence[float] | None, std: Sequence[float] | None
) -> list[Target] | None:
    """The targets that the options describe; None if there are none.

    Raises:
        ConfigError: if there is not one value of each option for each target.
    """
    from crystalformers.target import Target

    for option, values in (("--unit", units), ("--mean", mean), ("--std", std)):
        if values is not None and len(values) != len(names):
            problem = f"{len(names)} --target and {len(values)} {option} were given"
            raise ConfigError(problem, remedy="give one for each target")
    means, stds = mean or [0.0] * len(names), std or [1.0] * len(names)
    scales = zip(names, units, means, stds, strict=True)
    return [Target(name, unit, mean=m, std=s) for name, unit, m, s in scales] or None
