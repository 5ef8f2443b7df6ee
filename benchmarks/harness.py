"""What all benchmarks share: options, crystals, a description of the machine, interleaved timing, result files."""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crystalformers.screening.engines import usable_cores

if TYPE_CHECKING:
    from crystalformers.crystal import Crystal
    from crystalformers.training.recipe import Recipe

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("results")
Key = TypeVar("Key")
SUPERCELLS = ((1, 1, 1), (2, 1, 1), (1, 2, 2), (3, 1, 1), (2, 2, 1), (1, 1, 2), (2, 2, 2))
LARGEST_EXAMPLE = 40


def shared() -> Path:
    """Folder of reference data beside the checkout, as tests/conftest.py finds it."""
    return Path(os.environ.get("CRYSTALFORMERS_SHARED", ROOT.parent / "shared"))


def benchmark_crystals(table: Path, count: int) -> tuple[list[Crystal], str]:
    """The first `count` crystals of a table, or of supercells of the examples where it is absent; and which."""
    if table.is_file():
        from crystalformers.data.table import open_table

        opened = open_table(table)
        return [opened[row] for row in range(min(count, len(opened)))], f"first {count} crystals of {table.name}"
    crystals = example_supercells()
    chosen = [crystals[k % len(crystals)] for k in range(count)]
    print(f"NOTE: {table.name} was not found; measuring {count} supercells of examples/*.cif instead.")
    return chosen, f"{count} supercells of examples/*.cif (the table {table.name} was not found)"


def example_supercells() -> list[Crystal]:
    """Supercells of up to `LARGEST_EXAMPLE` atoms of every example, each multiple of all crystals in turn."""
    from crystalformers.io import read_crystal
    from crystalformers.testing import repeated

    examples = [read_crystal(path) for path in sorted((ROOT / "examples").glob("*.cif"))]
    cells = [repeated(crystal, times) for times in SUPERCELLS for crystal in examples]
    return [crystal for crystal in cells if len(crystal) <= LARGEST_EXAMPLE]


def size_distribution(sizes: Iterable[int]) -> dict[str, Any]:
    """How many atoms the crystals have."""
    sizes = sorted(sizes)
    return {
        "crystals": len(sizes),
        "mean": statistics.fmean(sizes),
        "median": statistics.median(sizes),
        "min": sizes[0],
        "max": sizes[-1],
        "counts": {str(n): count for n, count in sorted(Counter(sizes).items())},
    }


def machine() -> dict[str, Any]:
    """Processor, cores, and the load when the script started and now: neither host name nor path."""
    from crystalformers.training.report import processor

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": LOAD,
        "load_average_after": _load(),
    }


def _load() -> list[float]:
    return [round(number, 2) for number in os.getloadavg()] if hasattr(os, "getloadavg") else []


LOAD = _load()
"""Load of the machine when the script started."""


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python and packages; an absent one is named as such."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def measured_on(crystals: Sequence[Crystal], source: str, given: argparse.Namespace) -> dict[str, Any]:
    """The crystals and options of a benchmark that times training steps, for its results."""
    settings = {key: getattr(given, key) for key in ("batch", "threads", "rounds", "seconds", "seed")}
    return {"crystals": source, "n_atoms": size_distribution(map(len, crystals)), "settings": settings}


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def keep_memory() -> bool:
    """Let this process keep what it frees, where the C library is glibc; returns whether it does.

    A model alone in a process soon gets its memory back without a fault; models that take turns in one leave a heap
    behind in which the next one's is handed to the system and faulted in again at every step.
    """
    trim_threshold, mmap_threshold = -1, -3  # of malloc.h
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(trim_threshold, 2**31 - 1) and mallopt(mmap_threshold, 2**31 - 1))


def interleaved(tasks: Mapping[Key, Callable[[], object]], rounds: int, seconds: float) -> dict[Key, list[float]]:
    """Seconds per call of each task in each round; the tasks take turns, so that drift meets all of them alike.

    Args:
        tasks: what to time; each runs once beforehand, unmeasured.
        rounds: how often every task has its turn.
        seconds: a turn repeats the task until this much time has passed.
    """
    for task in tasks.values():
        task()
    times: dict[Key, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            calls, start = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - start) < seconds or not calls:
                task()
                calls += 1
            times[name].append(elapsed / calls)
    return times


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def cell(values: Mapping[str, float] | None) -> str:
    """What `spread` gives, in a cell of a table."""
    if values is None:
        return "-"
    return f"{digits(values['median'])} ({digits(values['min'])}-{digits(values['max'])})"


def digits(number: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A Markdown table."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    for line in lines:
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")


def write_results(path: Path, results: Mapping[str, Any], *packages: str) -> None:
    """Write results as JSON, with the machine and the versions of these packages, PyTorch, NumPy and this library."""
    from crystalformers.files import write_atomically

    about = {"machine": machine(), "versions": versions("crystalformers", "torch", "numpy", *packages)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps({**results, **about}, indent=1) + "\n").encode())
    print(f"wrote {path.name}")


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """A recipe that takes what it leaves out from the published one, whatever is recommended when it is read."""
    from crystalformers.training.recipe import Recipe

    return Recipe.parse({"defaults": "published", **settings})


def recorded(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results, one run a line; an incomplete last line, left by a crash, is removed from it."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        print(f"{path.name}: the last line was incomplete; its run is repeated.")
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def record(path: Path, row: Mapping[str, Any]) -> None:
    """Add a run, as one line of JSON, to a file of results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def epochs_for(rows: int, batch: int, epochs: int, least_steps: int) -> int:
    """So many epochs, or more where the rows are so few that these have fewer optimiser steps than `least_steps`."""
    return max(epochs, math.ceil(least_steps / math.ceil(rows / batch)))


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that shows the docstring of a script as it is."""
    return argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)


def speed_parser(description: str | None, output: str, structures: int) -> argparse.ArgumentParser:
    """The options of a benchmark that times training steps."""
    options = parser(description)
    options.add_argument("--table", type=Path, default=shared() / "peers" / "structures.parquet")
    options.add_argument("--structures", type=int, default=structures, help="first crystals of the table")
    options.add_argument("--batch", type=int, default=32, help="crystals of a step")
    options.add_argument("--threads", type=int, default=min(2, usable_cores()))
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=float, default=1.0, help="shortest turn of one task in a round")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=RESULTS / output)
    return options
