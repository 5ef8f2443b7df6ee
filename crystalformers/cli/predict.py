"""`crystalformers predict`: structure files in, a table with units out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crystalformers.cli.options import Device, Files, Overwrite, Species, Threads, Tolerance, set_up, symbols
from crystalformers.cli.output import check_output, complain, print_predictions
from crystalformers.cli.progress import progress
from crystalformers.errors import ConfigError

if TYPE_CHECKING:
    from crystalformers.crystal import Crystal
    from crystalformers.io import Rejected
    from crystalformers.prediction.journal import Journal
    from crystalformers.prediction.predictor import Settings
    from crystalformers.prediction.rows import Row
    from crystalformers.prediction.several import Models


def predict_command(  # noqa: PLR0913, PLR0917 - an option is an argument
    files: Files,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Bundled name, run folder or weight file; repeat for several. Models of the same target are an "
            "ensemble. Default: materials-project.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write: .csv, .parquet or .json. Default: a table on stdout."),
    ] = None,
    species: Species = "",
    device: Device = None,
    threads: Threads = None,
    tolerance: Tolerance = 1e-7,
    coverage: Annotated[
        float | None,
        typer.Option(
            help="Share of crystals whose interval shall hold the true value. Default: 0.9, for models with intervals."
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse structures unlike the training data; by default a flag says why."),
    ] = False,
    flag_percentile: Annotated[
        float | None,
        typer.Option(
            help="Flag structures farther from the training crystals than this percentage of held-out crystals. "
            "Default: 90."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run of the same command (needs -o).")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Predict properties of structures, with units.

    Structures that cannot be used are listed on stderr with the reason, and the exit code is 1.
    A run with -o keeps its finished part in OUTPUT.partial: after Ctrl-C or a kill, repeat it with --resume.
    The other structures of a run change a value by float32 rounding only.
    """
    from crystalformers import __version__
    from crystalformers.io import Rejected
    from crystalformers.prediction.predictor import Settings
    from crystalformers.prediction.reference import FLAG_PERCENTILE
    from crystalformers.prediction.rows import WRITERS

    if output is not None:
        check_output(output, tuple(WRITERS), overwrite=overwrite)
    elif resume:
        raise ConfigError("--resume needs the output file of the interrupted run", remedy="add -o")
    settings = Settings(coverage, strict, FLAG_PERCENTILE if flag_percentile is None else flag_percentile)
    job = Job(load_models(model, set_up(device, threads), tolerance), files, symbols(species), settings)
    about = {"crystalformers": __version__, **job.models.about(job.settings)}
    if output is not None:
        _predict_to_file(job, output, about, resume=resume)
        return
    rows = [row for _, window in _predict(job) for row in window]
    print_predictions(about["units"], rows, about.get("doubt"))
    _tell_flags(rows)
    complain([row for row in rows if isinstance(row, Rejected)])


@dataclass(frozen=True)
class Job:
    """What is predicted, and how.

    Attributes:
        models: the models.
        files: structure files, directories or tables.
        species: elements of POSCAR files that name none.
        settings: coverage of intervals, and which structures have a flag.
    """

    models: Models
    files: Sequence[Path]
    species: Sequence[str]
    settings: Settings


def load_models(names: list[str] | None, device: str, tolerance: float) -> Models:
    """The models that are named, or the default one; raises ConfigError if they do not fit together."""
    from crystalformers.prediction.bundled import DEFAULT
    from crystalformers.prediction.loading import load_model

    return load_model(names or [DEFAULT], device, tolerance)


def _predict_to_file(job: Job, output: Path, about: dict[str, Any], *, resume: bool) -> None:
    from crystalformers.io import Rejected
    from crystalformers.prediction.journal import open_journal
    from crystalformers.prediction.predictor import WINDOW
    from crystalformers.prediction.rows import write_predictions

    partial = output.with_name(output.name + ".partial")
    with open_journal(partial, {**about, "window": WINDOW}, resume=resume) as journal:
        try:
            own = frozenset({output.resolve(), partial.resolve()})
            for window, rows in _predict(job, journal, own):
                journal.append(window, rows)
            write_predictions(output, about, journal.windows())
        except (KeyboardInterrupt, OSError) as stop:  # OSError: for example a full disk
            finished = journal.finished
            kept = f"{finished} structures are kept in {partial}; go on with the same command and --resume."
            if isinstance(stop, KeyboardInterrupt):
                raise type(stop)(kept if finished else "nothing was finished.") from None
            if finished:
                typer.echo(kept, err=True)
            raise
        total = journal.finished
        _tell_flags(row for rows in journal.windows() for row in rows)
        rejected = [row for rows in journal.windows() for row in rows if isinstance(row, Rejected)]
        journal.remove()
    typer.echo(f"{output}: {total - len(rejected)} predictions.", err=True)
    complain(rejected, output)


def _tell_flags(rows: Iterable[Row]) -> None:
    """Say on stderr how many of the predicted structures are unlike the training data."""
    from crystalformers.io import Rejected

    flagged = Counter(bool(row.flag) for row in rows if not isinstance(row, Rejected))
    if count := flagged[True]:
        verb = "is" if count == 1 else "are"
        text = f"{count} of {flagged.total()} structures {verb} unlike the training data; the column flag says why."
        typer.echo(text, err=True)


def _predict(
    job: Job, journal: Journal | None = None, own: frozenset[Path] = frozenset()
) -> Iterator[tuple[list[Crystal | Rejected], list[Row]]]:
    """The structures and rows of one window after the other, in input order, from where the journal ends.

    Files of the run's `own` are no input if they are in a directory that is read.
    """
    from crystalformers.io import Rejected, count_structures, read_structures
    from crystalformers.prediction.batching import windows
    from crystalformers.prediction.predictor import WINDOW, predict_window

    names = {path.name for path in own}  # first, since an id or a loop of links cannot be resolved
    structures = (
        row
        for row in read_structures(job.files, job.species)
        if not (isinstance(row, Rejected) and Path(row.name).name in names and Path(row.name).resolve() in own)
    )
    stream = windows(structures, WINDOW)
    done = 0
    if journal is not None:
        done = journal.finished
        journal.skip(stream)
    with progress("predicting", count_structures(job.files), done) as advance:
        for window in stream:
            rows = predict_window(job.models, window, job.settings, advance)
            advance(sum(isinstance(row, Rejected) for row in window))
            yield window, rows
