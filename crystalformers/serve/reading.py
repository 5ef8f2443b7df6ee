"""Structures of requests: text, bytes of a file of any format, or atoms and lattice, to crystals.

Uploads are never stored: while a file is read, by `reader.py`, it lies in a private folder in memory (`/dev/shm`), or
in the folder for temporary files where a system has none.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io import Rejected
from crystalformers.serve.limits import Limits, RefusedError

MEMORY_FOLDER = Path("/dev/shm")
LONGEST_NAME = 120
"""Characters of the name of a file that are used, its last ones."""

TOGETHER = 32
"""Files that the reader is sent at once; one message for each file would cost more time than reading a small one."""

PATIENCE = 0.25
"""Share of the time of one file in which a message of several must be answered, before each is read by its own."""

File = tuple[str, bytes]
"""Name, from `plain_name`, and content."""


def plain_name(name: str, text: str | None) -> str:
    """The last part of a path, without characters that no file name should have; guessed from a text without name."""
    last = re.split(r"[/\\]", name)[-1]
    clean = "".join(c if c.isprintable() else "_" for c in last).encode("utf-8", "replace").decode()
    clean = clean.strip()[-LONGEST_NAME:].lstrip(".~ ")
    while len(clean.encode()) > 2 * LONGEST_NAME:
        clean = clean[1:]
    return clean or guessed_name(text or "")


def guessed_name(text: str) -> str:
    """A name for a text without one, by which its format is known: CIF, JSON, extended XYZ, else POSCAR."""
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith(("{", "[")):
        return "pasted.json"
    if re.search(r"^\s*(data_|_cell_length_a|_atom_site)", start, re.MULTILINE):
        return "pasted.cif"
    if re.match(r"\d+\s*\n.*(Lattice|lattice)\s*=", start):
        return "pasted.extxyz"
    return "pasted.poscar"


class Allowance:
    """How many structures and atoms a request may still bring.

    Args:
        limits: of the request.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self.structures, self.atoms = limits, limits.structures, limits.atoms

    def take(self, found: Sequence[Crystal | Rejected]) -> None:
        """Count structures; raises RefusedError if they are too many."""
        self.structures -= len(found)
        self.atoms -= sum(len(one) for one in found if isinstance(one, Crystal))
        if self.structures < 0 or self.atoms < 0:
            raise self.exceeded("structures" if self.structures < 0 else "atoms")

    def exceeded(self, what: str) -> RefusedError:
        """The error for too many `structures` or `atoms`."""
        problem = f"the request holds more than {getattr(self._limits, what)} {what}"
        return RefusedError(413, problem, remedy="send several smaller requests")


class Reader:
    """The process that reads files, started when it is needed, and again after a file has ended it.

    Args:
        limits: time and memory of one file.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        parent = MEMORY_FOLDER if os.access(MEMORY_FOLDER, os.W_OK) else None
        self._folder = Path(tempfile.mkdtemp(prefix="crystalformers-", dir=parent))

    def start(self) -> None:
        """Start the process now, so that the first file need not wait for it."""
        with self._lock:
            self._running()

    def read(self, files: Sequence[File], allowance: Allowance) -> list[list[Crystal | Rejected]]:
        """The structures of each file, at least one item.

        Args:
            files: to read.
            allowance: of the request; what they hold is taken from it.

        Raises:
            RefusedError: if they hold more than the request may bring, or take longer than it may.
        """
        found: list[list[Crystal | Rejected]] = []
        end = time.monotonic() + self._limits.seconds
        for start in range(0, len(files), TOGETHER):
            found += self._read(files[start : start + TOGETHER], allowance, end)
        return found

    def _read(self, files: Sequence[File], allowance: Allowance, end: float) -> list[list[Crystal | Rejected]]:
        """As `read`, by one message; where it ends the process or takes long, each file by its own."""
        if time.monotonic() > end:
            raise RefusedError(503, "reading the files took too long", remedy="send fewer files")
        plain = [{"name": name, "base64": base64.b64encode(data).decode()} for name, data in files]
        request = {"files": plain, "structures": allowance.structures, "atoms": allowance.atoms}
        line = json.dumps(request).encode() + b"\n"
        with self._lock:
            answered = self._ask(line, self._limits.reader_seconds * (PATIENCE if len(files) > 1 else 1))
        reply = None if answered is None else json.loads(answered)
        if reply is None and len(files) > 1:
            return [found for file in files for found in self._read([file], allowance, end)]
        if reply is None:
            name = files[0][0]
            problem = f"it could not be read within {self._limits.reader_seconds:g} s, or stopped its reader"
            remedy = "check the file; if it is sound, use the command line"
            found: list[list[Crystal | Rejected]] = [[Rejected(name, problem, where=name, remedy=remedy)]]
        elif "too_many" in reply:
            raise allowance.exceeded(reply["too_many"])
        else:
            found = [[_structure(fields) for fields in structures] for structures in reply["files"]]
        for structures in found:
            allowance.take(structures)
        return found

    def _ask(self, line: bytes, seconds: float) -> bytes | None:
        """The answer of the process; None if it ended, or had to be ended after these seconds, without one."""
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            process.stdin.write(line)
            process.stdin.flush()
            reply = process.stdout.readline()
        except OSError:  # it ended while it was written to
            reply = b""
        finally:
            timer.cancel()
        if reply.endswith(b"\n"):
            return reply
        self._end()
        return None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        module = ["-W", "ignore", "-m", "crystalformers.serve.reader"]
        command = [sys.executable, *module, str(self._folder), str(self._limits.reader_bytes)]
        # One thread for each library: more would only take memory. With thresholds that glibc adapts, its heap grows by
        # half a kilobyte with every file.
        frugal = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        frugal |= {"MALLOC_MMAP_THRESHOLD_": str(128 << 10), "ARROW_DEFAULT_MEMORY_POOL": "system"}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **frugal},
            start_new_session=True,  # Ctrl-C is for the server, which ends its reader itself
        )
        return self._process

    def _end(self) -> None:
        """End the process, and remove what it left."""
        if self._process is not None:
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.wait()
            self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def close(self) -> None:
        """End the process and remove its folder."""
        with self._lock:
            self._end()


def _structure(fields: dict[str, Any]) -> Crystal | Rejected:
    if "problem" in fields:
        return Rejected(**fields)
    try:
        return Crystal(**fields)
    except StructureError as error:
        return Rejected.of(fields["name"], error)
