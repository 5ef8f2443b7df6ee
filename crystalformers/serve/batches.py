"""One thread that computes: the requests that wait together are computed together, as batches of a model."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from crystalformers.prediction.predictor import WINDOW
from crystalformers.serve.work import Result, Structure, Work


@dataclass(frozen=True, eq=False)
class Job:
    """Work for the structures of one request, and where its results go."""

    work: Work
    structures: Sequence[Structure]
    future: Future[list[Result]] = field(default_factory=Future)


class Worker:
    """Computes jobs in a thread of its own, in the order in which they come.

    Args:
        batch_seconds: how long the first job of a batch waits for others.
        observe: called with the number of structures of each batch that is computed.
    """

    def __init__(self, batch_seconds: float, observe: Callable[[int], object] = lambda count: None) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._batch_seconds, self.observe = batch_seconds, observe
        self._thread = threading.Thread(target=self._run, name="crystalformers-worker", daemon=True)
        self._thread.start()

    def submit(self, work: Work, structures: Sequence[Structure]) -> Future[list[Result]]:
        """The results, one for each structure, as soon as they are there; a cancelled job is passed over."""
        job = Job(work, structures)
        self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Finish the jobs that wait, then end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_ = True
        while open_:
            jobs, open_ = self._next_jobs()
            groups: dict[Work, list[Job]] = {}
            for job in jobs:
                if job.future.set_running_or_notify_cancel():
                    groups.setdefault(job.work, []).append(job)
            for work, group in groups.items():
                self._compute(work, group)

    def _next_jobs(self) -> tuple[list[Job], bool]:
        """Jobs that came within `batch_seconds` of the first, up to a window of structures; False after the last."""
        jobs: list[Job] = []
        end, count = float("inf"), 0
        while count < WINDOW:
            try:
                job = self._jobs.get(timeout=max(0.0, end - time.monotonic()) if jobs else None)
            except queue.Empty:
                break
            if job is None:
                return jobs, False
            if not jobs:
                end = time.monotonic() + self._batch_seconds
            jobs.append(job)
            count += len(job.structures)
        return jobs, True

    def _compute(self, work: Work, jobs: Sequence[Job]) -> None:
        structures = [structure for job in jobs for structure in job.structures]
        self.observe(len(structures))
        try:
            results = iter(work.results(structures))
        except Exception as error:
            if len(jobs) > 1:  # each alone, so that only the one at fault fails
                for job in jobs:
                    self._compute(work, [job])
            else:
                jobs[0].future.set_exception(error)
            return
        for job in jobs:
            job.future.set_result([next(results) for _ in job.structures])
