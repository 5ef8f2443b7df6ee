"""Send hostile requests to `crystalformers serve` in a process of its own; say what went wrong.

    python tests/fuzz/serving.py --requests 10000 [--seed 0] [--summary FILE]

Changed files of every kind, names that are paths, bodies of wrong types and sizes, gzip bombs, bodies that end early,
unknown paths and methods. A request is answered well if its status is 200 or an error with a sentence, it names no
folder of the server, and a good structure in it is still predicted. Anything else is a finding, and so are a server
that ends early or takes more than MEMORY, its reader's included, what it prints, and a folder that it leaves. The exit
status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from mutations import mutant
from originals import FILENAME

MEMORY = 4 << 30
"""Most memory of server and reader together, bytes."""

GOOD = {"name": "CsCl.poscar", "text": "CsCl\n4.123\n1 0 0\n0 1 0\n0 0 1\nCs Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"}
COMMAND = [
    "-c",
    "from crystalformers.cli import main; main()",
    "serve",
    "--port",
    "0",
    "--threads",
    "1",
    "--no-browser",
]
PATHS = ("/api/predict", "/api/embed", "/api/explain")
KINDS = sorted(kind for kind, name in FILENAME.items() if not name.endswith(".yaml"))
NAMES = (
    "../../../etc/passwd",
    "/etc/hosts.cif",
    "a\0b.cif",
    "C:\\x.cif",
    "..",
    "x" * 999,
    "POSCAR/..",
    "晶.cif",
    "~",
    "a\nb",
)
ODD: tuple[Any, ...] = (None, -1, 1e308, 10**40, "", "\ud800", [], {}, True, "\0", [[[]]], {"text": 1}, "x" * 10**6)
BOMB = gzip.compress(b"data_x\n" + b"# \n" * 30_000_000, mtime=0)


def body(rng: random.Random) -> tuple[str, str, bytes]:
    """Method, path and body of a hostile request."""
    path = rng.choice(PATHS)
    field = "structure" if path == "/api/explain" else "structures"
    kind = rng.choices(("file", "name", "bomb", "types", "cut", "path", "atoms"), (60, 10, 0.5, 15, 5, 5, 5))[0]
    entry: dict[str, Any] = dict(GOOD)
    if kind == "file":
        name = rng.choice(KINDS)
        data = mutant(name, rng.randrange(10**6))[: 1 << 20]
        entry = {"name": FILENAME[name], "base64": base64.b64encode(data).decode()}
    elif kind == "name":
        entry["name"] = rng.choice(NAMES) + rng.choice(("", ".cif", ".csv", ".gz"))
    elif kind == "bomb":
        entry = {
            "name": rng.choice(("x.cif.gz", "x.jsonl.gz", "x.extxyz.gz")),
            "base64": base64.b64encode(BOMB).decode(),
        }
    elif kind == "atoms":
        lattice = [[rng.choice((0, 1e-9, 3, 1e9, -4)) for _ in range(3)] for _ in range(3)]
        symbols = [rng.choice(("H", "Xx", "U", "", "Cf")) for _ in range(rng.randrange(4))]
        coordinates = [[rng.uniform(-2, 2), rng.choice((0, 1e300)), 0.5] for _ in range(rng.randrange(4))]
        entry = {"atoms": {"symbols": symbols, "frac_coords": coordinates, "lattice": lattice}}
    request: dict[str, Any] = {field: entry if field == "structure" else [entry, dict(GOOD)]}
    if kind == "types":
        request[rng.choice((field, "coverage", "atom", "block", "model", "per_atom", "threshold"))] = rng.choice(ODD)
    if kind == "path":
        odd = (
            "/api/elements/%00",
            "/api/elements?table=../../x",
            "/static/../app.py",
            "/static/%2e%2e/app.py",
            "//",
            "/api",
        )
        return rng.choice(("GET", "PUT", "DELETE", "POST")), rng.choice(odd), b""
    data = json.dumps(request).encode()
    return "POST", path, data[: rng.randrange(len(data))] if kind == "cut" else data


def finding(path: str, status: int, answer: bytes) -> str:
    """What is wrong with an answer; empty if nothing is."""
    text = answer.decode("utf-8", "replace")
    if status >= 500:
        return f"status {status}"
    if "Traceback" in text or re.search(r"/dev/shm|/tmp/|site-packages", text):
        return "an answer that tells of the server's inside"
    if status != 200 and "message" not in json.loads(text).get("error", {}):
        return "an error without a sentence"
    if status == 200 and path == "/api/predict" and "values" not in json.loads(text)["rows"][-1]:
        return "a good structure without prediction"
    return ""


def resident(pid: int) -> int:
    """Memory of a process and its children, bytes (Linux)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")  # a process belongs to the thread that started it
    children = [one for task in tasks for one in task.read_text(encoding="ascii").split()]
    pages = 0
    for one in (str(pid), *children):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()[1])
        except OSError:  # it has just ended
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def folders() -> set[Path]:
    """Folders of servers, in memory or for temporary files."""
    return {path for folder in ("/dev/shm", tempfile.gettempdir()) for path in Path(folder).glob("crystalformers-*")}


def unfinished(port: int) -> socket.socket:
    """A connection whose request never ends; open ones take a place each until the server ends them."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824\r\n\r\n{")
    return connection


def attack(requests: int, seed: int) -> tuple[Counter[str], dict[str, str], int]:
    """Statuses, findings by the number of the request, and the most memory, of an attack on a server of its own."""
    before = folders()
    process = subprocess.Popen([sys.executable, *COMMAND], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r":(\d+) ", process.stderr.readline())
    assert found is not None, "the server did not start"
    printed: list[str] = []
    watching = threading.Thread(target=lambda: printed.extend(process.stderr))  # type: ignore[arg-type]
    watching.start()
    port, seen, findings, memory = int(found[1]), Counter[str](), dict[str, str](), 0
    slow: list[socket.socket] = []
    for k in range(seed, seed + requests):
        method, path, data = body(random.Random(k))
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            seen[str(answer.status)] += 1
            wrong = finding(path, answer.status, answer.read())
            connection.close()
        except (OSError, ValueError, http.client.HTTPException) as error:
            wrong = f"no answer ({error!r})"
        if wrong:
            findings[str(k)] = f"{method} {path}: {wrong}"
        memory = max(memory, resident(process.pid))
        if k % 100 == 0:
            slow = [*slow[-5:], unfinished(port)]
        if process.poll() is not None:
            findings["server"] = f"it ended with {process.returncode}"
            break
    process.send_signal(signal.SIGTERM)
    code = process.wait(120)
    watching.join()
    for one in slow:
        one.close()
    if left := folders() - before:
        findings["folders"] = ", ".join(map(str, left))
    if code or printed:
        findings["server"] = f"it ended with {code} and printed {''.join(printed)[:2000]}"
    if memory > MEMORY:
        findings["memory"] = f"{memory / 1e9:.1f} GB"
    return seen, findings, memory


def main() -> int:
    """Attack, and print what became of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--summary", type=Path)
    given = options.parse_args()
    seen, findings, memory = attack(given.requests, given.seed)
    result = {
        "requests": given.requests,
        "seed": given.seed,
        "statuses": seen,
        "findings": findings,
        "memory_bytes": memory,
    }
    print(json.dumps(result, indent=1))
    if given.summary:
        given.summary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
