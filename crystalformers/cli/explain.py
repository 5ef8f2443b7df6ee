"""`crystalformers explain`: one structure file in, what the model attends to out, as a table, JSON or a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalformers.cli.options import Device, OneModel, Overwrite, Species, Threads, Tolerance, set_up, symbols
from crystalformers.cli.output import check_output, print_table
from crystalformers.errors import ConfigError
from crystalformers.files import PICTURES

if TYPE_CHECKING:
    from crystalformers.explain import Explanation

SUFFIXES = (".json", ".csv", *PICTURES)


def explain_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    file: Annotated[Path, typer.Argument(help="Structure file (CIF, POSCAR, extxyz, JSON).")],
    model: OneModel = None,
    atom: Annotated[
        int | None, typer.Option(help="Atom of the file, counted from 0. Default: all; the first in a picture.")
    ] = None,
    block: Annotated[
        int | None, typer.Option(help="Block of the model, from 0. Default: all; the last in a picture.")
    ] = None,
    head: Annotated[int | None, typer.Option(help="Head to draw, from 0. Default: the mean over heads.")] = None,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Draw all blocks and heads next to each other (a picture, needs -o).")
    ] = False,
    threshold: Annotated[float, typer.Option(help="Smallest weight (no unit, 0 to 1) that is listed.")] = 0.01,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help=f"File to write: {', '.join(SUFFIXES)}. Default: a table on stdout."),
    ] = None,
    species: Species = "",
    device: Device = None,
    threads: Threads = None,
    tolerance: Tolerance = 1e-7,
    overwrite: Overwrite = False,
) -> None:
    """Show which periodic images each atom attends to.

    The table has the weights and the widths of decay (Å); JSON and pictures have the frames as well. The weights of
    an atom, block and head add up to 1. Heads in reciprocal space give an atom one weight for all its images, and
    have no distances.
    """
    if output is not None:
        check_output(output, SUFFIXES, overwrite=overwrite)
    picture = output is not None and output.suffix in PICTURES
    if gallery and (not picture or block is not None or head is not None):
        remedy = f"name an output that ends in {', '.join(PICTURES)}, and neither --block nor --head"
        raise ConfigError("it is a picture of all blocks and heads", where="--gallery", remedy=remedy)

    from crystalformers.explain import draw, draw_gallery, explain
    from crystalformers.io import read_crystal
    from crystalformers.prediction.loading import load_model

    atom = 0 if picture and atom is None else atom
    crystal = read_crystal(file, symbols(species))
    explanation = explain(load_model(model, set_up(device, threads), tolerance), crystal, atom, block)
    if output is None:
        _print(explanation, threshold)
    elif gallery:
        assert atom is not None
        draw_gallery(explanation, atom, output)
    elif picture:
        assert atom is not None
        draw(explanation, atom, output, block=block, head=head)
    else:
        from crystalformers.files import write_atomically

        if output.suffix == ".json":
            text = json.dumps(explanation.to_dict(threshold), indent=1) + "\n"
        else:
            text = explanation.frame(threshold).to_csv(index=False, float_format="%.7g")
        write_atomically(output, text.encode())


def _print(explanation: Explanation, threshold: float) -> None:
    rows = []
    for row in explanation.frame(threshold).to_dict("records"):
        single = row["space"] == "real"
        cells = (
            f"{row['symbol']} {row['atom']}",
            str(row["block"]),
            str(row["head"]),
            f"{row['sigma (Å)']:.3f}",
            f"{row['source_symbol']} {row['source']}",
            " ".join(str(row[f"n{k}"]) for k in (1, 2, 3)) if single else "all",
            f"{row['distance (Å)']:.3f}" if single else "",
            f"{row['weight']:.4f}",
        )
        rows.append(cells)
    right = ("block", "head", "sigma (Å)", "n", "distance (Å)", "weight")
    print_table(("atom", *right[:3], "attends to", *right[3:]), rows, right=right)
