"""Feed changed files to the library in a child process with bounds on time and memory; say what went wrong.

    python tests/fuzz/fuzz.py --inputs 100000 [--seed 0] [--kinds cif poscar ...] [--output findings] [--summary FILE]

With a summary file a run that was interrupted goes on where it ended.

An input is handled well if it ends in crystals with finite predictions, in a recipe, or in errors of the library's own.
Anything else is a finding: another exception, a crash, more than SECONDS or MEMORY. The exit status is 1 if there are
any.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crystalformers.crystal import Crystal
    from crystalformers.io.rejected import Rejected

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from mutations import MUTATIONS, mutant
from originals import FILENAME, NAMED, SCREENED, originals

SECONDS = 10.0
"""Longest time of a processor for one input."""

MEMORY = 2 << 30
"""Most memory that one input may take above what the process holds before it, bytes."""

WAIT = 20
"""How many times as long an input may take by the clock, on a machine that is busy with other things."""

PART = 2500
"""Inputs of a kind before the next kind has its turn."""

PRELOADED = ["crystalformers.prediction.loading", "crystalformers.screening.inputs", "crystalformers.training.recipe"]
"""Modules that children begin with: importing PyTorch anew takes longer than hundreds of inputs."""

COUNTED = ("inputs", "findings")

GOOD = ("read", "partly read", "refused")
"""How an input may end."""


def outcome(kind: str, data: bytes, folder: Path) -> str:
    """What becomes of an input: the kind of its happy end; any other exception is a finding."""
    import numpy as np

    from crystalformers.errors import CrystalformersError
    from crystalformers.io import read_structures
    from crystalformers.io.rejected import Rejected
    from crystalformers.training.recipe import Recipe

    path = folder / FILENAME[kind]
    path.write_bytes(data)
    if kind == "csv":
        for named in NAMED:
            (folder / named.name).write_bytes(named.read_bytes())
    try:
        if kind == "recipe":
            Recipe.load(path)
            return "read"
        found = list(screened(path) if kind in SCREENED else read_structures([path]))
        assert kind not in SCREENED or os.listdir(folder) == [path.name], "something was written beside the file"
        good = [row for row in found if not isinstance(row, Rejected)]
        assert found, "neither a structure nor a reason"
        assert all(row.reason.strip() for row in found if isinstance(row, Rejected))
        if good:
            rows = _model().predict(good, errors="report")
            for row in rows:
                assert isinstance(row, Rejected) or np.isfinite(list(row.values.values())).all()
        return "read" if len(good) == len(found) else "partly read" if good else "refused"
    except CrystalformersError as error:
        return "refused" if str(error).strip() else "refused without a reason"


def screened(path: Path) -> Iterator[Crystal | Rejected]:
    """What `crystalformers screen` reads from a file, three structures at a time."""
    from crystalformers.screening.inputs import Piece, find_inputs, with_cuts

    for found in find_inputs([str(path)]):
        given, cuts = with_cuts(found, 3)
        for cut in cuts:
            yield from (structure.found for structure in given.structures(Piece(0, *cut)))


def judged(kind: str, data: bytes, folder: Path) -> tuple[str, bool]:
    """What becomes of an input, and whether that is a finding."""
    return judge(lambda: outcome(kind, data, folder), GOOD)


def judge(run: Callable[[], str], good: Sequence[str]) -> tuple[str, bool]:
    """What a function says, and whether that is a finding: anything but what is good, and any exception."""
    try:
        text = run()
    except BaseException as error:  # whatever it is, it is to be told
        return told(error), True
    return text, text not in good


def told(error: BaseException) -> str:
    """An exception and where it was raised, in one line."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"


def _model() -> Any:
    """A small model that predicts for whatever was read."""
    if "model" not in _CACHE:
        from samples import tiny_model

        from crystalformers import load_model

        with tempfile.TemporaryDirectory() as folder:
            _CACHE["model"] = load_model(tiny_model(Path(folder) / "model.safetensors"))
    return _CACHE["model"]


_CACHE: dict[str, Any] = {}


def work(kind: str, seeds: range, pipe: Connection) -> None:
    """The child: seed by seed, tell what is begun and how it ended."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name, open("/dev/null", "w") as nowhere, contextlib.redirect_stderr(nowhere):
        folder = Path(name)
        _model()
        for data in originals(kind)[-2:]:  # import what reading takes
            judged(kind, data, folder)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        for seed in seeds:
            data = mutant(kind, seed)
            pipe.send(("begin", seed, None))
            text, wrong = judged(kind, data, folder)
            pipe.send(("wrong" if wrong else "end", seed, text))
        pipe.send(("done", 0, None))


def attack(
    kind: str,
    first: int,
    count: int,
    work: Callable[[str, range, Connection], None] = work,
    seconds: float = SECONDS,
) -> Iterator[tuple[int, str, bool]]:
    """Seed, outcome, and whether it is a finding, of each input; the child is replaced where it dies or hangs."""
    seed, last = first, first + count
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    while seed < last:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=work, args=(kind, range(seed, last), theirs), daemon=True)
        child.start()
        theirs.close()
        begun = running = False
        while True:
            start = _processor_time(child.pid) if running else 0.0
            waits = 0
            while not (told := ours.poll(seconds)) and waits < WAIT:
                waits += 1
                if running and _processor_time(child.pid) - start > seconds:
                    break
            if not told:
                child.kill()
                child.join()
                yield seed, f"took more than {seconds:g} s", True
                seed += 1
                break
            try:
                what, number, text = ours.recv()
            except EOFError:
                child.join()
                yield seed, f"the process died with exit code {child.exitcode}" + ("" if begun else " at start"), True
                seed += 1
                break
            if what == "done":
                child.join()
                seed = last
                break
            begun, running = True, what == "begin"
            if what != "begin":
                yield number, text, what == "wrong"
                seed = number + 1


def _processor_time(pid: int | None) -> float:
    """Seconds that a process has computed; infinite once it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("inf")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Parse the command line; attack; report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="over all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="the first; inputs are numbered from it")
    parser.add_argument("--kinds", nargs="+", choices=MUTATIONS, default=list(MUTATIONS))
    parser.add_argument("--processes", type=int, default=1, help="children at once")
    parser.add_argument("--output", type=Path, help="folder for the inputs that were handled wrongly")
    parser.add_argument("--summary", type=Path, help="JSON file of outcomes to write, or to go on from")
    given = parser.parse_args()
    known = json.loads(given.summary.read_text()) if given.summary and given.summary.exists() else {}
    kinds = known.get("kinds", {})
    wanted = given.inputs // len(given.kinds)
    for kind in given.kinds:
        kinds.setdefault(kind, {"first_seed": given.seed, "inputs": 0, "outcomes": {}, "findings": []})
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())

    def run(kind: str) -> None:
        run_part(kind, kinds[kind], min(PART, wanted - kinds[kind]["inputs"]), given.output, stop)

    with ThreadPoolExecutor(given.processes) as pool:
        while not stop.is_set() and (unfinished := [kind for kind in given.kinds if kinds[kind]["inputs"] < wanted]):
            list(pool.map(run, unfinished))
            if given.summary is not None:
                write_summary(given.summary, kinds)
    return 1 if stop.is_set() or any(kinds[kind]["findings"] for kind in given.kinds) else 0


def run_part(kind: str, found: dict[str, Any], count: int, output: Path | None, stop: Event) -> None:
    """Attack with the next inputs of a kind until told to stop, and add to what was found."""
    for seed, text, wrong in attack(kind, found["first_seed"] + found["inputs"], count):
        if stop.is_set():
            break
        found["inputs"] += 1
        if not wrong:
            found["outcomes"][text] = found["outcomes"].get(text, 0) + 1
            continue
        found["findings"].append({"seed": seed, "what": text})
        print(f"{kind} {seed}: {text}", flush=True)
        if output is not None:
            output.mkdir(parents=True, exist_ok=True)
            (output / f"{seed}-{FILENAME[kind]}").write_bytes(mutant(kind, seed))
    print(kind, found["inputs"], found["outcomes"], len(found["findings"]), flush=True)


def write_summary(path: Path, kinds: dict[str, Any]) -> None:
    """Write machine, bounds and the outcomes of each kind of input; an old file is replaced at once."""
    machine = {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()}
    total = {name: sum(len(k[name]) if name == "findings" else k[name] for k in kinds.values()) for name in COUNTED}
    bounds = {"seconds": SECONDS, "bytes": MEMORY}
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"machine": machine, "bounds": bounds, "total": total, "kinds": kinds}, indent=1))
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
