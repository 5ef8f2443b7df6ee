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
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from mutations import FILENAME, MUTATIONS, mutant

SECONDS = 10.0
"""Longest time for one input."""

MEMORY = 2 << 30
"""Most memory that one input may take above what the process holds before it, bytes."""

GOOD = ("read", "partly read", "predicted", "refused")
"""How an input may end."""


def outcome(kind: str, data: bytes, folder: Path) -> str:
    """What becomes of an input: the kind of its happy end; any other exception is a finding."""
    import numpy as np

    from crystalformers import load_model
    from crystalformers.errors import CrystalformersError
    from crystalformers.io import read_structures
    from crystalformers.io.rejected import Rejected

    path = folder / FILENAME[kind]
    path.write_bytes(data)
    try:
        if kind == "weights":
            frame = load_model(path).predict([Path(__file__).parents[2] / "examples" / "NaCl.cif"])
            return "predicted" if np.isfinite(list(frame[0].values.values())).all() else "not finite"
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
    return judge(lambda: outcome(kind, data, folder), GOOD)


def judge(run: Callable[[], str], good: Sequence[str]) -> tuple[str, bool]:
    """What a function says, and whether that is a finding: anything but what is good, and any exception."""
    try:
        text = run()
    except BaseException as error:  # whatever it is, it is to be told
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})", True
    return text, text not in good


def _model() -> Any:
    """A small model that predicts for whatever was read."""
    if "model" not in _CACHE:
        from mutations import originals

        from crystalformers import load_model

        path = Path(tempfile.mkdtemp()) / "model.safetensors"
        path.write_bytes(originals("weights")[0])
        _CACHE["model"] = load_model(path)
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
    kind: str,
    first: int,
    count: int,
    work: Callable[[str, range, Connection], None] = work,
    seconds: float = SECONDS,
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
            begun, patience = number, seconds
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
