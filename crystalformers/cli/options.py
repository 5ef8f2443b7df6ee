"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crystalformers.errors import ConfigError

Files = Annotated[
    list[Path],
    typer.Argument(
        help="Structure files (CIF, POSCAR, extxyz, JSON, formats of ASE), directories or tables (.parquet, .csv, "
        ".jsonl, .db)."
    ),
]
OneModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Bundled name, run folder or weight file. Default: materials-project.",
    ),
]
Species = Annotated[
    str,
    typer.Option(
        "--species",
        help="Elements of POSCAR files that name none (VASP 4), one for each count, as in Na,Cl.",
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="Where to compute: cpu, cuda, cuda:1... Default: cpu; for training what the recipe says, a GPU if there "
        "is one."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads. Default: as many as PyTorch takes; for training what the recipe says."),
]
Tolerance = Annotated[
    float, typer.Option(help="Share of the attention to distant images (no unit, 0 to 1) that may be left out.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace output files that exist.")]

TrainingTable = Annotated[
    Path,
    typer.Argument(
        help="Table with structures and labels (.parquet, .csv, .jsonl, .json of Matbench or OPTIMADE, .db of ASE, a "
        "folder of CGCNN), or a data set by its name."
    ),
]
SplitName = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="Of a table with several splits: NAME for the column split_NAME. Default: the split that is published for "
        "the target, else the column split.",
    ),
]
TargetNames = Annotated[list[str], typer.Option("--target", help="Column to learn; repeat for several.")]
TargetUnits = Annotated[
    list[str] | None,
    typer.Option(
        "--unit", help="Unit of each target, e.g. eV/atom, GPa, or dimensionless. Default: that of the data set."
    ),
]
TargetBases = Annotated[
    list[str] | None,
    typer.Option(
        "--basis",
        help="Of each target: intensive, per_atom, or per_cell (grows with the cell). Default: that of the data "
        "set, else intensive.",
    ),
]
TargetTransforms = Annotated[
    list[str] | None, typer.Option("--transform", help="Of each target before learning: none or log10. Default: none.")
]
Labels = Annotated[
    list[str] | None,
    typer.Option(
        "--label",
        metavar="COLUMN=TARGET",
        help='A column that has another name than its target, e.g. "gap pbe=band_gap"; repeat for several.',
    ),
]
RecipeFile = Annotated[Path | None, typer.Option("--config", help="Recipe (YAML). Default: the recommended settings.")]
StartModel = Annotated[
    str | None,
    typer.Option(
        "--init", help="Trained model to start from (fine-tuning): a bundled name, run folder or weight file."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SETTING=VALUE",
        help="Any setting of the recipe, e.g. lr=1e-3 or init.freeze=2; repeat for several.",
    ),
]
RunFolder = Annotated[Path, typer.Option("--output", "-o", help="Run folder to write.")]
Epochs = Annotated[int | None, typer.Option(help="Passes over the training split; overrides the recipe.")]
Seed = Annotated[int | None, typer.Option(help="Seed of all randomness; overrides the recipe.")]
ResumeTraining = Annotated[
    bool, typer.Option("--resume", help="Go on with an interrupted run: repeat its command with this flag.")
]


def set_up(device: str | None, threads: int | None) -> str:
    """The device of a command that does not train, with its number of CPU threads in force."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return device or "cpu"


def renamed_labels(labels: list[str] | None) -> dict[str, str]:
    """The target of each column that `--label` names.

    Raises:
        ConfigError: if one is not of the form COLUMN=TARGET, or a column is named twice.
    """
    names: dict[str, str] = {}
    for text in labels or []:
        column, equals, target = (part.strip() for part in text.rpartition("="))
        if not column or not equals or not target:
            raise ConfigError(f"--label {text}: write COLUMN=TARGET, for example 'gap pbe=band_gap'")
        if column in names:
            raise ConfigError(f"--label names the column '{column}' twice", remedy="name each column once")
        names[column] = target
    return names


def symbols(species: str) -> list[str]:
    """The chemical symbols of `--species`.

    Raises:
        ConfigError: if one is unknown.
    """
    from crystalformers.periodic import ATOMIC_NUMBERS

    found = [symbol.strip() for symbol in species.split(",")] if species.strip() else []
    unknown = next((symbol for symbol in found if symbol not in ATOMIC_NUMBERS), None)
    if unknown is not None:
        raise ConfigError(f"'{unknown}' in --species is no element", remedy="write symbols, as in --species Na,Cl")
    return found
