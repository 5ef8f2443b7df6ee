"""`crystalformers predict`: structure files in, a table with units out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crystalformers.cli.journal import Journal, Row, digest
from crystalformers.cli.options import Device, Files, Overwrite, Tolerance
from crystalformers.cli.output import check_output, complain, print_predictions, write_predictions
from crystalformers.cli.progress import progress
from crystalformers.errors import ConfigError

if TYPE_CHECKING:
    from crystalformers.crystal import Crystal
    from crystalformers.io import Rejected
    from crystalformers.prediction.model import Model, Prediction

SUFFIXES = (".csv", ".parquet", ".json")


def predict_command(
    files: Files,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            help="Bundled name, run folder or weight file; repeat for several. Default: all bundled models.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write: .csv, .parquet or .json. Default: a table on stdout."),
    ] = None,
    device: Device = "cpu",
    tolerance: Tolerance = 1e-7,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run of the same command (needs -o).")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Predict properties of structures, in the units the model was trained in.

    Good structures are predicted; bad ones are listed with their reason on stderr and the exit code is 1.
    A run with -o keeps its finished part in OUTPUT.partial: after Ctrl-C or a kill, repeat it with --resume.
    Values depend on the other structures of a run by float32 rounding only.
    """
    if output is not None:
        check_output(output, SUFFIXES, overwrite=overwrite)
    elif resume:
        raise ConfigError("--resume needs the output file of the interrupted run: add -o.")
    models = load_models(model, device, tolerance)
    if output is None:
        rows = [row for _, window in _predict(models, _structures(files, set()), files) for row in window]
        print_predictions(_about(models)["units"], rows)
        complain(_rejected([rows])[0])
    else:
        _predict_to_file(models, files, output, resume=resume)


def load_models(names: Sequence[str] | None, device: str, tolerance: float) -> list[Model]:
    """The models that were named, or all bundled ones.

    Raises:
        ConfigError: if none is bundled, or two predict targets of the same name.
    """
    from crystalformers.prediction import bundled
    from crystalformers.prediction.model import load_model

    wanted = names or bundled.names()
    if not wanted:
        raise ConfigError("No model is bundled here; name a run folder or weight file with -m.")
    models = [load_model(name, device, tolerance) for name in wanted]
    owner: dict[str, str] = {}
    for model in models:
        for target in model.targets:
            if target.name in owner:
                raise ConfigError(
                    f"Models '{owner[target.name]}' and '{model.name}' both predict {target.name}; run them one by one."
                )
            owner[target.name] = model.name
    return models


def _predict_to_file(models: Sequence[Model], files: Sequence[Path], output: Path, *, resume: bool) -> None:
    from crystalformers.prediction.model import WINDOW

    about = _about(models)
    path = output.with_name(output.name + ".partial")
    journal = Journal(path, {**about, "window": WINDOW}, resume=resume)
    try:
        for window, rows in _predict(models, _structures(files, {output.resolve(), path.resolve()}), files, journal):
            journal.append(digest(window), rows)
        write_predictions(output, about, journal.windows())
        rejected, total = _rejected(journal.windows())
        journal.remove()
    except KeyboardInterrupt:
        finished = journal.finished
        raise KeyboardInterrupt(
            f"{finished} structures are kept in {path}; go on with the same command and --resume."
            if finished
            else "nothing was finished."
        ) from None
    finally:
        journal.remove_if_empty()
    typer.echo(f"{output}: {total - len(rejected)} predictions.", err=True)
    complain(rejected, output)


def _structures(files: Sequence[Path], own: set[Path]) -> Iterator[Crystal | Rejected]:
    """What the files hold, without complaints about the run's `own` files in a directory that is read."""
    from crystalformers.io import Rejected, read_structures

    for row in read_structures(files):
        if not (isinstance(row, Rejected) and Path(row.name).resolve() in own):
            yield row


def _predict(
    models: Sequence[Model],
    structures: Iterator[Crystal | Rejected],
    files: Sequence[Path],
    journal: Journal | None = None,
) -> Iterator[tuple[list[Crystal | Rejected], list[Row]]]:
    """Structures and rows of one window after the other, in input order, past those of the journal."""
    from crystalformers.io import Rejected, count_structures
    from crystalformers.prediction.batching import windows
    from crystalformers.prediction.model import WINDOW, predict_window

    stream = windows(structures, WINDOW)
    done = journal.finished if journal is not None else 0
    if journal is not None:
        journal.skip(stream)
    with progress("predicting", count_structures(files), done) as advance:
        for window in stream:
            rows = [_row(row) for row in predict_window(models, window, advance)]
            advance(sum(isinstance(row, Rejected) for row in window))
            yield window, rows


def _row(row: Prediction | Rejected) -> Row:
    from crystalformers.io import Rejected

    if isinstance(row, Rejected):
        return {"name": row.name, "error": row.reason}
    return {"name": row.name, "formula": row.formula, "n_atoms": row.n_atoms, "values": row.values}


def _rejected(windows: Any) -> tuple[list[tuple[str, str]], int]:
    """Name and reason of the rejected rows, and the number of all rows."""
    rejected: list[tuple[str, str]] = []
    total = 0
    for window in windows:
        total += len(window)
        rejected.extend((row["name"], row["error"]) for row in window if "error" in row)
    return rejected, total


def _about(models: Sequence[Model]) -> dict[str, Any]:
    """How a prediction is made: what must not change when it is resumed."""
    from crystalformers import __version__

    return {
        "crystalformers": __version__,
        "models": [{"name": model.name, "sha256": model.fingerprint} for model in models],
        "units": {target.name: target.unit for model in models for target in model.targets},
        "tolerance": models[0].tolerance,
        "dtype": str(models[0].dtype).removeprefix("torch."),
    }
