"""Send hostile requests to `crystalformers serve` in a process of its own; say what went wrong.

    python tests/fuzz/serving.py --requests 10000 [--seed 0] [--summary FILE]

`hostile.py` makes most of them: changed files of every kind, names that are paths, tables that name files of the
server, bodies of wrong types, of 1 GB, or that end early, files that unpack to much, unknown paths and methods.
schemathesis makes one of ten from the OpenAPI description. Meanwhile, connections are open whose requests never end.

A request is answered well if its status is 200 or an error with a sentence, it names no folder of the server, and a
right structure in it gets its answer. Anything else is a finding, and so are a server that ends early or takes more
than MEMORY, its reader's included, what it prints, a file that it leaves anywhere, the secret crystal of its folder in
an answer, and a sender that is awaited for ever. The exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from hostile import Hostile, request
from originals import EXAMPLES

from crystalformers import __version__
from crystalformers.search import build_index

MEMORY = 4 << 30
"""Most memory of server and reader together, bytes."""

MOST_SENT = 64 << 20
"""Bytes of a body without end after which the server must have hung up."""

PATIENCE = 40.0
"""Seconds after which a request that does not end must have been."""

MAIN = "from crystalformers.cli import main; main()"
SECRET = "secret\n3.6\n1 0 0\n0 1 0\n0 0 1\nLu Tm\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"
INSIDE = re.compile(
    r"Traceback|/dev/shm|(?<!/var)/tmp/|/scratch/|site-packages|Lu\d*Tm|Tm\d*Lu|" + re.escape(str(EXAMPLES.parent))
)
"""What no answer holds: parts and folders of the server, and the formula of the secret crystal."""

DESCRIBED = (
    *("POST /api/predict", "POST /api/embed", "POST /api/explain", "POST /api/search"),
    *("GET /api/elements", "GET /api/elements/{symbol}", "GET /api/models", "GET /api/examples"),
)
PART = 500
"""Requests between two summaries."""


def finding(status: int, answer: bytes, *, good: bool) -> str:
    """What is wrong with an answer; empty if nothing is."""
    text = answer.decode("utf-8", "replace")
    if status >= 500:
        return f"status {status}"
    if (inside := INSIDE.search(text)) is not None:
        return f"an answer with '{inside[0]}'"
    if status != 200 and "message" not in json.loads(text).get("error", {}):
        return "an error without a sentence"
    if status == 200 and good and "error" in json.loads(text)["rows"][-1]:
        return "a right structure without its answer"
    return ""


def resident(pid: int) -> int:
    """Memory of a process and its children, bytes (Linux)."""
    pages = 0
    for one in (pid, *children(pid)):
        with suppress(OSError):  # it has just ended
            pages += int(Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def children(pid: int) -> list[int]:
    """Processes that a process has started; each belongs to the thread that started it."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(one) for task in tasks for one in task.read_text(encoding="ascii").split()]


class Server:
    """The server, in an empty folder but for a secret.

    Args:
        folder: to work in.
    """

    def __init__(self, folder: Path) -> None:
        self.home, self.scratch = folder / "home", folder / "scratch"
        self.home.mkdir()
        self.scratch.mkdir()
        self.secret = self.home / "secret.poscar"
        self.secret.write_text(SECRET, encoding="ascii")
        build_index([EXAMPLES], folder / "index")
        options = ["--port", "0", "--threads", "1", "--no-browser", "--index", str(folder / "index")]
        environment = {**os.environ, "TMPDIR": str(self.scratch), "PYTHONPATH": str(EXAMPLES.parent)}
        command = [sys.executable, "-c", MAIN, "serve", *options]
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, text=True, cwd=self.home, env={**environment, "MPLCONFIGDIR": str(folder)}
        )
        assert self.process.stderr is not None
        found = re.search(r":(\d+) ", self.process.stderr.readline())
        assert found is not None, "the server did not start"
        self.port, self.printed = int(found[1]), list[str]()
        self._watching = threading.Thread(target=lambda: self.printed.extend(self.process.stderr or ()))
        self._watching.start()
        arguments = [Path(f"/proc/{one}/cmdline").read_bytes().decode() for one in children(self.process.pid)]
        self.uploads = Path(re.findall(r"\0([^\0]*/crystalformers-[^\0]*)", arguments[0])[0])

    def send(self, hostile: Hostile) -> tuple[int, bytes]:
        """Status and body of the answer; status 0 if a body without end was cut off by hanging up."""
        connection, sent = http.client.HTTPConnection("127.0.0.1", self.port, timeout=90), 0

        def parts() -> Iterator[bytes]:
            nonlocal sent
            for part in hostile.body:
                assert isinstance(part, bytes)
                sent += len(part)
                yield part

        body = hostile.body if isinstance(hostile.body, bytes) else parts()
        headers, chunked = {"Content-Type": "application/json"}, "Transfer-Encoding" in hostile.headers
        try:
            connection.request(hostile.method, hostile.path, body, headers | hostile.headers, encode_chunked=chunked)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (ConnectionError, http.client.HTTPException):
            if not 0 < sent < MOST_SENT:
                raise
            return 0, b""
        finally:
            connection.close()

    def unfinished(self, number: int) -> socket.socket:
        """A connection whose request never ends: in its body, or for odd numbers in its head."""
        connection = socket.create_connection(("127.0.0.1", self.port))
        head = b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1073741824"
        connection.sendall(head if number % 2 else head.replace(b"1073741824", b"1000") + b"\r\n\r\n{")
        return connection

    def stop(self) -> dict[str, str]:
        """What is wrong at the end: exit status, what it printed, files that it left."""
        self.process.send_signal(signal.SIGTERM)
        code, wrong = self.process.wait(120), {}
        self._watching.join()
        if code or self.printed:
            wrong["server"] = f"it ended with {code} and printed {''.join(self.printed)[:2000]}"
        left = [*self.home.iterdir(), *self.scratch.iterdir(), *([self.uploads] if self.uploads.exists() else [])]
        if left != [self.secret]:
            wrong["files"] = ", ".join(map(str, left))
        return wrong


class Attack:
    """Requests to a server, and what became of them.

    Attributes:
        statuses: how many answers had each; 0: hung up.
        kinds: how many requests were of each kind.
        findings: what went wrong, by the seed of the request.
        memory: the most that the server and its reader took, bytes.
    """

    def __init__(self, server: Server) -> None:
        self.server, self.memory = server, 0
        self.statuses, self.kinds, self.findings = Counter[str](), Counter[str](), dict[str, str]()
        self._slow: deque[tuple[float, int, socket.socket]] = deque()

    def hostile(self, seeds: range) -> None:
        """Send the requests of seeds."""
        for k in seeds:
            one = request(k, self.server.secret)
            try:
                status, answer = self.server.send(one)
                wrong = finding(status, answer, good=one.good) if status else ""
            except (OSError, ValueError, http.client.HTTPException) as error:
                status, wrong = -1, f"no answer ({error!r})"
            self.note(one.kind, status, f"seed {k}", wrong and f"{one.method} {one.path[:100]}: {wrong}")
            if k % 100 == 0:
                self._slow.append((time.monotonic(), k // 100, self.server.unfinished(k // 100)))
            if self._slow and time.monotonic() - self._slow[0][0] > PATIENCE:
                self._check_ended()

    def described(self, count: int, seed: int) -> None:
        """Send that many requests that schemathesis makes from the description, half of them just against it."""
        import schemathesis
        from schemathesis.generation import GenerationMode

        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{self.server.port}/openapi.json")
        for one in DESCRIBED:
            method, _, path = one.partition(" ")
            modes = list(GenerationMode) if method == "POST" else [GenerationMode.POSITIVE]
            for mode in modes:
                cases = schema[path][method].as_strategy(generation_mode=mode)
                self._described(one, cases, count // len(DESCRIBED) // len(modes), seed)

    def _described(self, operation: str, cases: Any, count: int, seed: int) -> None:
        """Send requests of one path."""
        import hypothesis

        def check(case: Any) -> None:
            try:
                answer = case.call(base_url=f"http://127.0.0.1:{self.server.port}", timeout=90)
                status, wrong = answer.status_code, finding(answer.status_code, answer.content, good=False)
            except (OSError, ValueError) as error:
                status, wrong = -1, f"no answer ({error!r})"
            name = f"{operation} {self.kinds['described']}"
            self.note("described", status, name, wrong and f"{wrong}: {str(case.body)[:500]}")

        settings = hypothesis.settings(
            max_examples=max(count, 1),
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.generate],
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        hypothesis.seed(seed)(settings(hypothesis.given(case=cases)(check)))()

    def note(self, kind: str, status: int, name: str, wrong: str) -> None:
        """Count a request, and note what went wrong."""
        self.kinds[kind] += 1
        self.statuses[str(status)] += 1
        self.memory = max(self.memory, resident(self.server.process.pid))
        if wrong:
            self.findings[name] = wrong
            print(f"{name}: {wrong}", flush=True)
        if self.server.process.poll() is not None:
            raise SystemExit(f"{name}: the server has ended")

    def _check_ended(self) -> None:
        """Look whether the oldest request that does not end was ended: by 408, or by hanging up within the head."""
        _, number, connection = self._slow.popleft()
        with connection:
            connection.settimeout(1)
            try:
                got = connection.recv(1000)
            except OSError as error:
                got = repr(error).encode()
        self.kinds["never ends"] += 1
        if got if number % 2 else b" 408 " not in got:
            self.findings[f"sender {number}"] = f"awaited for {PATIENCE:g} s: {got[:100]!r}"

    def end(self) -> None:
        """Stop the server, and note what is wrong then."""
        while self._slow:
            time.sleep(max(0.0, PATIENCE - (time.monotonic() - self._slow[0][0])))
            self._check_ended()
        self.findings |= self.server.stop()
        if self.memory > MEMORY:
            self.findings["memory"] = f"{self.memory / 1e9:.1f} GB"

    def summary(self) -> dict[str, Any]:
        """What became of the requests, as JSON."""
        machine = {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
        counts = {"requests": self.kinds.total(), "kinds": dict(self.kinds), "statuses": dict(self.statuses)}
        found = {"findings": self.findings, "memory_bytes": self.memory, "memory_bytes_at_most": MEMORY}
        return {**counts, **found, "machine": {**machine, "crystalformers": __version__}}


def attack(requests: int, seed: int, summary: Path | None = None) -> Attack:
    """An attack on a server of its own; the summary is written after every part and at the end."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:  # not in /tmp, whose name is looked for
        made = Attack(Server(Path(name)))

        def write() -> None:
            if summary is not None:
                temporary = summary.with_suffix(".new")
                temporary.write_text(json.dumps({"seed": seed, **made.summary()}, indent=1) + "\n", encoding="utf-8")
                temporary.replace(summary)

        try:
            made.described(requests // 10, seed)
            next_seed = seed
            while (left := requests - made.kinds.total()) > 0:
                stop = next_seed + min(left, PART)
                made.hostile(range(next_seed, stop))
                next_seed = stop
                print(made.kinds.total(), dict(made.statuses), len(made.findings), flush=True)
                write()
        finally:
            made.end()
            write()
    return made


def main() -> int:
    """Attack, and print what became of it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--requests", type=int, default=1000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--summary", type=Path)
    given = options.parse_args()
    made = attack(given.requests, given.seed, given.summary)
    print(json.dumps(made.summary(), indent=1))
    return bool(made.findings)


if __name__ == "__main__":
    sys.exit(main())
