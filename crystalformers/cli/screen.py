"""`crystalformers screen`: any number of structures in, the predictions that are chosen out, on one machine or many."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalformers.cli.options import Device, Tolerance
from crystalformers.cli.progress import progress
from crystalformers.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable


def screen_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Parquet tables, folders of tables or structure files, archives (.zip, .tar, .tar.gz) of structure "
            "files; paths or addresses such as s3://bucket/folder.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")],
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="As of predict; repeat for several. Default: materials-project.",
        ),
    ] = None,
    where: Annotated[
        str, typer.Option(help="Write only rows for which this holds, e.g. 'band_gap > 1 and n_atoms < 20'.")
    ] = "",
    top: Annotated[int, typer.Option(min=0, help="Write only so many rows, the first by --by. Default: all.")] = 0,
    by: Annotated[str, typer.Option(metavar="COLUMN", help="Column whose largest values --top takes.")] = "",
    lowest: Annotated[bool, typer.Option("--lowest", help="Take the smallest values instead.")] = False,
    shard: Annotated[
        str, typer.Option(metavar="K/N", help="Run the K-th of N shares only, so that any scheduler can run N of them.")
    ] = "1/1",
    engine: Annotated[str, typer.Option(help="Who runs the parts: local, slurm or ray.")] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes (local), jobs (slurm) or tasks at once (ray). Default: as many as fit."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="For the engine, e.g. slurm_partition=long or address=auto; repeat for several."
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of the local engine, each in a process of its own: as --workers."),
    ] = None,
    device: Device = None,
    tolerance: Tolerance = 1e-7,
    part_size: Annotated[
        int | None, typer.Option(min=1, help="Structures of a part, which is what a kill can cost. Default: 2048.")
    ] = None,
) -> None:
    """Predict millions of structures and write those that are chosen.

    The same command goes on after Ctrl-C or a kill; each structure is predicted once. OUTPUT/predictions is a folder of
    Parquet files, OUTPUT/rejected names the structures that could not be used. The exit code is 1 if there are any.
    """
    from crystalformers.prediction.bundled import DEFAULT
    from crystalformers.screening import PART_SIZE, TOP, Choice, Resources, screen

    resources = Resources(
        engine,
        _processes(engine, workers, threads),
        dict(map(_option, option or [])),
        _shard(shard),
        device or "cpu",
    )
    with ExitStack() as stack:

        def begin(total: int | None, done: int) -> Callable[[int], None]:
            return stack.enter_context(progress("screening", total, done, rate=True))

        found = screen(
            sources,
            output,
            model or [DEFAULT],
            Choice(where, top, by, lowest),
            resources=resources,
            tolerance=tolerance,
            part_size=part_size or PART_SIZE,
            begin=begin,
        )
    table = output / (TOP if top and not found.parts_left else "predictions")
    typer.echo(f"{table}: {found.selected} of {found.structures} structures.", err=True)
    if found.parts_left:
        typer.echo(f"{found.parts_left} parts of other shards are not finished.", err=True)
    if found.rejected:
        typer.echo(f"{output / 'rejected'}: {found.rejected} structures that could not be used.", err=True)
        raise typer.Exit(1)


def _processes(engine: str, workers: int | None, threads: int | None) -> int | None:
    if threads is None:
        return workers
    if workers is not None or engine != "local":
        problem = "it counts the processes of the local engine, which have one thread each"
        raise ConfigError(problem, where="--threads", remedy="use --workers alone")
    return threads


def _shard(text: str) -> tuple[int, int]:
    share, _, total = text.partition("/")
    if not (share.isdecimal() and total.isdecimal()):
        raise ConfigError(f"'{text}' is no share", where="--shard", remedy="write K/N, as in 1/4")
    return int(share), int(total)


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"'{text}' is no option", where="--option", remedy="write NAME=VALUE")
    return name.strip(), value.strip()
