"""The finished part of a long prediction on disk, from which an interrupted run goes on.

One text file: a header that says what is computed, then a line for each finished window of structures. A line is a
SHA-256, a space and its JSON; the hash is of that of the line before and the JSON, so that no line can be exchanged. It
is written and synced as a whole; if a run is killed while it writes, the incomplete last line is cut off on resume, and
damage anywhere else is an error. With its rows, a line has a digest of the structures that they belong to, so that a
run cannot be resumed with other structures.

A journal that is open is locked against other processes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError
from crystalformers.files import locked
from crystalformers.io import Rejected
from crystalformers.prediction.rows import Prediction, Row, written_fields


@contextmanager
def open_journal(path: Path, header: dict[str, Any], *, resume: bool) -> Iterator[Journal]:
    """Begin a journal, or go on with the one that is there; other processes cannot open it meanwhile.

    The file is deleted if no window was finished. Once the rows are written elsewhere, call `Journal.remove`.

    Args:
        path: the file.
        header: what is computed and how, as JSON; `header["units"]` has the unit of each target.
        resume: whether to go on with a file that is there.

    Raises:
        ConfigError: if another process has the journal open, if there is one and `resume` is not set, or if the one
            that is there is damaged or has another header.
    """
    with locked(path):
        journal = Journal(path, header, resume=resume)
        try:
            yield journal
        finally:
            if path.exists() and next(journal.windows(), None) is None:
                journal.remove()


class Journal:
    """The rows of the finished windows in a file; made by `open_journal`.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, resume: bool) -> None:
        self.path, self._units, self._last = path, header["units"], b""
        if path.exists() and not resume:
            problem = f"{path} holds an unfinished prediction"
            raise ConfigError(problem, remedy="go on with --resume, or delete it to start again")
        if path.exists():
            self._cut_incomplete_line()
        if path.exists() and path.stat().st_size > 0:
            self._check(header)
        else:
            self._write(header)

    def append(self, window: Sequence[Crystal | Rejected], rows: Sequence[Row]) -> None:
        """Add the rows of a finished window; once this returns, they survive a kill."""
        self._write({"inputs": digest(window), "rows": [written_fields(row) for row in rows]})

    @property
    def finished(self) -> int:
        """Number of rows, counted in the file: an interrupt may come just after a line was written."""
        return sum(len(line["rows"]) for line in self._finished())

    def windows(self) -> Iterator[list[Row]]:
        """The rows of the finished windows, in order."""
        return ([self._row(fields) for fields in line["rows"]] for line in self._finished())

    def skip(self, windows: Iterator[list[Crystal | Rejected]]) -> None:
        """Take the finished windows off the input.

        Raises:
            ConfigError: if the input has changed.
        """
        for line in self._finished():
            if digest(next(windows, [])) != line["inputs"]:
                first = line["rows"][0]["name"]
                problem = f"{self.path} belongs to other structures (the window from '{first}' on has changed)"
                raise ConfigError(problem, remedy="repeat the first command with --resume, or delete the file")

    def remove(self) -> None:
        """Delete the file."""
        self.path.unlink(missing_ok=True)

    def _finished(self) -> Iterator[dict[str, Any]]:
        return (content for _, content in islice(_lines(self.path), 1, None))

    def _row(self, fields: dict[str, Any]) -> Row:
        return Rejected(**fields) if "problem" in fields else Prediction(**fields, units=self._units)

    def _check(self, header: dict[str, Any]) -> None:
        """Read every line; raise a ConfigError if one is damaged or the header is another."""
        lines = _lines(self.path)
        self._last, known = next(lines)
        for self._last, _ in lines:
            pass
        changed = sorted(key for key in header if known.get(key) != header[key])
        if changed:
            problem = f"{self.path} belongs to another prediction ({', '.join(changed)} changed)"
            raise ConfigError(problem, remedy="repeat the first command with --resume, or delete the file")

    def _cut_incomplete_line(self) -> None:
        with self.path.open("rb+") as file:
            file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))

    def _write(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        with self.path.open("ab") as file:
            checksum = _checksum(self._last, text)
            file.write(checksum + b" " + text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._last = checksum


def _checksum(last: bytes, text: bytes) -> bytes:
    """Hash of a line's JSON and the hash of the line before."""
    return hashlib.sha256(last + text).hexdigest().encode()


def _lines(path: Path) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Hash and content of every complete line."""
    last = b""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            checksum, _, text = line.rstrip(b"\n").partition(b" ")
            if _checksum(last, text) != checksum:
                raise ConfigError(f"line {number} is damaged", where=str(path), remedy="delete it to start again")
            last = checksum
            yield checksum, json.loads(text)


def digest(window: Sequence[Crystal | Rejected]) -> str:
    """SHA-256 of the names and geometry of structures, and of the reasons why others cannot be used."""
    result = hashlib.sha256()
    for row in window:
        result.update(row.name.encode())
        if isinstance(row, Rejected):
            result.update(row.reason.encode())
        else:
            for array in (row.numbers, row.lattice, row.frac_coords):
                result.update(array.tobytes())
    return result.hexdigest()
