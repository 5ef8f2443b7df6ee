"""Feed changed files to the library in a child process with bounds on time and memory; say what went wrong.

    python tests/fuzz/fuzz.py --inputs 100000 [--seed 0] [--kinds cif poscar ...] [--output findings]

An input is handled well if it ends in crystals with finite predictions, or in errors of the library's own. Anything
else is a finding: another exception, a crash, more than SECONDS or MEMORY. The exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import multiprocessing
import resource
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from mutations import FILENAME, MUTATIONS, mutant

SECONDS = 10.0
"""Longest time for one input."""

MEMORY = 2 << 30
"""Most memory that one input may take above what the process holds before it, bytes."""

GOOD = ("read", "partly read", "refused")
"""How an input may end."""


def outcome(kind: str, data: bytes, folder: Path) -> str:
    """What becomes of an input: the kind of its happy end; any other exception is a finding."""
    import numpy as np

    from crystalformers.errors import CrystalformersError
    from crystalformers.io import read_structures
    from crystalformers.io.rejected import Rejected

    path = folder / FILENAME[kind]
    path.write_bytes(data)
    try:
        found = list(read_structures([path]))
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


def judged(kind: str, data: bytes, folder: Path) -> tuple[str, bool]:
    """What becomes of an input, and whether that is a finding."""
    try:
        text = outcome(kind, data, folder)
    except BaseException as error:  # whatever it is, it is to be told
        return told(error), True
    return text, text not in GOOD


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
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
        for seed in seeds:
            data = mutant(kind, seed)
            pipe.send(("begin", seed, None))
            text, wrong = judged(kind, data, folder)
            pipe.send(("wrong" if wrong else "end", seed, text))
        pipe.send(("done", 0, None))


def attack(
    kind: str, first: int, count: int, work: Callable[[str, range, Connection], None] = work
) -> Iterator[tuple[int, str, bool]]:
    """Seed, outcome, and whether it is a finding, of each input; the child is replaced where it dies or hangs."""
    seed, last = first, first + count
    context = multiprocessing.get_context("spawn")
    while seed < last:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=work, args=(kind, range(seed, last), theirs), daemon=True)
        child.start()
        theirs.close()
        begun, patience = None, 120.0
        while True:
            if not ours.poll(patience):
                child.kill()
                child.join()
                yield seed, f"took more than {SECONDS:g} s", True
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
            begun, patience = number, SECONDS
            if what != "begin":
                yield number, text, what == "wrong"
                seed = number + 1


def main() -> int:
    """Parse the command line; attack; report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="over all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="the first; inputs are numbered from it")
    parser.add_argument("--kinds", nargs="+", choices=MUTATIONS, default=list(MUTATIONS))
    parser.add_argument("--output", type=Path, help="folder for the inputs that were handled wrongly")
    given = parser.parse_args()
    findings, summary, start = [], {}, time.monotonic()
    for kind in given.kinds:
        counted: collections.Counter[str] = collections.Counter()
        for seed, text, wrong in attack(kind, given.seed, given.inputs // len(given.kinds)):
            counted["WRONG" if wrong else text] += 1
            if wrong:
                findings.append({"kind": kind, "seed": seed, "what": text})
                print(f"{kind} {seed}: {text}", flush=True)
                if given.output is not None:
                    given.output.mkdir(parents=True, exist_ok=True)
                    (given.output / f"{seed}-{FILENAME[kind]}").write_bytes(mutant(kind, seed))
        summary[kind] = dict(counted)
        print(kind, summary[kind], flush=True)
    seconds = round(time.monotonic() - start)
    print(json.dumps({"seed": given.seed, "seconds": seconds, "outcomes": summary, "findings": len(findings)}))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
