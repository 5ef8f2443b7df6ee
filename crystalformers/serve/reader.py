"""The process that reads structure files of requests: `python -m crystalformers.serve.reader FOLDER BYTES`.

A file that crashes a parser, keeps it busy for ever or asks for all memory ends this process and no other. It reads
one request per line, JSON, from standard input, and answers with one line each.

An uploaded file is in FOLDER while it is read, under its own name, by which its format is known.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

from crystalformers.crystal import Crystal
from crystalformers.io import Rejected, read_structures

MOST_TEXT = "20"
"""Million characters of text that a file may hold, unpacked (`CRYSTALFORMERS_MAX_TEXT`)."""


MOST_UNPACKED = 32 << 20
"""Bytes that a compressed file may unpack to."""


def answer(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What files hold.

    Args:
        request: `files`, each as `name`, without any folder, and `base64`, its bytes; the limits `structures` and
            `atoms` of all together.
        folder: where a file may lie while it is read.

    Returns:
        `files`, for each the list of its structures: `name`, `numbers`, `frac_coords` and `lattice`, or the fields of a
        `Rejected`; or `too_many`, the name of the limit that is exceeded.
    """
    left = {limit: request[limit] for limit in ("structures", "atoms")}
    files = []
    for file in request["files"]:
        found = _structures(file["name"], base64.b64decode(file["base64"]), left, folder)
        exceeded = next((limit for limit in left if left[limit] < 0), None)
        if exceeded is not None:
            return {"too_many": exceeded}
        files.append(found)
    return {"files": files}


def _structures(name: str, data: bytes, left: dict[str, int], folder: Path) -> list[dict[str, Any]]:
    """The structures of a file, taken from what is left; it ends when less than nothing is left."""
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=folder) as own:  # a library may leave a lock or a journal beside the file
        path = Path(own) / name
        path.write_bytes(data)
        try:
            if _unpacks_to_too_much(path):
                problem = f"it unpacks to more than {MOST_UNPACKED >> 20} MiB"
                return [vars(Rejected(name, problem, name, "split it"))]
            for one in read_structures([path]):
                left["structures"] -= 1
                left["atoms"] -= len(one) if isinstance(one, Crystal) else 0
                if min(left.values()) < 0:
                    break
                found.append(_plain(one, f"{own}{os.sep}"))
        except MemoryError:
            found = [vars(Rejected(name, "reading it takes too much memory", name))]
    return found


def _unpacks_to_too_much(path: Path) -> bool:
    """Whether a compressed file is larger than `MOST_UNPACKED`; one that is damaged is left to its reader."""
    if path.suffix != ".gz":
        return False
    try:
        with gzip.open(path) as file:
            return len(file.read(MOST_UNPACKED + 1)) > MOST_UNPACKED
    except (OSError, EOFError, zlib.error):
        return False


def _plain(one: Crystal | Rejected, folder: str) -> dict[str, Any]:
    """Plain types; where a text names the file, without the folder."""
    if isinstance(one, Rejected):
        return {key: value.replace(folder, "") for key, value in vars(one).items()}
    arrays = {"numbers": one.numbers, "frac_coords": one.frac_coords, "lattice": one.lattice}
    return {"name": one.name.replace(folder, ""), **{key: array.tolist() for key, array in arrays.items()}}


def limit_memory(most: int) -> None:
    """Let this process take that many bytes more than it has, where the system can say so."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # Windows; macOS
        return
    resource.setrlimit(resource.RLIMIT_AS, (used + most, resource.RLIM_INFINITY))


def main() -> None:
    """Answer until standard input ends."""
    folder, most = Path(sys.argv[1]), int(sys.argv[2])
    os.environ["CRYSTALFORMERS_MAX_TEXT"] = MOST_TEXT
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    os.chdir(folder)  # some readers look for other files in the working directory
    limit_memory(most)
    for line in sys.stdin.buffer:
        answers.write(json.dumps(answer(json.loads(line), folder)).encode() + b"\n")
        answers.flush()
    shutil.rmtree(folder, ignore_errors=True)  # the server has ended, perhaps without time to do so itself


if __name__ == "__main__":
    main()
