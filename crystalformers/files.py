"""Files that are written whole or not at all, and by one process at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crystalformers.errors import InUseError

PICTURES = (".png", ".svg", ".pdf")
"""Formats of pictures."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write in parts, which becomes `path` once the block ends and its bytes are on disk.

    After an error in the block the temporary file is gone, and an older file at `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that at any moment either the old or the whole new content is there; folders are created."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def locked(path: Path, seconds: float = 0) -> Iterator[None]:
    """Keep out other processes that lock the same path, while the block runs.

    The lock is on a hidden file next to a file, or in a folder. The operating system releases it when the process
    ends, however it ends.

    Args:
        path: the file or folder.
        seconds: how long to wait for another process that has it.

    Raises:
        InUseError: if another process has locked the path, with the id and the host of that process.
    """
    import socket

    from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

    lock: BaseFileLock = FileLock(path / ".lock" if path.is_dir() else path.with_name(f".{path.name}.lock"))
    file = Path(lock.lock_file)
    try:
        held = lock.acquire(timeout=seconds)
    except Timeout:
        raise InUseError(f"{path} is in use by {_holder(file)}", remedy="wait until it ends") from None
    with held:
        try:
            # Windows lets nobody write to a locked file. The soft lock, where the system has none, writes the same.
            if not isinstance(lock, SoftFileLock):
                with suppress(PermissionError):
                    file.write_text(f"{os.getpid()}\n{socket.gethostname()}\n", encoding="utf-8")
            yield
        finally:
            # Unix keeps the file after its release, when another process may already hold it. Windows deletes it then.
            with suppress(PermissionError):
                file.unlink(missing_ok=True)


def _holder(lock: Path) -> str:
    """The process that holds a lock, as it is named in the lock file."""
    try:
        process, host = lock.read_text(encoding="utf-8").split()[:2]
    except (OSError, ValueError):
        return "another process"
    return f"process {process} on {host}"
