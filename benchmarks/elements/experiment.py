"""Do better element vectors help? Tables in front of several back-ends, on small and large samples.

    python -m benchmarks.elements.experiment run benchmarks/elements/transfer.yaml      # resumable; a JSON line per run
    python -m benchmarks.elements.experiment summary benchmarks/elements/transfer.yaml  # Markdown and JSON
    python -m benchmarks.elements.experiment search --backend cgcnn                     # learning rates, by validation

A recipe has `tables` and `rows`. Tables are labels of names or files that `load_elements` takes, with `{seed}` for the
seed of the run; of a list, seed k takes the k-th entry; null stands for vectors that are learned with the model. A row
is every combination of its `task`, `size` (a number or `all`), `backend`, `table`, `mode` (`frozen`, `fine-tuned`) and
`seed`. Runs follow the order of the rows, seed by seed, so that an interrupted experiment has complete comparisons.
Results are appended to benchmarks/results/elements/NAME.jsonl; a run is not repeated unless its table has changed.

All tables of a seed have the same training, validation and test rows and the same random numbers, so that differences
are paired. Test rows are used once, at the end of a run.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field

from benchmarks.elements.data import TASKS, overlap
from benchmarks.elements.summary import REFERENCE, markdown, summarise
from benchmarks.elements.training import BACKENDS, Run, carry_out, fingerprint
from benchmarks.harness import RESULTS, parser, record, recorded, write_results

FOLDER = RESULTS / "elements"

LEARNING_RATES = (1e-3, 3e-3, 1e-2)
SEARCH_TASKS, SEARCH_SIZES = ("oqmd-energy", "bulk-modulus"), (100, 500)


class Row(BaseModel):
    """Every combination of these settings."""

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
        """All runs in order, each once; vectors that are learned with the model are never frozen."""
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
    options = parser(__doc__)
    commands = options.add_subparsers(dest="command", required=True)
    for name in ("run", "summary"):
        command = commands.add_parser(name)
        command.add_argument("recipe", type=Path)
        command.add_argument("--results", type=Path, help="default: benchmarks/results/elements/NAME.jsonl")
        command.add_argument(
            "--against", default=REFERENCE, help="table to compare with; another one gets its own files"
        )
        command.add_argument("--jobs", type=int, default=1, help="processes of one thread each")
        command.add_argument("--minutes", type=float, help="start no run after this many minutes")
    command = commands.add_parser("search")
    command.add_argument("--backend", choices=tuple(BACKENDS), required=True)
    arguments = options.parse_args()
    if arguments.command == "search":
        search(arguments.backend)
        return
    recipe = Recipe.model_validate(yaml.safe_load(arguments.recipe.read_text(encoding="utf-8")))
    path = arguments.results or FOLDER / f"{arguments.recipe.stem}.jsonl"
    if arguments.command == "run":
        run_all(recipe.runs(), path, arguments.jobs, arguments.minutes)
    write_summary(recipe, path, arguments.against)


def run_all(runs: list[Run], path: Path, jobs: int, minutes: float | None) -> None:
    """Carry out the runs that are not in the file yet, and append a line for each."""
    done = {key(line) for line in recorded(path)}
    waiting = [run for run in runs if identity(run) not in done]
    print(f"{len(runs)} runs, {len(runs) - len(waiting)} done, {len(waiting)} to do", flush=True)
    start = time.monotonic()
    for number, line in enumerate(results(waiting, jobs, minutes), 1):
        record(path, line)
        left = (time.monotonic() - start) / number * (len(waiting) - number) / 60
        what = " ".join(str(line[name]) for name in ("task", "size", "backend", "table", "mode", "seed"))
        print(f"{number}/{len(waiting)}  {what}: {line['mae']:.4f} {line['unit']}  ({left:.0f} min left)", flush=True)


def results(runs: list[Run], jobs: int, minutes: float | None) -> Iterator[dict[str, Any]]:
    """Results in the order in which runs finish."""
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
    """What identifies a run: not the place of its table, but the content."""
    return tuple(line[name] for name in ("task", "size", "backend", "table", "mode", "seed", "fingerprint"))


def identity(run: Run) -> tuple[Any, ...]:
    """The `key` that the result of a run will have."""
    return key({**asdict(run), "fingerprint": fingerprint(run.source)})


def write_summary(recipe: Recipe, path: Path, against: str) -> None:
    """Write the summary of the runs of a recipe next to the raw lines."""
    wanted = {identity(run) for run in recipe.runs()}
    lines = [line for line in recorded(path) if key(line) in wanted]
    if not lines:
        print("no results yet")
        return
    content = {
        "recipe": recipe.model_dump(mode="json"),
        "runs": len(lines),
        "of": len(wanted),
        **summarise(lines, against),
        "overlap": [overlap(task) for task in sorted({line["task"] for line in lines})],
    }
    text = markdown(content)
    name = path.stem if against == REFERENCE else f"{path.stem}-against-{against}"
    path.with_name(f"{name}.md").write_text(text, encoding="utf-8")
    write_results(path.with_name(f"{name}.json"), content)
    print(text)


def search(backend: str) -> None:
    """Validation errors of each learning rate with one-hot vectors, for two tasks and sizes and a seed of their own."""
    found: dict[str, float] = {}
    runs = [
        Run(task, size, backend, "one-hot", "one-hot", "frozen", 100)
        for task, size in itertools.product(SEARCH_TASKS, SEARCH_SIZES)
    ]
    for lr in LEARNING_RATES:
        errors = [carry_out(run, lr)["val_error"] for run in runs]
        found[f"{lr:g}"] = statistics.geometric_mean(errors)
        print(f"{backend} lr {lr:g}: {found[f'{lr:g}']:.4f} ({', '.join(f'{e:.3f}' for e in errors)})", flush=True)
    content = {"backend": backend, "tasks": SEARCH_TASKS, "sizes": SEARCH_SIZES, "val_error": found}
    write_results(FOLDER / f"search-{backend}.json", content)


if __name__ == "__main__":
    main()
