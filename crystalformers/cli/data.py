"""`crystalformers data`: public data sets by name: what there is; fetching, showing, checking and removing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crystalformers.cli import options
from crystalformers.cli.output import check_output, print_table
from crystalformers.cli.progress import counted, progress_of_several
from crystalformers.errors import ConfigError

if TYPE_CHECKING:
    from crystalformers.data.sets import DataSet, Store

LABELS_LISTED = 3
"""Labels of a set that `list` names before it counts the others."""

data_app = typer.Typer(help="Public data sets by name: list, fetch, show, check and remove them.", no_args_is_help=True)


@data_app.command("list")
def list_command(
    name: Annotated[str | None, typer.Argument(help="A set: tell all about it. Default: list all sets.")] = None,
) -> None:
    """List the sets that are known by name, and those that are here."""
    from crystalformers.data.sets import SETS, Store, find

    store = Store()
    if name is None:
        _print_sets(store)
        return
    about = store.about(name)
    if name in SETS or about is None:
        _print_entry(find(name))
    if about is not None:
        _print_about(store, name, about)


def _print_sets(store: Store) -> None:
    from crystalformers.data.sets import SETS
    from crystalformers.prediction.rows import header

    table = []
    here = {name: store.about(name) or {} for name in store.names()}
    for name in dict.fromkeys((*SETS, *here)):
        about, entry = here.get(name, {}), SETS.get(name)
        rows, size = about.get("rows"), "-"
        if about:
            size = f"{sum(part['bytes'] for part in (about['table'], *about['sources'])) / 1e6:,.1f} MB"
        if entry:
            rows, licence, source = rows or entry.rows, entry.licence, entry.source.host
            labels = [header(label.name, label.unit) for label in entry.labels]
        else:
            licence, source = about["licence"], about["sources"][0]["from"]
            labels = [header(label, facts["unit"]) for label, facts in about["labels"].items()]
        listed = labels[:LABELS_LISTED] + [f"{len(labels) - LABELS_LISTED} more"] * (len(labels) > LABELS_LISTED)
        count, is_here = f"{rows:,}" if rows else "-", "yes" if about else "no"
        table.append((name, count, ", ".join(listed), licence, size, source, is_here))
    headers = ("name", "rows", "labels", "licence", "size here", "source", "here")
    print_table(headers, table, right=("rows", "size here"))
    typer.echo(f"folder: {store.root}")


def _print_entry(entry: DataSet) -> None:
    typer.echo(f"{entry.name}: {entry.title}")
    typer.echo(f"rows: {f'{entry.rows:,}' if entry.rows else 'not fixed'}")
    typer.echo(f"licence: {entry.licence}")
    typer.echo(f"source: {entry.source.host}")
    for file in getattr(entry.source, "files", ()):
        typer.echo(f"  {file.name}: {' or '.join(file.addresses)}")
        typer.echo(f"    SHA-256: {file.sha256 or 'not published; recorded at the first download'}")
    typer.echo("labels:")
    for label in entry.labels:
        typer.echo(f"  {label.name} ({label.unit or 'unit not stated'}): '{label.source_column}' in the source")
    if entry.notes:
        typer.echo(entry.notes)


def _print_about(store: Store, name: str, about: dict[str, Any]) -> None:
    typer.echo(f"table: {store.table(name)}")
    rejected = about["source_rows"] - about["rows"]
    typer.echo(f"rows: {about['rows']:,} of {about['source_rows']:,}; fetched {about['fetched']}")
    if rejected:
        typer.echo(f"{rejected:,} rows could not be used, see {store.folder(name) / 'rejected.csv'}")
    missing = [label for label, facts in about["labels"].items() if not facts["values"]]
    if missing:
        typer.echo(f"labels without a single value in the source: {', '.join(missing)}")
    table = []
    for column, parts in about["splits"].items():
        for part, facts in parts.items():
            same = {None: "-", facts["sha256"]: "the same"}.get(facts["published"], "DIFFERENT")
            counts = (str(facts["rows"]), str(facts["in_table"]))
            table.append((column, part, *counts, f"{facts['sha256'][:12]}...", same))
    if table:
        print_table(("split", "part", "rows", "in the table", "SHA-256 of the rows", "published"), table)


@data_app.command("get")
def get_command(
    name: Annotated[str, typer.Argument(help="A set that `list` names, or the base URL of an OPTIMADE provider.")],
    given: Annotated[
        list[Path] | None,
        typer.Option("--from", help="A source file fetched by other means; repeat if the set has several."),
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Fetch and convert although it is here.")] = False,
    sha256: Annotated[
        list[str] | None,
        typer.Option("--sha256", help="Accept a source file of this hash although another is published or recorded."),
    ] = None,
    called: Annotated[str | None, typer.Option("--name", help="OPTIMADE: what to call the set.")] = None,
    optimade_filter: Annotated[
        str, typer.Option("--filter", help="OPTIMADE: which structures, e.g. 'elements HAS \"O\"'. Default: all.")
    ] = "",
    field: Annotated[
        list[str] | None, typer.Option("--field", help="OPTIMADE: a property to keep as a label; repeat for several.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="OPTIMADE: stop after so many structures.", min=1)] = None,
) -> None:
    """Download a set (or take a file fetched by other means), verify, convert to Parquet and split it.

    An interrupted download goes on where it ended when the command is repeated.
    """
    from crystalformers.data.sets import Store, find
    from crystalformers.data.sets.entry import Request

    if "://" in name:
        dataset = _provider(name, called, tuple(field or ()), optimade_filter, limit)
    elif called or field or optimade_filter or limit:
        raise ConfigError("--name, --filter, --field and --limit are for the URL of an OPTIMADE provider.")
    else:
        dataset = find(name)
    store = Store()
    if store.about(dataset.name) and not again:
        typer.echo(f"{dataset.name} is here; fetch it again with --again.", err=True)
    with progress_of_several(_amount) as report:
        trusted = frozenset(digest.strip().lower() for digest in sha256 or ())
        request = Request(store.folder(dataset.name), tuple(given or ()), {}, trusted, _say, report)
        about = store.get(dataset, request, again=again)
    _print_about(store, dataset.name, about)
    parts = [facts for parts in about["splits"].values() for facts in parts.values()]
    if any(facts["published"] not in (None, facts["sha256"]) for facts in parts):
        typer.echo("A split is not the published one: the source differs from what its authors had.", err=True)
        raise typer.Exit(1)


def _provider(url: str, name: str | None, fields: tuple[str, ...], query: str, limit: int | None) -> DataSet:
    from crystalformers.data.sets import SETS
    from crystalformers.data.sets.catalogue import optimade
    from crystalformers.data.sets.sources import Optimade

    if name is None or name in SETS:
        raise ConfigError("Give the set of an OPTIMADE provider a name of its own with --name.")
    return optimade(name, Optimade(url, fields, query, limit))


def _say(sentence: str) -> None:
    typer.echo(sentence, err=True)


ROW_COUNTS = ("rows", "pages.jsonl", "documents.jsonl")
"""What is counted in rows; everything else is counted in bytes."""


def _amount(what: str, done: int, total: int | None) -> str:
    if what in ROW_COUNTS:
        return counted(what, done, total)
    return f"{done / 1e6:,.1f} MB" if total is None else f"{done / 1e6:,.1f} of {total / 1e6:,.1f} MB"


@data_app.command("show")
def show_command(
    name: Annotated[str, typer.Argument(help="A set that is here, or a table (.parquet, .csv, .jsonl).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Page to write (.html).")],
    split: Annotated[str, typer.Option(help="Of a table with several splits: NAME for the column split_NAME.")] = "",
    seed: Annotated[int, typer.Option(help="Of the rows whose space groups are found.")] = 0,
    overwrite: options.Overwrite = False,
) -> None:
    """Write a page about a set: elements, sizes, labels, space groups, duplicates, overlap between its splits."""
    from crystalformers.survey import write_survey

    check_output(output, [".html"], overwrite=overwrite)
    facts = write_survey(name, output, split=split, seed=seed, progress=_say)
    typer.echo(f"rows: {len(facts.rows):,}, of these {facts.duplicates.rows:,} nearly the same crystal as another")
    for overlap in facts.duplicates.overlaps:
        typer.echo(
            f"{overlap.part}: {overlap.rows:,} rows, {overlap.same_formula:,} with a reduced formula of the training "
            f"rows, {overlap.same_crystal:,} nearly the same crystal as a training row"
        )
    typer.echo(f"page: {output}")


@data_app.command("split")
def split_command(
    name: Annotated[str, typer.Argument(help="A set that is here.")],
    file: Annotated[
        Path,
        typer.Argument(
            help='Row numbers: JSON {"train": [...], "val": [...], "test": [...]}, or CSV with part, index.'
        ),
    ],
    called: Annotated[str, typer.Option("--name", help="Name of the split; `train --split NAME` takes it.")],
) -> None:
    """Add a split of other people to a set, if it fits, and compare its fingerprints with the published ones."""
    from crystalformers.data.sets import SETS, Store
    from crystalformers.data.sets.foreign import published_as, read_split

    about = Store().add_split(name, called, read_split(file))
    rows = []
    for part, facts in about["splits"][f"split_{called}"].items():
        known = published_as(SETS.get(name), facts["sha256"]) or "-"
        rows.append((part, str(facts["rows"]), str(facts["in_table"]), facts["sha256"], known))
    print_table(("part", "rows", "in the table", "SHA-256 of the rows", "published as"), rows)


@data_app.command("verify")
def verify_command(
    names: Annotated[list[str] | None, typer.Argument(help="Sets to check. Default: all that are here.")] = None,
) -> None:
    """Check that the files of sets are as they were written."""
    from crystalformers.data.sets import Store

    store = Store()
    wrong = []
    for name in names or store.names():
        found = store.verify(name)
        typer.echo(f"{name}: {'damaged' if found else 'as it was written'}")
        wrong += found
    for sentence in wrong:
        _say(sentence)
    if wrong:
        raise typer.Exit(1)


@data_app.command("remove")
def remove_command(
    name: Annotated[str, typer.Argument(help="The set.")],
    sources_only: Annotated[
        bool, typer.Option("--sources", help="Only the files it was converted from; the table stays.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--hashes", help="Also forget the hashes that a later download must meet.")
    ] = False,
) -> None:
    """Delete a set that is here."""
    from crystalformers.data.sets import Store

    freed = Store().remove(name, sources_only=sources_only, forget=forget)
    typer.echo(f"{name}: {freed / 1e6:,.1f} MB freed")
