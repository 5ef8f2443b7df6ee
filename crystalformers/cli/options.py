"""Arguments and options that several verbs share, so that they read and mean the same everywhere."""

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
    float, typer.Option(help="Share of attention (no unit, 0 to 1) that may be lost to distant images.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")]
