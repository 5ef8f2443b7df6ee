"""`crystalformers elements`: train, export, analyse and show tables of element vectors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crystalformers.cli import options
from crystalformers.cli.output import check_output, print_table
from crystalformers.cli.train import accelerator, merged_recipe, run_training, table_targets

if TYPE_CHECKING:
    from crystalformers.elements import ElementTable

TABLE_OF_RUN = "elements.safetensors"
"""The file in the run folder that `train` writes the table to."""

TableName = Annotated[
    str,
    typer.Argument(
        help="A table by name (`elements show` lists them), a file of any export format, weights or a run folder."
    ),
]

elements_app = typer.Typer(
    help="Element vectors: train, export, analyse and show them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@elements_app.command("train")
def train(  # noqa: PLR0913, PLR0917 - an option is an argument
    table: options.TrainingTable,
    config: Annotated[Path, typer.Option("--config", help="Recipe (YAML), e.g. recipes/elements.yaml.")],
    target: options.TargetNames,
    output: options.RunFolder,
    unit: options.TargetUnits = None,
    basis: options.TargetBases = None,
    transform: options.TargetTransforms = None,
    split: options.SplitName = None,
    preset: Annotated[
        str | None, typer.Option(help="Model to train, e.g. crystaltransformer-composition; overrides the recipe.")
    ] = None,
    epochs: options.Epochs = None,
    seed: options.Seed = None,
    name: Annotated[str | None, typer.Option(help="Name of the table. Default: that of the run folder.")] = None,
    settings: options.Settings = None,
    device: options.Device = None,
    threads: options.Threads = None,
    resume: options.ResumeTraining = False,
) -> None:
    """Train a model and write its element vectors to elements.safetensors in the run folder.

    Elements that do not occur in training have no vector.
    """
    targets = table_targets(table, target, unit, basis, transform)
    flags = {"preset": preset, "epochs": epochs, "seed": seed, "threads": threads, "accelerator": accelerator(device)}
    recipe = merged_recipe(config, flags, settings)

    from crystalformers.elements.trained import from_model

    weights = run_training(table, targets, output, recipe, split=split, resume=resume)
    vectors = from_model(weights, name=name or output.resolve().name)
    vectors.save(output / TABLE_OF_RUN)
    typer.echo(f"table: {output / TABLE_OF_RUN} ({len(vectors)} elements, {vectors.dim} numbers each)")


@elements_app.command("export")
def export_command(
    table: TableName,
    fmt: Annotated[
        str,
        typer.Option("--format", "-f", help="cgcnn, alignn, json, csv, crabnet, matgl, parquet, npz or safetensors."),
    ],
    output: Annotated[Path, typer.Option("--output", "--out", "-o", help="File to write.")],
    dim: Annotated[int | None, typer.Option(help="Reduce the vectors to this many principal components.")] = None,
    fill: Annotated[
        str, typer.Option(help="For elements that the format needs and the table lacks: raise (refuse), mean or zero.")
    ] = "raise",
    counted: Annotated[
        Path | None,
        typer.Option(
            "--training-table",
            help="For weights without element counts: count the elements in the train rows of this table.",
        ),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Export a table to the format of another library."""
    from typing import get_args

    from crystalformers.elements import load_elements
    from crystalformers.elements.export import export
    from crystalformers.elements.formats import FORMATS
    from crystalformers.elements.table import Fill
    from crystalformers.errors import ConfigError

    if fmt not in FORMATS:
        raise ConfigError(f"--format {fmt} is not one of {', '.join(FORMATS)}")
    if fill not in get_args(Fill):
        raise ConfigError(f"--fill {fill} is not one of {', '.join(get_args(Fill))}")
    check_output(output, [FORMATS[fmt].suffix], overwrite=overwrite)
    vectors = load_elements(table) if counted is None else _counted(table, counted)
    written = export(vectors, output, fmt, dim=dim, fill=fill)  # type: ignore[arg-type] # checked above
    if filled := written.metadata.get("filled"):
        got = "zeros" if fill == "zero" else "the mean of all others"
        typer.echo(f"{len(filled)} elements have no vector and got {got}: {', '.join(filled)}", err=True)
    typer.echo(f"{output}: {len(written)} elements, {written.dim} numbers each")


def _counted(model: str, training_table: Path) -> ElementTable:
    import numpy as np

    from crystalformers.data.table import open_table
    from crystalformers.elements.trained import from_model
    from crystalformers.errors import ConfigError
    from crystalformers.training.exclusion import element_counts

    rows = open_table(training_table)
    if rows.split is None:
        problem = "there is no column 'split' that tells which rows were trained on"
        raise ConfigError(problem, where=str(training_table))
    return from_model(model, element_counts(rows, np.flatnonzero(np.array(rows.split) == "train")))


@elements_app.command("report")
def report(
    tables: Annotated[
        list[str],
        typer.Argument(
            help="Tables, as for export. The first is the subject; NAME-seed0, NAME-seed1... are its seeds."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "--out", "-o", help="Folder to write.")],
    seed: Annotated[int, typer.Option(help="Seed of all randomness.")] = 0,
    draws: Annotated[
        int | None, typer.Option(help="Random draws for each comparison with chance. Default: 99, for p = 0.01.", min=1)
    ] = None,
    families: Annotated[
        int | None, typer.Option(help="Number of families of elements. Default: by the silhouette.", min=2)
    ] = None,
    paper: Annotated[
        bool,
        typer.Option("--paper", help="Also divide the elements as the CrystalTransformer paper: UMAP and k-means."),
    ] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Analyse tables and write a page: families of elements, maps, probes of properties, similar elements."""
    from crystalformers.elements import load_elements
    from crystalformers.elements.analysis.spaces import DRAWS
    from crystalformers.elements.report import write_report

    loaded = [load_elements(name) for name in tables]
    draws = DRAWS if draws is None else draws
    say = partial(typer.echo, err=True)
    chosen: dict[str, Any] = {"draws": draws, "n_clusters": families, "overwrite": overwrite, "paper": paper}
    page = write_report(loaded, output, seed, progress=say, **chosen)
    typer.echo(f"page: {page}")


@elements_app.command("show")
def show(
    table: Annotated[str | None, typer.Argument(help="A table, as for export. Default: list the known ones.")] = None,
    element: Annotated[str | None, typer.Argument(help="A chemical symbol: list the most similar elements.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", help="How many of them.", min=1)] = 10,
) -> None:
    """List the known tables, the elements of a table, or the neighbours of an element."""
    from crystalformers.elements import load_elements

    if table is None:
        _show_names()
    elif element is None:
        _show_table(load_elements(table))
    else:
        _show_neighbours(load_elements(table), element, count)


def _show_names() -> None:
    from crystalformers.elements import library, load_elements, sources

    rows = []
    for name in library.bundled_names():
        table = load_elements(name)
        properties = ", ".join(target["name"] for target in table.metadata.get("targets", []))
        rows.append((name, str(len(table)), str(table.dim), properties or "-"))
    print_table(("bundled table", "elements", "numbers each", "learned from"), rows)
    typer.echo(f"for comparison: {', '.join(sources.names())}")


def _show_table(table: ElementTable) -> None:
    typer.echo(f"{table.name}: {len(table)} elements, {table.dim} numbers each")
    for key in ("source", "architecture", "seed", "licence", "citation"):
        if (value := table.metadata.get(key)) not in (None, [], ""):
            typer.echo(f"{key}: {value}")
    for target in table.metadata.get("targets", []):
        typer.echo(f"trained on: {target['name']} ({target['unit']})")
    if table.counts is None:
        typer.echo(f"elements: {' '.join(table)}")
        return
    pairs = sorted(zip(table, table.counts.tolist(), strict=True), key=lambda pair: -pair[1])
    typer.echo("training crystals with each element:")
    typer.echo("  " + ", ".join(f"{symbol} {number}" for symbol, number in pairs))


def _show_neighbours(table: ElementTable, element: str, count: int) -> None:
    from crystalformers.elements.similarity import nearest, oxidation_states

    neighbours = nearest(table, element, count)
    own = set(oxidation_states(element))
    seen: dict[str, Any] = {} if table.counts is None else dict(zip(table, table.counts.tolist(), strict=True))
    rows = []
    for other in neighbours:
        common = sorted(own & set(oxidation_states(other.symbol)))
        states = " ".join(f"{state:+d}" for state in common) or "-"
        rows.append((other.symbol, f"{other.cosine:.3f}", states, str(seen.get(other.symbol, "-"))))
    print_table(("element", "cosine", "oxidation states in common", "training crystals"), rows)
