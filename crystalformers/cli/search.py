"""`crystalformers search`: an index of crystals, and those in it that are most like a given one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalformers.cli.options import Device, OneModel, Overwrite, Threads, set_up
from crystalformers.cli.output import check_output, print_table
from crystalformers.cli.progress import progress
from crystalformers.files import PICTURES

search_app = typer.Typer(no_args_is_help=True, help="Find crystals like a given one by the vectors of a model.")


@search_app.command("build")
def build_command(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="What to search: tables, folders, archives, addresses as of screen."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the index; it must not exist.")],
    model: OneModel = None,
    threads: Threads = None,
    device: Device = None,
) -> None:
    """Write an index: the vector of each crystal, and the properties that the model predicts.

    The exit code is 1 if structures could not be used; the index names them in rejected.parquet.
    """
    from crystalformers.search import REJECTS, build_index

    with progress("embedding", None) as advance:
        count, rejected = build_index(sources, output, model, advance, set_up(device, threads))
    typer.echo(f"{output}: {count} crystals.", err=True)
    if rejected:
        typer.echo(f"{output / REJECTS}: {rejected} structures that could not be used.", err=True)
        raise typer.Exit(1)


@search_app.command("query")
def query_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    file: Annotated[Path, typer.Argument(help="Structure file.")],
    index: Annotated[Path, typer.Option("--index", help="Folder of the index.")],
    count: Annotated[int, typer.Option("--count", "-k", min=1, help="How many crystals.")] = 10,
    where: Annotated[str, typer.Option(help="Only those for which this holds, e.g. 'band_gap > 1'.")] = "",
    formula: Annotated[str, typer.Option(help="Only those of this reduced formula.")] = "",
    elements: Annotated[str, typer.Option(help="Only those that hold all of these elements, as in Ti,O.")] = "",
    picture: Annotated[
        Path | None, typer.Option(help=f"Also draw the structure and those found, to a file ({', '.join(PICTURES)}).")
    ] = None,
    threads: Threads = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Print the crystals of an index whose vectors are nearest to that of a structure."""
    if picture is not None:
        check_output(picture, PICTURES, overwrite=overwrite)
    from crystalformers.cli.options import symbols
    from crystalformers.io import read_crystal
    from crystalformers.search import Index

    found, crystal = Index(index, set_up(device, threads)), read_crystal(file)
    table = found.query(crystal, count, where, formula, symbols(elements))
    headers = ["distance", "name", "formula", "n_atoms", *found.units]
    titles = [*headers[:3], "atoms", *(f"{name} ({unit})" for name, unit in found.units.items())]
    rows = zip(*(table[name].to_pylist() for name in headers), strict=True)
    cells = ([f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)
    print_table(titles, cells, right=[titles[0], *titles[3:]])
    if picture is not None:
        from crystalformers.search.picture import draw_neighbours

        draw_neighbours(crystal, found.crystals(table), table[headers[0]].to_pylist(), picture)
        typer.echo(f"{picture}: {table.num_rows + 1} structures.", err=True)
