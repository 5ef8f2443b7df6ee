"""Who runs the parts of a screen: processes of this machine, jobs of Slurm, or tasks of Ray.

An engine runs the parts that it is given, in any order, and yields from time to time, so that the caller can look what
is finished. What a part is has been decided before; an engine that loses a worker loses the part that it had in hand.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from crystalformers.errors import ConfigError, CrystalformersError
from crystalformers.extras import optional
from crystalformers.screening.parts import Job, done_name, done_path

Engine = Callable[[Job, Sequence[int], int | None, Mapping[str, str]], Iterator[None]]
"""Runs parts, given the job, their numbers, how many workers (None: as many as fit) and options of its own."""

LOST_TWICE = 2
"""So many workers may be lost with a part before the run fails: it is the part that ends them."""

SECONDS_BETWEEN_LOOKS = 1.0


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def no_options(options: Mapping[str, str], engine: str) -> None:
    """Raise a ConfigError if an engine without options is given any."""
    if options:
        raise ConfigError(f"the engine {engine} has no option {', '.join(options)}", remedy="leave it out")


# This machine


def local(job: Job, parts: Sequence[int], workers: int | None, options: Mapping[str, str]) -> Iterator[None]:
    """Processes of this machine, one for each core with one thread each; one process for a GPU or a single part.

    Raises:
        CrystalformersError: what a process says why it cannot go on, or that a part ends every process that runs it.
    """
    no_options(options, "local")
    count = min(workers or (1 if job.device != "cpu" else usable_cores()), len(parts))
    job = replace(job, threads=1)  # so that rounding is the same whatever their number
    if count <= 1:
        yield from _here(job, parts)
        return
    todo: queue.SimpleQueue[int] = queue.SimpleQueue()
    for index in parts:
        todo.put(index)
    results: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    processes = [Process(job, todo, results) for _ in range(count)]
    try:
        finished = 0
        while finished < len(parts):
            result = results.get()
            if result is not None:
                raise result
            finished += 1
            yield
    finally:
        for process in processes:
            process.child.terminate()
        for process in processes:
            process.wait()


def _here(job: Job, parts: Sequence[int]) -> Iterator[None]:
    """Run parts in this process, and leave its number of threads as it was."""
    import torch

    before = torch.get_num_threads()
    try:
        for index in parts:
            job.run(index)
            yield
    finally:
        torch.set_num_threads(before)


class Process:
    """A process that runs parts one after the other, and the thread that hands them to it.

    It is told the number of a part in a line, and answers in a line of JSON. When its input ends, since the parent has
    ended in whatever way, it ends after the part it has in hand.
    """

    def __init__(self, job: Job, todo: queue.SimpleQueue[int], results: queue.SimpleQueue[Exception | None]) -> None:
        self.job, self.todo, self.results = job, todo, results
        self.child = self._started()
        threading.Thread(target=self._serve, daemon=True).start()

    def _started(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "crystalformers.screening.worker", json.dumps(vars(self.job))]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, start_new_session=True)

    def _serve(self) -> None:
        while True:
            try:
                index = self.todo.get_nowait()
            except queue.Empty:
                return
            self.results.put(self._run(index))

    def _run(self, index: int) -> Exception | None:
        for _ in range(LOST_TWICE):
            answer = self._answer(index)
            if answer is not None:
                return CrystalformersError(answer["error"]) if "error" in answer else None
            code = self.child.wait()
            if code >= 0:  # it has printed what went wrong
                return CrystalformersError(f"a process ended with exit code {code}", where=f"part {index}")
            self.child = self._started()
        problem = f"the process that ran it was killed {LOST_TWICE} times (signal {-code})"
        return CrystalformersError(problem, where=f"part {index}", remedy="is the memory enough? Try fewer --workers")

    def _answer(self, index: int) -> dict[str, Any] | None:
        """What the process says about a part; None if it has ended."""
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        try:
            self.child.stdin.write(f"{index}\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.child.stdout.readline()
        return json.loads(line) if line.endswith("\n") else None

    def wait(self) -> None:
        """Wait until the process has ended, which gives up the part it has in hand; it was told to."""
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()


# Slurm


def run_parts(job: Job, parts: Sequence[int], workers: int | None = None) -> None:
    """Run parts on the machine that calls it: one job of an array."""
    for _ in local(job, parts, workers, {}):
        pass


def slurm(job: Job, parts: Sequence[int], workers: int | None, options: Mapping[str, str]) -> Iterator[None]:
    """A job array of Slurm through submitit; every job has an equal share of the parts.

    Args:
        job: what to run.
        parts: numbers of the parts.
        workers: jobs in the array; one for every `PARTS_OF_A_JOB` parts by default.
        options: parameters of submitit's executor (`slurm_partition`, `timeout_min`, `cpus_per_task`); `cluster` is
            `slurm` unless another of its executors is named.

    Raises:
        ConfigError: if submitit is missing or jobs have failed; the others go on to their ends before.
    """
    with optional("slurm", "the engine slurm"):
        import submitit
    settings: dict[str, Any] = {key: int(value) if value.isdigit() else value for key, value in options.items()}
    cluster = settings.pop("cluster", "slurm")
    executor = submitit.AutoExecutor(Path(job.folder) / "slurm", cluster=cluster)
    executor.update_parameters(name="crystalformers", **settings)
    count = min(workers or -(-len(parts) // PARTS_OF_A_JOB), len(parts))
    jobs = executor.map_array(partial(run_parts, job), [list(parts[k::count]) for k in range(count)])
    while not all(one.done() for one in jobs):
        time.sleep(SECONDS_BETWEEN_LOOKS)
        yield
    failed = [error for error in (one.exception() for one in jobs) if error is not None]
    if failed:
        last = str(failed[0]).strip().splitlines()[-1]
        problem = f"{len(failed)} of {count} jobs failed ({last})"
        raise ConfigError(problem, where=f"{job.folder}/slurm", remedy="repeat the command: it goes on")


PARTS_OF_A_JOB = 128
"""Parts of one job of an array by default: a quarter of a million structures."""


# Ray


def ray(job: Job, parts: Sequence[int], workers: int | None, options: Mapping[str, str]) -> Iterator[None]:
    """Tasks of Ray, one part and one core each; a task whose worker is lost runs again on another one.

    Args:
        job: what to run.
        parts: numbers of the parts.
        workers: tasks at once; as many as the cluster has cores by default.
        options: `address` of the cluster; by default the one that `RAY_ADDRESS` names, or this machine.

    Raises:
        ConfigError: if Ray is missing.
    """
    with optional("ray", "the engine ray"):
        library: Any = import_module("ray")
    address = options.get("address")
    no_options({key: value for key, value in options.items() if key != "address"}, "ray")
    if not library.is_initialized():
        library.init(address=address, log_to_driver=False)
    resources: dict[str, float] = library.cluster_resources()
    at_once = workers or max(1, int(resources.get("CPU", 1)))
    run = library.remote(num_cpus=1, max_retries=RETRIES)(_run_part)
    job, left = replace(job, threads=1), list(reversed(parts))
    running: set[Any] = set()
    while left or running:
        while left and len(running) < at_once:
            running.add(run.remote(job, left.pop()))
        ready, _ = library.wait(list(running), timeout=SECONDS_BETWEEN_LOOKS)
        for task in ready:
            running.remove(task)
            library.get(task)
        yield


RETRIES = 5
"""How often Ray runs a task again whose worker was lost."""


def _run_part(job: Job, index: int) -> None:
    job.run(index)


ENGINES: dict[str, Engine] = {"local": local, "slurm": slurm, "ray": ray}
"""The engines by their names."""


def unfinished(folder: Path, parts: Sequence[int]) -> list[int]:
    """The parts that are not finished; the folder is listed, since asking for each of many files takes long."""
    done = done_path(folder, 0).parent
    names = {entry.name for entry in os.scandir(done)} if done.exists() else set()
    return [index for index in parts if done_name(index) not in names]
