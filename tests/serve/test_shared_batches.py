"""The thread that computes: what waits together is computed together."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from samples import rock_salt

from crystalformers.serve.batches import Worker
from crystalformers.serve.work import Result, Structure, Work


@dataclass(frozen=True, eq=False)
class Recorded(Work):
    """Gives each structure its name; waits for `go`, and fails on one that is called `bad`."""

    go: threading.Event
    begun: threading.Event = field(default_factory=threading.Event)
    sizes: list[int] = field(default_factory=list)

    def results(self, structures: Sequence[Structure]) -> list[Result]:
        self.begun.set()
        assert self.go.wait(10)
        self.sizes.append(len(structures))
        if any(one.name == "bad" for one in structures):
            raise ZeroDivisionError("a bug")
        return [{"name": one.name} for one in structures]


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(batch_seconds=0.05)
    yield worker
    worker.close()


def named(*names: str) -> list[Structure]:
    return [rock_salt(name=name) for name in names]


def occupied(worker: Worker) -> Recorded:
    """Work that the thread is busy with until its `go` is set."""
    busy = Recorded(threading.Event())
    worker.submit(busy, named("first"))
    assert busy.begun.wait(10)
    return busy


def test_what_waits_is_computed_at_once_and_divided_again(worker: Worker) -> None:
    busy = occupied(worker)
    work, other = Recorded(busy.go), Recorded(busy.go)
    futures = [worker.submit(work, named(f"a{k}", f"b{k}")) for k in range(4)]
    last = worker.submit(other, named("c"))
    busy.go.set()
    assert [[row["name"] for row in future.result(10)] for future in futures] == [[f"a{k}", f"b{k}"] for k in range(4)]
    assert last.result(10) == [{"name": "c"}]
    assert (work.sizes, other.sizes) == ([8], [1])


def test_only_the_request_at_fault_fails(worker: Worker) -> None:
    busy = occupied(worker)
    work = Recorded(busy.go)
    good, bad, more = (worker.submit(work, named(name)) for name in ("good", "bad", "more"))
    busy.go.set()
    assert good.result(10) == [{"name": "good"}]
    assert more.result(10) == [{"name": "more"}]
    with pytest.raises(ZeroDivisionError):
        bad.result(10)


def test_what_was_given_up_is_not_computed(worker: Worker) -> None:
    busy = occupied(worker)
    work = Recorded(busy.go)
    given_up, wanted = worker.submit(work, named("x", "y")), worker.submit(work, named("z"))
    assert given_up.cancel()
    busy.go.set()
    assert wanted.result(10) == [{"name": "z"}]
    assert work.sizes == [1]


def test_closing_finishes_what_waits() -> None:
    worker = Worker(batch_seconds=0.0)
    busy = occupied(worker)
    future = worker.submit(Recorded(busy.go), named("last"))
    closing = threading.Thread(target=worker.close)
    closing.start()
    busy.go.set()
    closing.join(10)
    assert future.result(0) == [{"name": "last"}]
