"""What the verbs write and print: files and tables that carry units, complaints on stderr."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from crystalformers.errors import ConfigError
from crystalformers.files import replacing

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

Row = dict[str, Any]

UNFOLDED = 10_000
"""Width of a table that no terminal folds."""

LISTED = 20
"""Rejected structures named on stderr when the output file tells of all of them."""


def check_output(path: Path, suffixes: Sequence[str], *, overwrite: bool) -> None:
    """Refuse an output before anything is computed.

    Raises:
        ConfigError: if the suffix is unknown, the folder is absent, or the file is not to be replaced.
    """
    if path.suffix not in suffixes:
        raise ConfigError(f"{path}: the output must end in {' or '.join(suffixes)}.")
    if not path.parent.is_dir():
        raise ConfigError(f"{path}: there is no folder '{path.parent}'; create it first.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists; name another output, or replace it with --overwrite.")


def write_predictions(path: Path, about: dict[str, Any], windows: Iterable[list[Row]]) -> None:
    """Write rows in input order; the form follows from the suffix of `path`.

    .csv      columns name, formula, n_atoms, `target (unit)` to 7 digits, error
    .parquet  columns name, formula, n_atoms, one float64 per target (unit in its field's metadata), error
    .json     the object `about` (models, units, tolerance...) with a list `predictions`

    Args:
        path: the file, replaced at once when all rows are written.
        about: how the predictions were made; `about["units"]` maps target to unit.
        windows: lists of rows with name and either formula, n_atoms and values, or error.
    """
    write = {".csv": _write_csv, ".parquet": _write_parquet, ".json": _write_json}[path.suffix]
    with replacing(path) as temporary:
        write(temporary, about, windows)


def _write_csv(path: Path, about: dict[str, Any], windows: Iterable[list[Row]]) -> None:
    units = about["units"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        headers = [f"{target} ({unit})" for target, unit in units.items()]
        writer.writerow(["name", "formula", "n_atoms", *headers, "error"])
        for row in _rows(windows):
            values = [format(row["values"][target], ".7g") if "values" in row else "" for target in units]
            head = [row["name"], row.get("formula", ""), row.get("n_atoms", "")]
            writer.writerow([*head, *values, row.get("error", "")])


def _write_json(path: Path, about: dict[str, Any], windows: Iterable[list[Row]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(about, indent=1)[:-2] + ',\n "predictions": [')
        for index, row in enumerate(_rows(windows)):
            file.write((",\n  " if index else "\n  ") + json.dumps(row))
        file.write("\n ]\n}\n")


def _write_parquet(path: Path, about: dict[str, Any], windows: Iterable[list[Row]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    units = about["units"]
    fields = [
        pa.field("name", pa.string()),
        pa.field("formula", pa.string()),
        pa.field("n_atoms", pa.int64()),
        *(pa.field(target, pa.float64(), metadata={"unit": unit}) for target, unit in units.items()),
        pa.field("error", pa.string()),
    ]
    schema = pa.schema(fields, metadata={"crystalformers": json.dumps(about)})
    with pq.ParquetWriter(path, schema) as writer:
        for window in windows:
            rows = [{**row, **row.get("values", {})} for row in window]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write a Parquet file part by part; it appears under its name when all parts are there."""
    import pyarrow.parquet as pq

    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for table in tables:
            writer.write_table(table)


def _rows(windows: Iterable[list[Row]]) -> Iterator[Row]:
    return (row for window in windows for row in window)


def print_table(table: Table) -> None:
    """Print a rich table on stdout; into a file or pipe it is as wide as it needs, never folded."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else UNFOLDED).print(table)


def print_predictions(units: dict[str, str], rows: Iterable[Row]) -> None:
    """Print the predicted rows as a table; each target's unit stands in its header."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for header in ("structure", "formula"):
        table.add_column(header, overflow="fold")
    for header in ("atoms", *(f"{target} ({unit})" for target, unit in units.items())):
        table.add_column(escape(header), justify="right")
    for row in rows:
        if "values" in row:
            values = [format(row["values"][target], ".4g") for target in units]
            table.add_row(escape(row["name"]), row["formula"], str(row["n_atoms"]), *values)
    if table.row_count:
        print_table(table)


def complain(rejected: Sequence[tuple[str, str]], output: Path | None = None) -> None:
    """List rejected structures, (name, reason), on stderr and exit with 1; do nothing if there is none."""
    if not rejected:
        return
    typer.echo(f"{len(rejected)} structure{'s' if len(rejected) > 1 else ''} could not be used:", err=True)
    listed = rejected if output is None else rejected[:LISTED]
    for name, reason in listed:
        typer.echo(f"  {reason if name in reason else f'{name}: {reason}'}", err=True)
    if len(listed) < len(rejected):
        typer.echo(f"  ... and {len(rejected) - len(listed)} more, in the column error of {output}.", err=True)
    raise typer.Exit(1)
