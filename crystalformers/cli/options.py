"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Structure files (CIF, POSCAR, extxyz, JSON), directories or tables (.parquet, .csv, .jsonl).",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1...")]
Tolerance = Annotated[
    float, typer.Option(help="Share of the attention to distant images (no unit, 0 to 1) that may be left out.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")]

TrainingTable = Annotated[
    Path,
    typer.Argument(help="Table with structures and labels (.parquet, .csv, .jsonl), or a data set by its name."),
]
SplitName = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Of a table with several splits: NAME for the column split_NAME. Default: the split that is published for "
        "the target, else the column split.",
        show_default=False,
    ),
]
TargetNames = Annotated[
    list[str], typer.Option("--target", help="Column to learn; repeat for several.", show_default=False)
]
TargetUnits = Annotated[
    list[str] | None,
    typer.Option(
        "--unit",
        help="Unit of each target, e.g. eV/atom, GPa, or dimensionless. Default: that of the data set.",
        show_default=False,
    ),
]
TargetBases = Annotated[
    list[str] | None,
    typer.Option(
        "--basis",
        help="Of each target: intensive, per_atom, or per_cell (grows with the cell). Default: that of the data "
        "set, else intensive.",
        show_default=False,
    ),
]
TargetTransforms = Annotated[
    list[str] | None,
    typer.Option(
        "--transform", help="Of each target before learning: none or log10. Default: none.", show_default=False
    ),
]
RecipeFile = Annotated[Path | None, typer.Option("--config", help="Recipe (YAML). Default: the published recipe.")]
StartModel = Annotated[
    str | None,
    typer.Option(
        "--init",
        help="Trained model to start from (fine-tuning): a bundled name, run folder or weight file.",
        show_default=False,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SETTING=VALUE",
        help="Any setting of the recipe, e.g. lr=1e-3 or init.freeze=2; repeat for several.",
        show_default=False,
    ),
]
ResumeTraining = Annotated[
    bool, typer.Option("--resume", help="Go on with an interrupted run: repeat its command with this flag.")
]
RunFolder = Annotated[Path, typer.Option("--output", "-o", help="Run folder to write.", show_default=False)]
