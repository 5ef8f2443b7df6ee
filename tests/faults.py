"""Operations on files that fail: a process that is killed, stopped, or finds no space or no permission.

`Fault` counts what is written, synced, renamed and deleted through `pathlib` and `os`; the n-th operation fails.
A kill leaves what a kill leaves: half of what was being written, and nothing that follows happens, not even the tidying
up on the way out.
"""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

Kind = Literal["none", "kill", "interrupt", "terminate", "full disk", "read-only"]


class Killed(BaseException):
    """In the place of SIGKILL."""


@dataclass
class Fault:
    """What goes wrong in one run.

    Attributes:
        kind: how.
        at: which operation it hits, from 1; a full disk and a read-only folder fail from there on.
        share: of the bytes that are being written, how many still reach the file.
        count: operations so far.
    """

    kind: Kind
    at: int = 1
    share: float = 0.5
    count: int = 0

    @classmethod
    def drawn(cls, kinds: Sequence[Kind], seed: int, last: int) -> Fault:
        """One of these kinds at an operation up to `last`, alike for all of them whatever the seeds are."""
        rng = random.Random(seed)
        return cls(rng.choice(kinds), rng.randint(1, last), rng.random())

    @property
    def dead(self) -> bool:
        """Whether the process is killed by now."""
        return self.kind == "kill" and self.count >= self.at

    def hits(self, *, grows: bool) -> bool:
        """Whether the operation that begins now fails; only one that `grows` a file needs space."""
        if self.dead:
            return True
        self.count += 1
        if self.kind == "full disk":
            return grows and self.count >= self.at
        return self.count >= self.at if self.kind == "read-only" else self.kind != "none" and self.count == self.at

    def fail(self) -> None:
        """Raise what goes wrong."""
        from crystalformers.signals import Terminated

        match self.kind:
            case "kill":
                raise Killed
            case "interrupt":
                raise KeyboardInterrupt
            case "terminate":
                raise Terminated
            case "full disk":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case _:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    @contextmanager
    def injected(self) -> Iterator[None]:
        """Let the operations inside the block fail."""
        original = Path.open

        def open_(path: Path, mode: str = "r", *given: Any, **named: Any) -> Any:
            writes = set(mode) & set("wax+")
            if writes and self.hits(grows=False):
                self.fail()
            file = original(path, mode, *given, **named)
            return File(file, self) if writes else file

        patches = [patch.object(Path, "open", open_)]
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir"), (Path, "rmdir")):
            patches.append(patch.object(owner, name, self._failing(getattr(owner, name), grows=name == "fsync")))
        for one in patches:
            one.start()
        try:
            yield
        finally:
            for one in patches:
                one.stop()

    def _failing(self, operation: Callable[..., Any], *, grows: bool) -> Callable[..., Any]:
        def failing(*given: Any, **named: Any) -> Any:
            if self.hits(grows=grows):
                self.fail()
            return operation(*given, **named)

        return failing


class File:
    """A file open for writing, whose writes may end in the middle."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self._file, self._fault = file, fault

    def write(self, content: Any) -> Any:
        """Write all of it, or a part before the fault."""
        if self._fault.hits(grows=True):
            if self._fault.count == self._fault.at:
                self._file.write(content[: int(self._fault.share * len(content))])
                self._file.flush()
            self._fault.fail()
        return self._file.write(content)

    def truncate(self, size: int) -> Any:
        """Shorten the file."""
        if self._fault.hits(grows=False):
            self._fault.fail()
        return self._file.truncate(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __iter__(self) -> Any:
        return iter(self._file)

    def __enter__(self) -> File:
        return self

    def __exit__(self, *given: object) -> None:
        self._file.close()
