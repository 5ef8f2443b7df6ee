"""Where inputs lie: paths here, or addresses such as `s3://bucket/table.parquet`, which fsspec opens."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from crystalformers.errors import ConfigError
from crystalformers.extras import optional
from crystalformers.io.stream import files_below

VERSION_KEYS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems call the field that changes with the content of a file."""


def is_remote(address: str) -> bool:
    """Whether it is an address with a protocol and no path."""
    return "://" in address


def absolute(given: str) -> str:
    """The address by which every process on every machine finds an input."""
    return given if is_remote(given) else os.path.abspath(given)


def _file_system(address: str) -> tuple[Any, str]:
    """The file system of fsspec, and the path in it."""
    with optional("remote", "an address", where=address):
        from fsspec.core import url_to_fs
    try:
        found = url_to_fs(address)
    except (ImportError, ValueError) as error:  # the package of the protocol is missing, or there is none
        raise ConfigError(str(error), where=address, remedy="see the list of protocols of fsspec") from error
    return found[0], found[1]


def exists(address: str) -> bool:
    """Whether there is such a file or folder."""
    if not is_remote(address):
        return os.path.exists(address)
    system, path = _file_system(address)
    return bool(system.exists(path))


def is_folder(address: str) -> bool:
    """Whether it is a folder."""
    if not is_remote(address):
        return os.path.isdir(address)
    system, path = _file_system(address)
    return bool(system.isdir(path))


def files_of(folder: str) -> list[str]:
    """All files of a folder and below, sorted; hidden ones are left out."""
    if not is_remote(folder):
        return list(map(str, files_below(Path(folder))))
    system, path = _file_system(folder)
    inside = [found[len(path) :].strip("/") for found in system.find(path)]
    shown = (name for name in inside if not any(part.startswith(".") for part in name.split("/")))
    return [f"{folder.rstrip('/')}/{name}" for name in sorted(shown)]


def open_bytes(address: str) -> IO[bytes]:
    """A file, open for reading at any position."""
    if not is_remote(address):
        return Path(address).open("rb")
    system, path = _file_system(address)
    opened: IO[bytes] = system.open(path, "rb")
    return opened


@contextmanager
def local_copy(address: str) -> Iterator[Path]:
    """The path of a file, which is copied here while the block runs if it lies elsewhere."""
    if not is_remote(address):
        yield Path(address)
        return
    system, path = _file_system(address)
    with TemporaryDirectory() as folder:
        copy = Path(folder) / address.rsplit("/", 1)[-1]
        system.get_file(path, str(copy))
        yield copy


def size_of(address: str) -> int:
    """Bytes of a file."""
    if not is_remote(address):
        return os.path.getsize(address)
    system, path = _file_system(address)
    return int(system.size(path))


def stamp(address: str) -> str:
    """What tells cheaply that a file has changed: its size, and when it was written or its tag."""
    if not is_remote(address):
        found = os.stat(address)
        return f"{found.st_size} {found.st_mtime_ns}"
    system, path = _file_system(address)
    info = system.info(path)
    return f"{info.get('size')} {next((info[key] for key in VERSION_KEYS if info.get(key)), '')}"


def sha256(address: str) -> str:
    """SHA-256 of the content of a file."""
    with open_bytes(address) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # any stream will do
