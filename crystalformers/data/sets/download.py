"""Downloads that are checked as they arrive, resumed after an interruption, and renamed only once they are complete.

A file is downloaded under a temporary name, and its address and version are recorded next to it, so that the next
attempt resumes where this one stopped. It is renamed when its size and SHA-256 are right. Each address is tried several
times before the next one.

`pooch` would compare the hashes, but it cannot resume a download, does not look at content types, and waits forever
for a connection that delivers a byte now and then.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from pathlib import Path

from crystalformers.data.sets import network
from crystalformers.data.sets.entry import RemoteFile, Request, SourceFile, SourceFileError
from crystalformers.data.sets.network import BrokenOffError, RefusedError
from crystalformers.errors import DataSetError
from crystalformers.files import replacing, write_atomically

FORMS = {"zip": (b"PK\x03\x04",), "gzip": (b"\x1f\x8b",), "pickle": (b"\x80", b"(", b"]"), "parquet": (b"PAR1",)}
"""What files of each form begin with."""

HEAD = 8
"""Bytes from which the form of a file is known."""

BY_OTHER_MEANS = "download it in a browser and pass it with --from FILE, or try again later"


def fetch_file(file: RemoteFile, request: Request) -> SourceFile:
    """Put a published file into the folder of a request, downloading it if it is not there.

    Raises:
        DataSetError: if no address gives it, it is not the published or recorded file, the disk is full, or the
            network is switched off. A partial file is left only where a later attempt can resume it.
    """
    path = request.folder / file.name
    if path.is_file():
        try:
            return SourceFile(path, _checked(path, file, request), "")
        except SourceFileError as error:
            request.say(f"{error}")
            path.unlink()
    network.check_online(file.name)
    request.folder.mkdir(parents=True, exist_ok=True)
    reasons, remedy = [], BY_OTHER_MEANS
    for address in file.addresses:
        part = _Part(path, address)
        try:
            network.try_often(partial(_transfer, part, file, request), request.say)
            digest = _checked(part.path, file, request)
        except (RefusedError, BrokenOffError) as error:
            reasons.append(f"{address}: {error}")
        except SourceFileError as error:
            part.discard()
            reasons.append(f"{address}: {error.problem}")
            remedy = error.remedy
        else:
            part.become(path)
            return SourceFile(path, digest, address)
        request.say(f"{file.name}: {reasons[-1]}")
    raise DataSetError(f"the download failed ({'; '.join(reasons)})", where=file.name, remedy=remedy)


def take_file(file: RemoteFile, given: Path, request: Request) -> SourceFile:
    """Copy a file that was fetched by other means into the folder of a request, once it has been checked.

    Raises:
        DataSetError: if it is absent, of another form, or not the published or recorded file.
    """
    if not given.is_file():
        raise DataSetError("no such file", where=str(given), remedy="name the downloaded file")
    digest = _checked(given, file, request)
    path = request.folder / file.name
    request.folder.mkdir(parents=True, exist_ok=True)
    with on_disk(path), replacing(path) as temporary:
        shutil.copyfile(given, temporary)
    return SourceFile(path, digest, str(given))


# One transfer


class _Part:
    """A file that is not yet complete, with a record of the address and version that it comes from."""

    def __init__(self, path: Path, address: str) -> None:
        self.path = path.with_name(f".{path.name}.part")
        self._origin = path.with_name(f".{path.name}.part.json")
        self.address = address
        self.version = ""
        if self._origin.is_file() and self.path.is_file():
            origin = json.loads(self._origin.read_text(encoding="utf-8"))
            self.version = origin["version"] if origin["address"] == address else ""

    @property
    def size(self) -> int:
        """Bytes that a transfer can go on from: none unless the version is known to be the same."""
        return self.path.stat().st_size if self.version and self.path.is_file() else 0

    def restart(self, version: str) -> None:
        """Start again from the first byte; without a version the download cannot be resumed."""
        self.version = version
        self.path.write_bytes(b"")
        write_atomically(self._origin, json.dumps({"address": self.address, "version": version}).encode())

    def become(self, path: Path) -> None:
        """Give the complete file its final name."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        self.path.replace(path)
        self._origin.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the partial file and its record."""
        self.path.unlink(missing_ok=True)
        self._origin.unlink(missing_ok=True)
        self.version = ""


def _transfer(part: _Part, file: RemoteFile, request: Request) -> None:
    """Download what is missing of a file."""
    have = part.size
    headers = {"Range": f"bytes={have}-", "If-Range": part.version} if have else {}
    with network.open_answer(part.address, headers) as response, on_disk(part.path, part.discard):
        content_range = response.headers.get("Content-Range", "")
        if have and content_range == f"bytes */{have}":
            return  # an earlier try had it all
        if response.status_code != HTTPStatus.OK and not content_range.startswith(f"bytes {have}-"):
            part.discard()
            raise BrokenOffError("the server cannot go on where the file broke off")
        if response.status_code == HTTPStatus.OK:
            have = 0
            part.restart(network.version_of(response))
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else file.size
        if file.size not in (None, total):
            part.discard()
            raise RefusedError(f"the file has {total} bytes, published are {file.size}")
        _check_space(part.path, (total or 0) - have)
        with part.path.open("ab") as target:
            for chunk in network.chunks_of(response):
                if have == 0 and len(chunk) >= HEAD:  # a shorter file is looked at when it is whole
                    _check_form(chunk, file, part.address)
                target.write(chunk)
                have += len(chunk)
                request.report(file.name, have, total)
    if total is not None and have != total:
        raise BrokenOffError(f"the connection closed after {have} of {total} bytes")


# Checks


def _checked(path: Path, file: RemoteFile, request: Request) -> str:
    """The hash of a file, if its form and hash are right; raises SourceFileError otherwise."""
    with path.open("rb") as content:
        _check_form(content.read(HEAD), file, str(path))
    digest = sha256_of(path)
    expected = file.sha256 or request.recorded.get(file.name)
    if digest in request.trusted or expected in (None, digest):
        return digest
    origin = "published" if file.sha256 else "recorded at the first download"
    raise SourceFileError(
        f"the file has the SHA-256 {digest}, {origin} is {expected}",
        where=str(path),
        remedy=f"fetch it from elsewhere, or accept this very file with --sha256 {digest}",
    )


def _check_form(head: bytes, file: RemoteFile, where: str) -> None:
    if head.startswith(FORMS[file.form]):
        return
    page = head.lstrip()[:5].lower() in (b"<!doc", b"<html", b"<?xml", b"<head")
    found = "a web page" if page else f"something else (it begins with {head[:8]!r})" if head else "empty"
    raise SourceFileError(f"this is no {file.form} file but {found}", where=where, remedy=BY_OTHER_MEANS)


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"{needed >> 20} MB are needed, {free >> 20} MB are free")


@contextmanager
def on_disk(path: Path, discard: Callable[[], None] = lambda: None) -> Iterator[None]:
    """A disk that is full becomes an error that says so, and what was written is removed."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        discard()
        raise DataSetError(
            f"the disk is full ({error.strerror})",
            where=str(path.parent),
            remedy="free some space, or let CRYSTALFORMERS_DATA name a folder on another disk",
        ) from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
