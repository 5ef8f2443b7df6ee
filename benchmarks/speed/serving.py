"""Load on `crystalformers serve`, on this machine only: errors, times of answers, rate and memory.

    python -m benchmarks.speed.serving --clients 50 --seconds 300 --restart

Clients send POSCAR files for the given time, each its next request as soon as the last is answered, and note its time
and status. They share the cores with the server, so they do as little as they can. The rate, over the time without the
restart, is given beside that of reading and predicting the same files with the library, measured in a process of its
own before and after. The memory of the server and of its reader is looked up every second (Linux).

With --restart the server is stopped by SIGTERM half-way and started again on its port; what clients then see (503, no
connection) is counted apart, and every other error still counts as one.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    RESULTS,
    ROOT,
    benchmark_crystals,
    parser,
    print_table,
    shared,
    size_distribution,
    write_results,
)
from crystalformers.crystal import Crystal
from crystalformers.screening.engines import usable_cores

MAIN = "from crystalformers.cli import main; main()"
MOST_CLIENTS, MOST_SECONDS = 100, 900

PREDICT = """
import json, sys, time, torch
from pathlib import Path
from crystalformers import load_model
from crystalformers.io import read_structures
from crystalformers.prediction.predictor import Settings, predict_window
folder, threads, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
torch.set_num_threads(threads)
model, files = load_model(["materials-project"]), sorted(folder.iterdir())
predict_window(model, list(read_structures(files)), Settings())
count, start = 0, time.perf_counter()
while time.perf_counter() - start < seconds:
    count += len(predict_window(model, list(read_structures(files)), Settings()))
print(count / (time.perf_counter() - start))
"""


def poscar(crystal: Crystal) -> str:
    """The text of a POSCAR file."""
    order = sorted(range(len(crystal)), key=lambda k: crystal.numbers[k])
    counts = Counter(crystal.symbols[k] for k in order)
    vectors = [*crystal.lattice.tolist(), *(crystal.frac_coords[k].tolist() for k in order)]
    lines = [" ".join(f"{x:.10f}" for x in vector) for vector in vectors]
    head = [" ".join(counts), " ".join(map(str, counts.values())), "direct"]
    return "\n".join([crystal.name or "crystal", "1.0", *lines[:3], *head, *lines[3:]]) + "\n"


@dataclass
class Load:
    """What the clients saw.

    Attributes:
        seconds: of each answer with a prediction.
        structures: that were predicted.
        refused: answers by status, or `no connection`, while the server was being restarted.
        errors: the same at any other time, and rows without values.
        restarting: whether the server is being restarted.
    """

    seconds: list[float] = field(default_factory=list)
    structures: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    restarting: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, connection: HTTPConnection, body: bytes, count: int) -> None:
        """Send one request and note what came of it."""
        before, start = self.restarting.is_set(), time.perf_counter()
        try:
            connection.request("POST", "/api/predict", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            content = answer.read()
            elapsed = time.perf_counter() - start
            problem = "" if answer.status == 200 else str(answer.status)
            if not problem and any("values" not in row for row in json.loads(content)["rows"]):
                problem = "row without values"
        except (OSError, HTTPException):
            connection.close()  # the next request opens it anew
            problem = "no connection"
        with self.lock:
            if not problem:
                self.seconds.append(elapsed)
                self.structures += count
            elif (before or self.restarting.is_set()) and problem in {"503", "no connection"}:
                self.refused[problem] += 1
            else:
                self.errors[problem] += 1
        if problem:
            time.sleep(0.2)


def started(port: int, threads: int) -> tuple[subprocess.Popen[str], int]:
    """A server and its port."""
    command = [sys.executable, "-c", MAIN, "serve", "--port", str(port), "--threads", str(threads), "--no-browser"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line := process.stderr.readline())
    if not found:
        raise SystemExit(f"The server did not start: {line}")
    return process, int(found[1])


def predict_rate(folder: Path, threads: int, seconds: float) -> float:
    """Structures per second that the library reads and predicts, without a server."""
    command = [sys.executable, "-c", PREDICT, str(folder), str(threads), str(seconds)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def bodies(texts: Sequence[str], size: int, seed: int) -> list[bytes]:
    """Requests of so many structures each."""
    rng = random.Random(seed)
    chosen = ([{"name": "x.poscar", "text": text} for text in rng.choices(texts, k=size)] for _ in range(200))
    return [json.dumps({"structures": structures}).encode() for structures in chosen]


def run_load(given: argparse.Namespace, requests: Sequence[bytes]) -> dict[str, Any]:
    """Load on a server: what the clients saw, and its memory."""
    process, port = started(0, given.threads)
    load, memory, stop = Load(), [], threading.Event()

    def client(seed: int) -> None:
        rng = random.Random(seed)
        with closing(HTTPConnection("127.0.0.1", port, timeout=120)) as connection:
            while not stop.is_set():
                load.ask(connection, rng.choice(requests), given.structures_per_request)

    clients = [threading.Thread(target=client, args=(k,)) for k in range(given.clients)]
    begin, down, restarted = time.monotonic(), 0.0, not given.restart
    for one in clients:
        one.start()
    try:
        while (elapsed := time.monotonic() - begin) < given.seconds:
            time.sleep(1)
            memory.append(resident(process.pid))
            if not restarted and elapsed > given.seconds / 2:
                load.restarting.set()
                stopped = time.monotonic()
                process.send_signal(signal.SIGTERM)
                process.wait(120)
                process, port = started(port, given.threads)
                load.restarting.clear()
                down, restarted = time.monotonic() - stopped, True
    finally:
        stop.set()
        for one in clients:
            one.join()
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    times = sorted(load.seconds)
    return {
        "requests": len(times),
        "structures": load.structures,
        "seconds_of_restart": down,
        "structures_per_second": load.structures / (given.seconds - down),
        "errors": dict(load.errors),
        "refused_during_restart": dict(load.refused),
        "seconds_p50": statistics.median(times),
        "seconds_p99": times[int(0.99 * len(times))],
        "memory_bytes": memory,
        "exit_code": code,
    }


def resident(pid: int) -> int:
    """Memory of a process and its reader, bytes (Linux)."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")  # a process belongs to the thread that started it
    children = [one for task in tasks for one in task.read_text(encoding="ascii").split()]
    pages = [int(Path(f"/proc/{one}/statm").read_text(encoding="ascii").split()[1]) for one in (str(pid), *children)]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE")


def arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--table", type=Path, default=shared() / "peers" / "structures.parquet")
    options.add_argument("--structures", type=int, default=256, help="first crystals of the table")
    options.add_argument("--structures-per-request", type=int, default=8)
    options.add_argument("--clients", type=int, default=50, help=f"at most {MOST_CLIENTS}")
    options.add_argument("--seconds", type=float, default=30.0, help=f"at most {MOST_SECONDS}")
    options.add_argument("--threads", type=int, default=min(2, usable_cores()))
    options.add_argument("--restart", action="store_true", help="stop and start the server half-way")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=RESULTS / "serving.json")
    given = options.parse_args()
    given.clients, given.seconds = min(given.clients, MOST_CLIENTS), min(given.seconds, MOST_SECONDS)
    return given


def main() -> None:
    given = arguments()
    crystals, source = benchmark_crystals(given.table, given.structures)
    texts = [poscar(crystal) for crystal in crystals]
    with tempfile.TemporaryDirectory() as name:
        for k, text in enumerate(texts):
            (Path(name) / f"{k}.poscar").write_text(text, encoding="utf-8")
        alone = min(10.0, given.seconds / 3)
        rates = [predict_rate(Path(name), given.threads, alone)]
        found = run_load(given, bodies(texts, given.structures_per_request, given.seed))
        rates.append(predict_rate(Path(name), given.threads, alone))
    share = found["structures_per_second"] / statistics.mean(rates)
    print_table(
        ("requests", "errors", "p50 (s)", "p99 (s)", "structures/s", "of predict", "memory (MB)"),
        [
            [
                str(found["requests"]),
                str(sum(found["errors"].values())),
                f"{found['seconds_p50']:.3f}",
                f"{found['seconds_p99']:.3f}",
                f"{found['structures_per_second']:.0f}",
                f"{100 * share:.0f} %",
                f"{found['memory_bytes'][0] / 1e6:.0f} to {max(found['memory_bytes']) / 1e6:.0f}",
            ]
        ],
    )
    settings = {
        key: getattr(given, key) for key in ("clients", "seconds", "threads", "structures_per_request", "restart")
    }
    about = {"crystals": source, "n_atoms": size_distribution(map(len, crystals)), "settings": settings}
    results = {**about, **found, "predict_structures_per_second": rates, "share_of_predict": share}
    write_results(given.output, results, "fastapi", "uvicorn", "starlette")


if __name__ == "__main__":
    main()
