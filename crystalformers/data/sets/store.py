"""The folder in which fetched data sets live, one folder each: sources, converted table, and what is known of both.

    NAME/source/...       files as they were fetched
    NAME/table.parquet    the converted table
    NAME/rejected.csv     rows and labels of the source that could not be used, and why
    NAME/about.json       where it came from, what it holds, hashes of all files; there when the set is complete
    hashes/NAME.json      SHA-256 of the sources when first fetched; stays when the set is removed

The root is named by CRYSTALFORMERS_DATA, else it is the platform's cache folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crystalformers.data.sets.convert import REJECTED, TABLE, convert
from crystalformers.data.sets.download import on_disk, sha256_of
from crystalformers.data.sets.entry import DataSet, Request, SourceFile, SourceFileError
from crystalformers.data.sets.foreign import add_split
from crystalformers.data.sets.splits import Parts
from crystalformers.errors import DataSetError
from crystalformers.files import write_atomically

ROOT_VARIABLE = "CRYSTALFORMERS_DATA"
ABOUT = "about.json"
SOURCE = "source"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

About = dict[str, Any]


class Store:
    """Fetched data sets.

    Args:
        root: their folder; by default the one that the variable names, or `data` in the platform's cache folder.
    """

    def __init__(self, root: Path | None = None) -> None:
        import platformdirs

        named = root or os.environ.get(ROOT_VARIABLE)
        self.root = Path(named or platformdirs.user_cache_path("crystalformers", appauthor=False) / "data")

    def folder(self, name: str) -> Path:
        """The folder of a set; raises DataSetError if it could not be called so."""
        if not NAME.fullmatch(name) or name == "hashes":
            raise DataSetError(f"a data set cannot be called '{name}'", remedy="use letters, digits, '.', '_' and '-'")
        return self.root / name

    def table(self, name: str) -> Path:
        """The converted table of a set, whether it is there or not."""
        return self.folder(name) / TABLE

    def about(self, name: str) -> About | None:
        """What is known of a set; None if it is not here."""
        path = self.folder(name) / ABOUT
        if not path.is_file() or not self.table(name).is_file():
            return None
        about: About = json.loads(path.read_text(encoding="utf-8"))
        return about

    def names(self) -> list[str]:
        """The sets that are here."""
        found = sorted(path.parent.name for path in self.root.glob(f"*/{ABOUT}"))
        return [name for name in found if NAME.fullmatch(name) and self.about(name)]

    def get(self, dataset: DataSet, request: Request | None = None, *, again: bool = False) -> About:
        """Fetch a set, convert and split it, unless it is here.

        Args:
            dataset: the set.
            request: given files, trusted hashes and callbacks; folder and recorded hashes are filled in here.
            again: fetch and convert it although it is here.

        Returns:
            What is known of it: the content of `about.json`.

        Raises:
            DataSetError: if it cannot be fetched, or is not what was published.
            TableError: if a published split does not fit it.
        """
        folder = self.folder(dataset.name)
        request = replace(request or Request(folder), folder=folder / SOURCE, recorded=self._recorded(dataset.name))
        with self._locked(dataset.name, request.say):
            about = self.about(dataset.name)
            if about is not None and not again:
                return about
            for unfinished in folder.glob(".convert-*"):
                shutil.rmtree(unfinished)
            if again and not request.given:
                shutil.rmtree(request.folder, ignore_errors=True)
            sources = dataset.source.fetch(request)
            for other in set(request.folder.iterdir()).difference(source.path for source in sources):
                other.unlink()
            try:
                about = self._convert(dataset, sources, request)
            except SourceFileError:
                for source in sources:
                    source.path.unlink()
                raise
            if dataset.source.pinned:
                self._record(dataset.name, sources)
            return about

    def _convert(self, dataset: DataSet, sources: list[SourceFile], request: Request) -> About:
        folder = self.folder(dataset.name)
        done = 0

        def advance(rows: int) -> None:
            nonlocal done
            done += rows
            request.report("rows", done, dataset.rows)

        with on_disk(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".convert-") as name:
            work = Path(name)
            converted = convert(dataset, [source.path for source in sources], work, advance)
            about = {
                "name": dataset.name,
                "title": dataset.title,
                "licence": dataset.licence,
                "fetched": _now(),
                "crystalformers": version("crystalformers"),
                "sources": [{**_facts(source.path, source.sha256), "from": source.address} for source in sources],
                "table": _facts(work / TABLE, sha256_of(work / TABLE)),
                **converted,
            }
            (folder / ABOUT).unlink(missing_ok=True)
            for part in (REJECTED, TABLE):
                (work / part).replace(folder / part)
        write_atomically(folder / ABOUT, (json.dumps(about, indent=1) + "\n").encode())
        return about

    def verify(self, name: str) -> list[str]:
        """What is wrong with the files of a set, one sentence each; raises DataSetError if it is not here."""
        folder, about = self.folder(name), self._present(name)
        files = {folder / TABLE: about["table"]}
        files |= {folder / SOURCE / source["file"]: source for source in about["sources"]}
        wrong = []
        for path, facts in files.items():
            if path.is_file() and sha256_of(path) != facts["sha256"]:
                wrong.append(f"{path} is not as it was written; run 'crystalformers data get {name} --again'.")
        return wrong

    def add_split(self, name: str, split: str, parts: Parts) -> About:
        """Add a split of other people to the table of a set, as the column `split_SPLIT`; what is then known of it.

        Raises:
            DataSetError: if the set is not here, or the split could not be called so.
            TableError: if the split does not fit.
        """
        folder = self.folder(name)
        if not NAME.fullmatch(split):
            raise DataSetError(f"a split cannot be called '{split}'", remedy="use letters, digits, '.', '_' and '-'")
        with self._locked(name, lambda _: None):
            about = self._present(name)
            with on_disk(folder), tempfile.TemporaryDirectory(dir=folder, prefix=".convert-") as work:
                table = Path(work) / TABLE
                splits = add_split(folder / TABLE, about, split, parts, table)
                about = {**about, "splits": splits, "table": _facts(table, sha256_of(table))}
                (folder / ABOUT).unlink()
                table.replace(folder / TABLE)
            write_atomically(folder / ABOUT, (json.dumps(about, indent=1) + "\n").encode())
        return about

    def _present(self, name: str) -> About:
        about = self.about(name)
        if about is None:
            raise DataSetError("it is not here", where=name, remedy=f"run 'crystalformers data get {name}'")
        return about

    def remove(self, name: str, *, sources_only: bool = False, forget: bool = False) -> int:
        """Delete a set, or only what it was converted from; the bytes that are free again.

        Args:
            name: of the set.
            sources_only: keep the table.
            forget: also forget the hashes that a later download must meet.

        Raises:
            DataSetError: if there is nothing of this name.
        """
        folder = self.folder(name)
        hashes = self._hashes(name)
        target = folder / SOURCE if sources_only else folder
        if not target.is_dir() and not (forget and hashes.is_file()):
            raise DataSetError("it is not here", where=name, remedy="'crystalformers data list' shows what is")
        with self._locked(name, lambda _: None):
            freed = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
            if target.is_dir():
                shutil.rmtree(target)
            if forget:
                hashes.unlink(missing_ok=True)
        return freed

    def _hashes(self, name: str) -> Path:
        return self.root / "hashes" / f"{name}.json"

    def _recorded(self, name: str) -> dict[str, str]:
        path = self._hashes(name)
        return json.loads(path.read_text(encoding="utf-8"))["sha256"] if path.is_file() else {}

    def _record(self, name: str, sources: list[SourceFile]) -> None:
        """Keep the hashes that later downloads must meet."""
        sha256 = {source.path.name: source.sha256 for source in sources}
        if sha256 != self._recorded(name):
            content = {"recorded": _now(), "sha256": sha256}
            write_atomically(self._hashes(name), (json.dumps(content, indent=1) + "\n").encode())

    @contextmanager
    def _locked(self, name: str, say: Callable[[str], None]) -> Iterator[None]:
        """Only one process at a time works on a set."""
        import filelock

        self.folder(name).mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.root / f".{name}.lock")
        try:
            held = lock.acquire(timeout=0)
        except filelock.Timeout:
            say(f"another process works on {name}; waiting for it")
            held = lock.acquire()
        with held:
            yield


def _facts(path: Path, sha256: str) -> dict[str, Any]:
    return {"file": path.name, "sha256": sha256, "bytes": path.stat().st_size}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
