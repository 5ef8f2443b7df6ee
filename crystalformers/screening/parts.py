"""One part of a screen: its structures are predicted, selected and written, once.

Files of part 12 in the results folder: `predictions/000012.parquet`; `rejected/000012.parquet` if a structure could
not be used; `done/000012.json`, written last, with the numbers of rows and the hashes of the other two. A part without
it is computed anew, so that after a kill no row is missing or there twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crystalformers.errors import ConfigError, InUseError
from crystalformers.files import locked, replacing, write_atomically
from crystalformers.io import Rejected
from crystalformers.prediction.batching import windows
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.predictor import WINDOW, Settings, predict_window
from crystalformers.prediction.rows import Column, Prediction, Row, arrow_schema, arrow_table, columns
from crystalformers.screening.condition import condition
from crystalformers.screening.inputs import Structure
from crystalformers.screening.manifest import Manifest, read_manifest

PLACE = pa.schema([("file", pa.string()), ("row", pa.int64())])
"""Where a structure comes from; the row counts from 0, and is empty where the file is no Parquet table."""

REJECTED = pa.schema([*PLACE, ("name", pa.string()), ("reason", pa.string())])


@dataclass(frozen=True)
class Done:
    """What is known of a finished part.

    Attributes:
        identity: of the manifest.
        structures: structures that were read.
        rejected: those that could not be used.
        selected: rows of the predictions.
        sha256: hash of each file, by its path in the results folder.
    """

    identity: str
    structures: int
    rejected: int
    selected: int
    sha256: dict[str, str]


@dataclass(frozen=True)
class Job:
    """What a process needs to run parts; small and plain, so that it can be sent anywhere.

    Attributes:
        folder: results folder, an absolute path that every machine must see.
        identity: of the manifest.
        device: where to compute.
        threads: CPU threads of a process; None for as many as PyTorch takes.
    """

    folder: str
    identity: str
    device: str = "cpu"
    threads: int | None = None

    def run(self, index: int) -> bool:
        """Run a part; False if another process has it. A part that is finished is left alone.

        Raises:
            ConfigError: if the manifest, a model or an input is another than when the run began.
        """
        done = done_path(Path(self.folder), index)
        done.parent.mkdir(exist_ok=True)
        try:
            with locked(done):
                if not done.exists():
                    _worker(self).compute(index)
        except InUseError:
            return False
        return True


@lru_cache(maxsize=1)
def _worker(job: Job) -> Worker:
    return Worker(job)


class Worker:
    """The models and settings of a screen, loaded once in a process."""

    def __init__(self, job: Job) -> None:
        self.threads = job.threads
        self.folder, self.manifest = Path(job.folder), read_manifest(Path(job.folder))
        if self.manifest.identity != job.identity:
            raise ConfigError("the manifest has changed", where=job.folder, remedy="repeat the command")
        self.about = about = self.manifest.about
        self.models = load_model([one["name"] for one in about["models"]], job.device, about["tolerance"])
        if [model.fingerprint for model in self.models.models] != [one["sha256"] for one in about["models"]]:
            raise ConfigError("a model has changed since the run began", where=job.folder, remedy="use a new folder")
        self.shown = prediction_columns(about)
        self.schema = prediction_schema(about)
        self.where = condition(about["where"], numeric_columns(about)) if about["where"] else None

    def compute(self, index: int) -> None:
        """Write the files of a part; call it under its lock only."""
        import torch

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        names = [f"{kind}/{index:06d}.parquet" for kind in ("predictions", "rejected")]
        paths = [self.folder / name for name in names]
        for path in (*paths, done_path(self.folder, index)):
            for left in [path, *path.parent.glob(f".{path.name}.*.tmp")]:
                left.unlink(missing_ok=True)  # by a process that was killed
        with PartFile(paths[0], self.schema) as predictions, PartFile(paths[1], REJECTED) as rejected:
            structures = self._structures(index, predictions, rejected)
        hashes = {name: sha256(path) for name, path in zip(names, paths, strict=True) if path.exists()}
        done = Done(self.manifest.identity, structures, rejected.rows, predictions.rows, hashes)
        write_atomically(done_path(self.folder, index), json.dumps(asdict(done)).encode())

    def _structures(self, index: int, predictions: PartFile, rejected: PartFile) -> int:
        """Predict and write the structures of a part; their number."""
        count, best = 0, None
        for window in windows(self._read(index), WINDOW):
            rows = predict_window(self.models, [one.found for one in window], Settings())
            count += len(rows)
            pairs = list(zip(window, rows, strict=True))
            bad = [(one, row) for one, row in pairs if isinstance(row, Rejected)]
            if bad:
                rejected.write(_rejected_table(bad))
            table = self._table([(one, row) for one, row in pairs if isinstance(row, Prediction)])
            if self.where is not None:
                table = table.filter(self.where)
            if self.about["top"]:
                best = top([table] if best is None else [best, table], self.about)
            else:
                predictions.write(table)
        predictions.write(self._table([]) if best is None else best)
        return count

    def _read(self, index: int) -> Iterator[Structure]:
        for piece in self.manifest.parts[index]:
            yield from self.manifest.inputs[piece.input].structures(piece)

    def _table(self, pairs: list[tuple[Structure, Row]]) -> pa.Table:
        predicted = arrow_table([row for _, row in pairs], self.shown, arrow_schema(self.shown, {}))
        places = [[one.file for one, _ in pairs], [one.row for one, _ in pairs]]
        arrays = [pa.array(values, field.type) for values, field in zip(places, PLACE, strict=True)]
        return pa.Table.from_arrays([*arrays, *predicted.columns], schema=self.schema)


class PartFile:
    """A Parquet file that gets its name once it is whole; without any table it is not written."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema, self.rows = path, schema, 0
        self._tables: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self._open = ExitStack()

    def write(self, table: pa.Table) -> None:
        """Add rows; they are gathered to row groups."""
        self._tables.append(table)
        self.rows += table.num_rows
        if sum(held.num_rows for held in self._tables) >= 1 << 16:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            self.path.parent.mkdir(exist_ok=True)
            temporary = self._open.enter_context(replacing(self.path))
            self._writer = self._open.enter_context(pq.ParquetWriter(temporary, self.schema))
        self._writer.write_table(pa.concat_tables(self._tables))
        self._tables = []

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *error: Any) -> None:
        with self._open:
            if error[0] is not None:
                raise error[1]
            if self._tables:
                self._flush()


def _rejected_table(bad: list[tuple[Structure, Rejected]]) -> pa.Table:
    columns = [[one.file for one, _ in bad], [one.row for one, _ in bad], [row.name for _, row in bad]]
    return pa.table([*columns, [row.reason for _, row in bad]], schema=REJECTED)


def prediction_columns(about: dict[str, Any]) -> list[Column]:
    """The columns of the predictions besides the place of each structure."""
    return [column for column in columns(about["units"], about.get("doubt")) if column.name != "error"]


def numeric_columns(about: dict[str, Any]) -> list[str]:
    """The columns that can be compared with numbers and sorted by."""
    return [column.name for column in prediction_columns(about) if column.type != "string"]


def prediction_schema(about: dict[str, Any]) -> pa.Schema:
    """All columns of the predictions, with units."""
    schema = arrow_schema(prediction_columns(about), about)
    return pa.schema([*PLACE, *schema], metadata=schema.metadata)


def top(tables: list[pa.Table], about: dict[str, Any]) -> pa.Table:
    """The rows of several tables that come first by the column asked for; of equal ones by their places."""
    table = pa.concat_tables(tables)
    order = "ascending" if about["lowest"] else "descending"
    by = [(about["by"], order), *((name, "ascending") for name in (*PLACE.names, "name"))]
    return table.take(pc.sort_indices(table, by)[: about["top"]])


def done_path(folder: Path, index: int) -> Path:
    """The file that says that a part is finished."""
    return folder / "done" / done_name(index)


def done_name(index: int) -> str:
    """The name of that file."""
    return f"{index:06d}.json"


def read_done(folder: Path, index: int, manifest: Manifest) -> Done:
    """What is known of a finished part.

    Raises:
        ConfigError: if the file is damaged or belongs to another screen.
    """
    path = done_path(folder, index)
    try:
        done = Done(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        raise ConfigError("the file is damaged", where=str(path), remedy="delete it to run the part again") from error
    if done.identity != manifest.identity:
        raise ConfigError("it belongs to another screen", where=str(path), remedy="delete it to run the part again")
    return done


def check_files(folder: Path, done: Done) -> None:
    """Compare the files of a part with their hashes; raises ConfigError if one is missing or damaged."""
    for name, expected in done.sha256.items():
        path = folder / name
        if not path.exists() or sha256(path) != expected:
            remedy = f"delete {done_path(folder, int(path.stem))} to run the part again"
            raise ConfigError("the file is missing or damaged", where=str(path), remedy=remedy)


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
