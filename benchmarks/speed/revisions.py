"""Two versions of the library in one run: the tasks of `cpu.py` of this checkout and of another one.

    git worktree add ../before REVISION && (cd ../before && python setup.py build_ext --inplace)
    python -m benchmarks.speed.revisions ../before

Each version runs its own `cpu.py` in a process of its own, in which models and images stay alive. The two take turns,
task by task and in alternating order, while the other one waits; ratios are formed within a round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, cell, print_table, speed_parser, spread, write_results

WORKER = """
import json, sys, time
from pathlib import Path
root, table, structures, batch, threads, seconds = sys.argv[1], Path(sys.argv[2]), *map(float, sys.argv[3:])
sys.path.insert(0, root)
from benchmarks.speed import cpu
import torch
replies, sys.stdout = sys.stdout, sys.stderr
cpu.keep_memory()
torch.set_num_threads(int(threads))
torch.manual_seed(0)
crystals, _ = cpu.benchmark_crystals(table, int(structures))
cpu.matgl_contestants = lambda *_: []
tasks = cpu.all_tasks(cpu.gather(crystals, int(batch)), crystals, int(batch), int(threads))
tasks = {f"{name} | {kind}": task for (name, kind), task in tasks.items() if kind in ("train", "infer", "build")}
print(json.dumps(list(tasks)), file=replies, flush=True)
for line in sys.stdin:
    task, calls, start = tasks[line.strip()], 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < seconds or not calls:
        task()
        calls += 1
    print(json.dumps(elapsed / calls), file=replies, flush=True)
"""
"""What a version runs: it names its tasks, then times each that it is asked for."""


class Version:
    """A checkout and its process."""

    def __init__(self, root: Path, given: argparse.Namespace) -> None:
        numbers = (given.structures, given.batch, given.threads, given.seconds)
        command = [sys.executable, "-c", WORKER, str(root.resolve()), str(given.table.resolve()), *map(str, numbers)]
        environment = {**os.environ, "PYTHONPATH": str(root.resolve())}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
        )
        self.tasks: list[str] = self._reply()

    def time(self, task: str) -> float:
        """Seconds of one pass of a task."""
        assert self.process.stdin is not None
        print(task, file=self.process.stdin, flush=True)
        return float(self._reply())

    def _reply(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"A version ended early with code {self.process.wait()}; see above.")
        return json.loads(line)


def arguments() -> argparse.Namespace:
    options = speed_parser(__doc__, "revisions.json", structures=64)
    options.add_argument("other", type=Path, help="the checkout to compare with, its kernels compiled")
    options.set_defaults(rounds=9)
    options.add_argument("--only", default="", help="tasks whose name contains this")
    return options.parse_args()


def revision(root: Path) -> str:
    command = ["git", "-C", str(root), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    given = arguments()
    versions = {"this": Version(ROOT, given), "other": Version(given.other, given)}
    tasks = [t for t in versions["this"].tasks if t in versions["other"].tasks and given.only in t]
    seconds: dict[str, dict[str, list[float]]] = {task: {"this": [], "other": []} for task in tasks}
    for round_ in range(given.rounds):
        for task in tasks:
            for name in sorted(versions, reverse=bool(round_ % 2)):
                seconds[task][name].append(versions[name].time(task))
    ratios = {
        task: spread([b / a for a, b in zip(times["this"], times["other"], strict=True)])
        for task, times in seconds.items()
    }
    print_table(
        ["task", "speed of this version / the other, median (range)"], [[t, cell(r)] for t, r in ratios.items()]
    )
    results = {
        "what": __doc__,
        "revisions": {"this": revision(ROOT), "other": revision(given.other)},
        "settings": {k: getattr(given, k) for k in ("structures", "batch", "threads", "rounds", "seconds")},
        "ratios": ratios,
        "seconds_per_pass": seconds,
    }
    write_results(given.output, results)


if __name__ == "__main__":
    main()
