"""What commands check, print and report alike: output files, tables, structures that could not be used."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from crystalformers.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from crystalformers.io import Rejected
    from crystalformers.prediction.rows import Doubt, Row

UNFOLDED = 10_000
"""Width of a printed table that is not for a terminal, in characters: no line is broken."""

LISTED = 20
"""Rejected structures named on stderr if an output file names them all."""


def check_output(path: Path, suffixes: Sequence[str], *, overwrite: bool) -> None:
    """Refuse an output file before anything is computed.

    Raises:
        ConfigError: if its suffix is unknown, its folder is missing, or it exists and must not be replaced.
    """
    if path.suffix not in suffixes:
        raise ConfigError(f"the output must end in {' or '.join(suffixes)}", where=str(path))
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder '{path.parent}'", where=str(path), remedy="create it first")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists", remedy="name another output, or replace it with --overwrite")


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write a Parquet file in parts, a row group each; it gets its name when all are written."""
    import pyarrow.parquet as pq

    from crystalformers.files import replacing

    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for table in tables:
            writer.write_table(table)


def print_table(
    headers: Iterable[str], rows: Iterable[Iterable[str]], *, right: Container[str] = (), title: str | None = None
) -> None:
    """Print a table on stdout; in a file or pipe no line is broken.

    Args:
        headers: of the columns.
        rows: the cells of each row.
        right: headers of the columns that are aligned to the right.
        title: line above the table.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, box=None, header_style="bold", pad_edge=False, title_justify="left")
    for header in headers:
        table.add_column(escape(header), justify="right" if header in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    Console(width=None if sys.stdout.isatty() else UNFOLDED).print(table)


def print_predictions(units: Mapping[str, str], rows: Iterable[Row], doubt: Doubt | None = None) -> None:
    """Print the predicted rows as a table on stdout, with units in the headers; rejected structures are left out.

    Args:
        units: unit of each target, by its name.
        rows: predictions and rejected structures.
        doubt: what is known of the doubt about the targets.
    """
    from crystalformers.prediction.rows import Prediction, as_json, columns

    predicted = [as_json(row) for row in rows if isinstance(row, Prediction)]
    # A column without any entry (no structure has a flag) is left out.
    filled = [column for column in columns(units, doubt) if any(column.value(row) is not None for row in predicted)]
    printed = [column for column in filled if column.title]
    numbers = [column.title for column in printed if column.type != "string"]
    if predicted:
        cells = ([column.text(row, digits=4) for column in printed] for row in predicted)
        print_table([column.title for column in printed], cells, right=numbers)


def complain(rejected: Sequence[Rejected], output: Path | None = None) -> None:
    """List rejected structures on stderr and exit with 1; do nothing if there is none.

    Args:
        rejected: structures that could not be used.
        output: file that names them all, if there is one; the list is then cut short.
    """
    if not rejected:
        return
    typer.echo(f"{len(rejected)} structure{'s' if len(rejected) > 1 else ''} could not be used:", err=True)
    listed = rejected if output is None else rejected[:LISTED]
    for row in listed:
        typer.echo(f"  {row}", err=True)
    if len(listed) < len(rejected):
        typer.echo(f"  ... and {len(rejected) - len(listed)} more, in the column error of {output}.", err=True)
    raise typer.Exit(1)
