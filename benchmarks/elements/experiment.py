"""Do better vectors of the elements help? Every table in front of every back-end, on small and large samples.

    python -m benchmarks.elements.experiment run benchmarks/elements/transfer.yaml      # resumable; one JSON line a run
    python -m benchmarks.elements.experiment summary benchmarks/elements/transfer.yaml  # Markdown and JSON
    python -m benchmarks.elements.experiment search --backend cgcnn                     # learning rates, by validation

A recipe names `tables` (label: a name or file that `load_elements` takes, `{seed}` for the seed of the run; a list, of
which seed k takes the k-th; null for no table: vectors learned from nothing) and `rows`. A row is every combination of
its `task`, `size` (a number or `all`), `backend`, `table`, `mode` (`frozen`, `fine-tuned`) and `seed`. Rows come in the
order given, seed by seed, so that an early end still leaves whole comparisons. Results are appended to
benchmarks/results/elements/NAME.jsonl; runs that stand there are not repeated unless their table has changed.

Within a seed every table meets the same training, validation and test rows and the same random numbers, so that
differences are paired. The test rows are never looked at before the end of a run.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.elements.data import TASKS, overlap
from benchmarks.elements.summary import REFERENCE, markdown, summarise
from benchmarks.elements.training import BACKENDS, Laboratory, Run
from benchmarks.harness import RESULTS, machine, versions, write_results
from crystalformers.errors import CrystalformersError

FOLDER = RESULTS / "elements"

LEARNING_RATES = (1e-3, 3e-3, 1e-2)
SEARCH_TASKS, SEARCH_SIZES = ("oqmd-energy", "bulk-modulus"), (100, 500)


class Row(BaseModel):
    """Every combination of these."""

    model_config = ConfigDict(extra="forbid")

    task: list[Literal[tuple(TASKS)]]  # type: ignore[valid-type]
    size: list[int | Literal["all"]]
    backend: list[Literal[tuple(BACKENDS)]]  # type: ignore[valid-type]
    table: list[str]
    mode: list[Literal["frozen", "fine-tuned"]]
    seed: list[int] = Field(min_length=1)


class Recipe(BaseModel):
    """A list of runs."""

    model_config = ConfigDict(extra="forbid")

    tables: dict[str, str | list[str] | None]
    rows: list[Row]

    def runs(self) -> list[Run]:
        """All runs in order, each once; vectors learned from nothing are never frozen."""
        found: dict[Run, None] = {}
        for row in self.rows:
            for seed, task, size, backend, table, mode in itertools.product(
                row.seed, row.task, row.size, row.backend, row.table, row.mode
            ):
                source = self.source(table, seed)
                chosen = "fine-tuned" if source is None else mode
                count = None if size == "all" else int(size)
                found[Run(task, count, backend, table, source, chosen, seed)] = None
        return list(found)

    def source(self, table: str, seed: int) -> str | None:
        """Name or file of a table for a seed."""
        source = self.tables[table]
        if isinstance(source, list):
            return source[seed % len(source)]
        return None if source is None else source.format(seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("run", "summary"):
        command = commands.add_parser(name)
        command.add_argument("recipe", type=Path)
        command.add_argument("--results", type=Path, help="default: benchmarks/results/elements/NAME.jsonl")
        command.add_argument(
            "--against", default=REFERENCE, help="table to compare with; another gets files of its own"
        )
        command.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
        command.add_argument("--minutes", type=float, help="begin no run after so many minutes")
    command = commands.add_parser("search")
    command.add_argument("--backend", choices=tuple(BACKENDS), required=True)
    arguments = parser.parse_args()
    try:
        carry_out_command(arguments)
    except CrystalformersError as error:
        sys.exit(str(error))


def carry_out_command(arguments: argparse.Namespace) -> None:
    """What the command line asks for."""
    if arguments.command == "search":
        search(arguments.backend)
        return
    recipe = Recipe.model_validate(yaml.safe_load(arguments.recipe.read_text(encoding="utf-8")))
    path = arguments.results or FOLDER / f"{arguments.recipe.stem}.jsonl"
    if arguments.command == "run":
        run_all(recipe.runs(), path, arguments.jobs, arguments.minutes)
    write_summary(recipe, path, arguments.against)


@cache
def laboratory() -> Laboratory:
    """One per process."""
    torch.set_num_threads(1)
    return Laboratory()


def carry_out(run: Run) -> dict[str, Any]:
    """A run in whatever process."""
    return laboratory().carry_out(run)


def run_all(runs: list[Run], path: Path, jobs: int, minutes: float | None) -> None:
    """Carry out what is not done yet, one line of the file a run."""
    done = {key(line) for line in read(path)}
    waiting = [run for run in runs if identity(run) not in done]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} done, {len(waiting)} to do", flush=True)
    start = time.monotonic()
    for number, line in enumerate(results(waiting, jobs, minutes), 1):
        append(path, line)
        left = (time.monotonic() - start) / number * (len(waiting) - number) / 60
        what = " ".join(str(line[name]) for name in ("task", "size", "backend", "table", "mode", "seed"))
        print(f"{number}/{len(waiting)}  {what}: {line['mae']:.4f} {line['unit']}  ({left:.0f} min left)", flush=True)


def results(runs: list[Run], jobs: int, minutes: float | None) -> Iterator[dict[str, Any]]:
    """Lines as they come."""
    end = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    if jobs == 1:
        yield from (carry_out(run) for run in itertools.takewhile(lambda _: time.monotonic() < end, runs))
        return
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        upcoming = iter(runs)
        futures = {pool.submit(carry_out, run) for run in itertools.islice(upcoming, jobs)}
        while futures:
            finished = next(as_completed(futures))
            futures.remove(finished)
            if time.monotonic() < end:
                futures |= {pool.submit(carry_out, run) for run in itertools.islice(upcoming, 1)}
            yield finished.result()


def key(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two runs the same; where a table lies does not matter, what it holds does."""
    return tuple(line[name] for name in ("task", "size", "backend", "table", "mode", "seed", "fingerprint"))


def identity(run: Run) -> tuple[Any, ...]:
    """The `key` that the result of a run will have."""
    return key({**asdict(run), "fingerprint": laboratory().fingerprint(run.source)})


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a results file; a last line cut short by a crash is taken out of the file."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        print(f"{path.name}: the last line was cut short; its run is repeated.")
        path.write_text(whole, encoding="utf-8")
    return [json.loads(line) for line in whole.splitlines()]


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def write_summary(recipe: Recipe, path: Path, against: str) -> None:
    """The tables beside the raw lines, of the runs of the recipe alone."""
    wanted = {identity(run) for run in recipe.runs()}
    lines = [line for line in read(path) if key(line) in wanted]
    if not lines:
        print("no results yet")
        return
    content = {
        "recipe": recipe.model_dump(mode="json"),
        "runs": len(lines),
        "of": len(wanted),
        **summarise(lines, against),
        "overlap": [overlap(task) for task in sorted({line["task"] for line in lines})],
        "machine": machine(),
        "versions": versions("torch", "numpy", "crystalformers"),
    }
    text = markdown(content)
    name = path.stem if against == REFERENCE else f"{path.stem}-against-{against}"
    path.with_name(f"{name}.md").write_text(text, encoding="utf-8")
    write_results(path.with_name(f"{name}.json"), content)
    print(text)


def search(backend: str) -> None:
    """Validation errors of each learning rate behind one-hot vectors, on two tasks and sizes; a seed used nowhere."""
    lab = laboratory()
    found: dict[str, float] = {}
    runs = [
        Run(task, size, backend, "one-hot", "one-hot", "frozen", 100)
        for task, size in itertools.product(SEARCH_TASKS, SEARCH_SIZES)
    ]
    for lr in LEARNING_RATES:
        errors = [lab.carry_out(run, lr)["val_error"] for run in runs]
        found[f"{lr:g}"] = statistics.geometric_mean(errors)
        print(f"{backend} lr {lr:g}: {found[f'{lr:g}']:.4f} ({', '.join(f'{e:.3f}' for e in errors)})", flush=True)
    content = {"backend": backend, "tasks": SEARCH_TASKS, "sizes": SEARCH_SIZES, "val_error": found}
    write_results(FOLDER / f"search-{backend}.json", content)


if __name__ == "__main__":
    main()
