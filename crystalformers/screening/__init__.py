"""Millions of structures, cut into parts each of which is predicted once, on one machine or many, after any kill."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

from crystalformers import __version__
from crystalformers.errors import ConfigError, InUseError
from crystalformers.files import locked, replacing
from crystalformers.prediction.batching import no_progress
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.predictor import Settings
from crystalformers.screening.condition import condition
from crystalformers.screening.engines import ENGINES, SECONDS_BETWEEN_LOOKS, unfinished
from crystalformers.screening.manifest import NAME, PART_SIZE, SECONDS_TO_PLAN, Manifest, open_manifest
from crystalformers.screening.parts import (
    Job,
    check_files,
    numeric_columns,
    prediction_schema,
    read_done,
    top,
)

__all__ = ["PART_SIZE", "TOP", "Choice", "Resources", "Summary", "screen"]

TOP = "top.parquet"
"""File with the first rows by a column, in the results folder."""

Begin = Callable[[int | None, int], Callable[[int], object]]
"""Takes the number of all structures, if it is known, and of those done; returns what to call with each further one."""


@dataclass(frozen=True)
class Choice:
    """Which predictions are written.

    Attributes:
        where: condition on predicted columns; empty for all rows.
        top: number of rows; 0 for all.
        by: column whose largest values are chosen, if `top` is given.
        lowest: choose the smallest instead.
    """

    where: str = ""
    top: int = 0
    by: str = ""
    lowest: bool = False

    def check(self, columns: Sequence[str]) -> None:
        """Raise a ConfigError if the choice names a column that is not there, or only one of `top` and `by`."""
        if self.where:
            condition(self.where, columns)
        if bool(self.top) != bool(self.by):
            raise ConfigError("top and by belong together", where="top", remedy="give both or none")
        if self.lowest and not self.by:
            raise ConfigError("it needs top and by", where="lowest", remedy="give them, or leave it out")
        if self.by and self.by not in columns:
            problem = f"there is no column '{self.by}'; the columns are {', '.join(columns)}"
            raise ConfigError(problem, where="by")


@dataclass(frozen=True)
class Resources:
    """Who runs the parts, and which.

    Attributes:
        engine: one of `engines.ENGINES`.
        workers: processes, jobs or tasks at once; None for as many as fit.
        options: of the engine.
        shard: which share of the parts to run, (k, n) for the k-th of n, counted from 1.
        device: where to compute.
    """

    engine: str = "local"
    workers: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    shard: tuple[int, int] = (1, 1)
    device: str = "cpu"

    def __post_init__(self) -> None:
        k, n = self.shard
        if not 1 <= k <= n:
            raise ConfigError(f"{k}/{n} is no share", where="shard", remedy="write k/n with 1 <= k <= n, as in 1/4")
        if self.engine not in ENGINES:
            remedy = f"use {', '.join(ENGINES)}"
            raise ConfigError(f"there is no engine '{self.engine}'", where="engine", remedy=remedy)
        if self.workers is not None and self.workers < 1:
            raise ConfigError("it must be at least 1", where="workers")

    def run(self, job: Job, parts: Sequence[int]) -> Iterator[None]:
        """Let the engine run some parts."""
        return ENGINES[self.engine](job, parts, self.workers, self.options)


@dataclass(frozen=True)
class Summary:
    """What has become of the structures.

    Attributes:
        structures: structures read.
        rejected: those that could not be used.
        selected: rows in the table of predictions, or in that of the first ones by a column.
        parts_left: parts of other shards that are not finished.
    """

    structures: int
    rejected: int
    selected: int
    parts_left: int


def screen(
    sources: Sequence[str | Path],
    results: str | Path,
    models: Sequence[str],
    choice: Choice | None = None,
    *,
    resources: Resources | None = None,
    tolerance: float = 1e-7,
    part_size: int = PART_SIZE,
    begin: Begin = lambda _, __: no_progress,
) -> Summary:
    """Predict any number of structures, each of them once, and write those that are chosen.

    The same call goes on where an earlier one ended, however that was. Several at once share the parts.

    Args:
        sources: files, folders or addresses of fsspec: Parquet tables (also in the layout of LeMat-Bulk), archives
            (.zip, .tar, .tar.gz) of structure files, structure files, other tables.
        results: folder for the manifest, the predictions and the structures that could not be used.
        models: bundled names, run folders or weight files.
        choice: which predictions are written; all by default.
        resources: who runs the parts; all cores of this machine by default.
        tolerance: as of `load_model`.
        part_size: structures of a part.
        begin: shows progress.

    Raises:
        ConfigError: if the folder belongs to another screen, or a setting makes no sense.
    """
    chosen, with_what = choice or Choice(), resources or Resources()
    if part_size < 1:
        raise ConfigError("it must be at least 1", where="part_size")
    names = [str(Path(name).absolute()) if Path(name).exists() else str(name) for name in models]
    loaded = load_model(names, with_what.device, tolerance)
    about = {"crystalformers": __version__, **loaded.about(Settings()), **vars(chosen)}
    chosen.check(numeric_columns(about))
    folder = Path(results).absolute()
    manifest = open_manifest(folder, about, [str(source) for source in sources], part_size)
    k, n = with_what.shard
    job, mine = Job(str(folder), manifest.identity, with_what.device), list(range(k - 1, len(manifest.parts), n))
    _run(job, manifest, mine, with_what, begin)
    return _finish(folder, manifest, mine)


def _run(job: Job, manifest: Manifest, parts: Sequence[int], resources: Resources, begin: Begin) -> None:
    """Let an engine run the parts until all are finished, here or by another run."""
    folder = Path(job.folder)
    left = unfinished(folder, parts)
    done = [read_done(folder, index, manifest) for index in sorted(set(parts).difference(left))]
    advance, looked = begin(manifest.expected(parts), sum(one.structures for one in done)), time.monotonic()

    def look() -> list[int]:
        now = unfinished(folder, left)
        for index in sorted(set(left).difference(now)):
            advance(read_done(folder, index, manifest).structures)
        return now

    while left:
        before = left
        for _ in resources.run(job, left):
            if time.monotonic() - looked >= SECONDS_BETWEEN_LOOKS:
                left, looked = look(), time.monotonic()
        left = look()
        if left == before:  # another run has them in hand
            time.sleep(SECONDS_BETWEEN_LOOKS)


def _finish(folder: Path, manifest: Manifest, mine: Sequence[int]) -> Summary:
    """Once all parts are there, compare their files with their hashes and write the table of the first rows."""
    left = unfinished(folder, range(len(manifest.parts)))
    done = {index: read_done(folder, index, manifest) for index in range(len(manifest.parts)) if index not in set(left)}
    selected = sum(done[index].selected for index in mine)
    if not left:
        with locked(folder / NAME, SECONDS_TO_PLAN):
            for one in done.values():
                check_files(folder, one)
            _tidy(folder)
            if manifest.about["top"]:
                selected = _write_top(folder, manifest)
    structures, rejected = (sum(getattr(done[index], name) for index in mine) for name in ("structures", "rejected"))
    return Summary(structures, rejected, selected, len(left))


def _tidy(folder: Path) -> None:
    """Remove what killed processes have left."""
    for temporary in folder.glob(".*.tmp"):
        temporary.unlink(missing_ok=True)
    for lock in (folder / "done").glob(".*.lock"):
        with suppress(InUseError), locked(lock.with_name(lock.name[1:].removesuffix(".lock"))):
            pass  # which deletes it


def _write_top(folder: Path, manifest: Manifest) -> int:
    """Write the first rows of all parts by the column asked for; their number."""
    best = prediction_schema(manifest.about).empty_table()
    for path in sorted((folder / "predictions").glob("[0-9]*.parquet")):
        best = top([best, pq.read_table(path, partitioning=None)], manifest.about)
    with replacing(folder / TOP) as temporary:
        pq.write_table(best, temporary)
    return best.num_rows
