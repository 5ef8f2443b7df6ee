"""`crystalformers evaluate`: the errors of a model on a labelled table."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalformers.cli.options import Device, Labels, Overwrite, Threads, Tolerance, renamed_labels, set_up
from crystalformers.cli.output import check_output, complain, print_table, write_parquet
from crystalformers.cli.progress import progress

if TYPE_CHECKING:
    from crystalformers.data.table import CrystalTable
    from crystalformers.prediction.evaluation import Evaluation
    from crystalformers.prediction.several import Models


def evaluate_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    table: Annotated[
        Path, typer.Argument(help="Table, as of train, with label columns named like the model's targets; see --label.")
    ],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            help="Run folder, weight file or bundled name; repeat for several. Models of the same target are an "
            "ensemble, whose mean is measured.",
        ),
    ],
    split: Annotated[
        str | None, typer.Option(help="train, val, test, or all. Default: test if the split is known, else all.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the errors as JSON to this file.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option(help="Write id, labels, predictions (in the unit) and flags to this .parquet file.")
    ] = None,
    label: Labels = None,
    device: Device = None,
    threads: Threads = None,
    tolerance: Tolerance = 1e-7,
    overwrite: Overwrite = False,
) -> None:
    """Measure the errors of a model on a labelled table.

    They are MAE, RMSE and R2 of each target, in its unit, and the errors of a baseline that predicts the mean of
    the training labels for every structure. The split stored in a run folder takes precedence over the column
    `split` of the table; of several run folders it must be the same. If some structures are unlike the training
    data of the model, as those of another database may be, the errors of these and of the others are given apart.
    """
    for path, suffix in ((output, ".json"), (predictions, ".parquet")):
        if path is not None:
            check_output(path, [suffix], overwrite=overwrite)

    from crystalformers.data.table import open_table
    from crystalformers.prediction.evaluation import evaluate_rows
    from crystalformers.prediction.loading import load_model

    opened, loaded = (
        open_table(table, labels=renamed_labels(label)),
        load_model(model, set_up(device, threads), tolerance),
    )
    chosen, rows = _rows(opened, split, model)
    with progress("evaluating", len(rows)) as advance:
        result = evaluate_rows(loaded, opened, chosen, rows, advance)
    _print_scores(result)
    if predictions is not None:
        _write_rows(predictions, result)
    if output is not None:
        _write_report(output, result, loaded, opened.fingerprint)
    complain(result.rejected)


def _rows(table: CrystalTable, split: str | None, models: list[str]) -> tuple[str, list[int]]:
    """The name of the split and the numbers of its rows, which must be the same for all run folders."""
    from crystalformers.errors import ConfigError
    from crystalformers.prediction.evaluation import select_rows

    runs = [Path(model) for model in models if Path(model).is_dir()]
    chosen = [select_rows(table, split, run) for run in runs] or [select_rows(table, split, None)]
    for run, other in zip(runs, chosen, strict=False):
        if other != chosen[0]:
            problem = f"'{runs[0]}' and '{run}' divided the table in different ways"
            raise ConfigError(
                f"{problem}: one may have learned from test rows of the other",
                where="-m",
                remedy="evaluate them one by one",
            )
    return chosen[0]


def _print_scores(result: Evaluation) -> None:
    rows = []
    for score in result.scores:
        numbers = (score.mae, score.rmse, score.r2, score.baseline_mae, score.baseline_rmse)
        cells = ("-" if number is None else f"{number:.4g}" for number in numbers)
        rows.append((score.target, score.unit, str(score.n), *cells))
    headers = ("unit", "n", "MAE", "RMSE", "R2", "baseline MAE", "baseline RMSE")
    print_table(("target", *headers), rows, right=headers, title=f"split: {result.split}")
    if any(result.flags):
        _print_domain_scores(result)


def _print_domain_scores(result: Evaluation) -> None:
    rows = []
    for score in result.domain_scores:
        numbers = (score.mae_inside, score.mae_outside, score.ratio)
        cells = ("-" if number is None else f"{number:.4g}" for number in numbers)
        rows.append((score.target, score.unit, str(score.n_inside), str(score.n_outside), *cells))
    headers = ("unit", "n inside", "n outside", "MAE inside", "MAE outside", "ratio")
    print_table(("target", *headers), rows, right=headers, title="inside and outside the domain of the training data")


def _write_report(path: Path, result: Evaluation, models: Models, table: str) -> None:
    from crystalformers import __version__
    from crystalformers.files import write_atomically

    report = {
        "crystalformers": __version__,
        "models": [{"name": model.name, "sha256": model.fingerprint} for model in models.models],
        "table": table,
        "split": result.split,
        "tolerance": models.models[0].tolerance,
        "rejected": len(result.rejected),
        "scores": [asdict(score) for score in result.scores],
        "domain": [asdict(score) for score in result.domain_scores],
    }
    write_atomically(path, (json.dumps(report, indent=2) + "\n").encode())


def _write_rows(path: Path, result: Evaluation) -> None:
    import pyarrow as pa

    fields, columns = [pa.field("id", pa.string())], [pa.array(result.ids, pa.string())]
    for k, score in enumerate(result.scores):
        for kind, values in (("label", result.labels), ("prediction", result.predictions)):
            fields.append(pa.field(f"{score.target}_{kind}", pa.float64(), metadata={"unit": score.unit}))
            columns.append(pa.array(values[:, k], from_pandas=True))
    fields.append(pa.field("flag", pa.string()))
    columns.append(pa.array(result.flags, pa.string()))
    schema = pa.schema(fields)
    write_parquet(path, schema, [pa.Table.from_arrays(columns, schema=schema)])
