"""The finished part of a long prediction, durable on disk: what an interrupted run goes on from.

A header line that says what is computed, then one JSON line per finished window of structures. A line is written
and synced as a whole; the torn last line of a killed run is cut off on resume. Each line carries a digest of the
structures it belongs to, so that a run is never resumed with other ones.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crystalformers.errors import ConfigError

if TYPE_CHECKING:
    from crystalformers.crystal import Crystal
    from crystalformers.io import Rejected

Row = dict[str, Any]


class Journal:
    """Rows of finished windows in the file `path`.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, header: dict[str, Any], *, resume: bool) -> None:
        """Begin a journal, or with `resume` go on with the one that is there.

        Raises:
            ConfigError: if there is one and it is not to be resumed, is damaged, or belongs to other work.
        """
        self.path = path
        if resume and path.exists():
            self._reopen(header)
        elif path.exists():
            raise ConfigError(
                f"{path} holds an unfinished prediction; go on with --resume, or delete it to start again."
            )
        else:
            self._write(header)

    def append(self, inputs: str, rows: Sequence[Row]) -> None:
        """Add a finished window and the digest of its structures; once this returns it survives a kill."""
        self._write({"inputs": inputs, "rows": rows})

    @property
    def finished(self) -> int:
        """Rows it holds, counted on disk: an interrupt may come just after a line was written."""
        return sum(len(rows) for rows in self.windows())

    def windows(self) -> Iterator[list[Row]]:
        """Rows of the finished windows, in order."""
        return (line["rows"] for line in self._lines())

    def skip(self, windows: Iterator[list[Crystal | Rejected]]) -> None:
        """Take the finished windows off the input.

        Raises:
            ConfigError: if the input is not what it was.
        """
        for line in self._lines():
            window = next(windows, [])
            if digest(window) != line["inputs"]:
                first = line["rows"][0]["name"]
                raise ConfigError(
                    f"{self.path} belongs to other structures (the window from '{first}' on has changed); "
                    "repeat the first command with --resume, or delete the file."
                )

    def remove(self) -> None:
        """Delete the file: the work is done."""
        self.path.unlink(missing_ok=True)

    def remove_if_empty(self) -> None:
        """Delete the file if no window was finished."""
        if self.path.exists() and next(self.windows(), None) is None:
            self.path.unlink()

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self.path.open(encoding="utf-8") as file:
            next(file)
            for line in file:
                if line.endswith("\n"):
                    yield json.loads(line)

    def _reopen(self, header: dict[str, Any]) -> None:
        self._cut_torn_line()
        if self.path.stat().st_size == 0:
            self._write(header)
            return
        try:
            with self.path.open(encoding="utf-8") as file:
                known = json.loads(next(file))
            _ = self.finished  # reads every line
        except (ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{self.path} is damaged ({error}); delete it to start again.") from error
        changed = sorted(key for key in header if known.get(key) != header[key])
        if changed:
            raise ConfigError(
                f"{self.path} belongs to another prediction ({', '.join(changed)} changed); "
                "repeat the first command with --resume, or delete the file."
            )

    def _cut_torn_line(self) -> None:
        with self.path.open("rb+") as file:
            file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))

    def _write(self, content: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(content) + "\n")
            file.flush()
            os.fsync(file.fileno())


def digest(window: Sequence[Crystal | Rejected]) -> str:
    """SHA-256 over names and geometry of structures, and over the reasons where they are bad."""
    from crystalformers.io import Rejected

    result = hashlib.sha256()
    for row in window:
        result.update(row.name.encode())
        if isinstance(row, Rejected):
            result.update(row.reason.encode())
        else:
            for array in (row.numbers, row.lattice, row.frac_coords):
                result.update(array.tobytes())
    return result.hexdigest()
