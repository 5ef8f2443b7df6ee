"""Matbench by its official folds: recipes compared inside a training fold, then every fold trained and predicted.

    python -m benchmarks.accuracy.matbench search --task matbench_phonons            # validation errors inside fold 0
    python -m benchmarks.accuracy.matbench run --task matbench_phonons --recipe NAME # every fold; resumable
    python -m benchmarks.accuracy.matbench table                                     # docs/accuracy.md from all results

The recipes are those of `matbench.yaml`. `search` drops the test rows of fold 0 and trains on nine tenths of what is
left, once a recipe and seed; the validation errors on the other tenth decide. So no test row of fold 0 is looked at;
the validation rows are test rows of other folds, for which they choose the recipe and nothing else. `run` does what
`crystalformers benchmark` does, and trains no fold and seed again that the results have. Run folders are in
runs/matbench and continue where they were interrupted.
In benchmarks/results/accuracy/TASK are, for each recipe, all predictions (NAME.parquet: fold, id, member, label,
prediction), settings and errors (NAME.json), and the file that the package of Matbench reads (NAME.matbench.json).
`table` computes every error from the predictions; `matbench_published.yaml` has those of others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks.harness import RESULTS, ROOT, machine, parser, recipe_of, record, recorded, shared, versions
from benchmarks.pages import ComputedTable
from crystalformers import Target, fit, open_table
from crystalformers.benchmark import FoldResults, run_folds, write_matbench
from crystalformers.benchmark.folds import RESULT
from crystalformers.files import replacing
from crystalformers.training.folder import write_json

TARGETS = {
    "matbench_perovskites": Target("e_form", "eV", basis="per_cell"),
    "matbench_phonons": Target("last_phdos_peak", "1/cm"),
}
"""What each task predicts; perovskites in eV per cell of five atoms, as Matbench scores them."""

FOLDS = range(5)
RUNS = ROOT / "runs" / "matbench"
OUT = RESULTS / "accuracy"


def recipes(task: str) -> dict[str, dict[str, Any]]:
    """Settings of each named recipe of a task: its own, and what all share that start from random weights."""
    settings = yaml.safe_load(Path(__file__).with_name("matbench.yaml").read_text(encoding="utf-8"))[task]
    return {name: own if "init" in own else {**settings["all"], **own} for name, own in settings["recipes"].items()}


def training_rows(task: str) -> Path:
    """The task's rows without the test rows of fold 0, as a table."""
    path = RUNS / task / "fold0-train.parquet"
    if not path.exists():
        rows = pq.read_table(shared() / "data" / f"{task}.parquet")
        test = rows["matbench_fold"].to_numpy() == 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            pq.write_table(rows.drop_columns(["matbench_fold"]).filter(pa.array(~test)), temporary)
    return path


def train(task: str, name: str, seed: int) -> Path:
    """The finished run folder of one recipe and seed, inside fold 0."""
    run = RUNS / task / "search" / f"{name}-fold0-seed{seed}"
    recipe = recipe_of({**recipes(task)[name], "seed": seed, "test_fraction": 0})
    if not (run / "summary.json").exists():
        fit(open_table(training_rows(task)), [TARGETS[task]], run, recipe, resume=True)
    return run


def search(task: str, names: Sequence[str], seeds: Sequence[int]) -> None:
    """Add the validation error of each recipe and seed that is not there yet."""
    path = OUT / f"{task}-search.jsonl"
    done = recorded(path)
    for seed in seeds:
        for name in names:
            settings = recipes(task)[name]
            if any(row["settings"] == settings and row["seed"] == seed for row in done):
                continue
            start = time.monotonic()
            run = train(task, name, seed)
            summary = json.loads((run / "summary.json").read_text())
            error = summary["errors"]["val"][TARGETS[task].name]
            row = {"task": task, "recipe": name, "seed": seed, "val_mae": error["mae"], "unit": error["unit"]}
            row |= {"rows": summary["rows"], "seconds": round(time.monotonic() - start), "settings": settings}
            record(path, {**row, "machine": machine(), "versions": versions()})
            print(f"{name} seed {seed}: val MAE {error['mae']:.4g} {error['unit']}", flush=True)


def run_all(task: str, name: str, folds: Sequence[int], seeds: Sequence[int]) -> None:
    """Train and predict every fold and seed that the results do not have yet; add each to them when it is done."""
    target, output, settings = TARGETS[task], RUNS / task / "run" / name, recipes(task)[name]
    table = open_table(shared() / "data" / f"{task}.parquet")
    for seed in seeds:
        for fold in folds:
            if any(row["fold"] == fold and row["member"] == seed for row in results_so_far(task, name)[0]):
                continue
            recipe = recipe_of({"split_seed": 0, **settings, "seed": seed})
            results = run_folds(table, target, output, recipe, folds=[fold], resume=True)
            print(f"{name} fold {fold} seed {seed}: {results.errors()[fold][seed]:.4g} {target.unit}", flush=True)
            rows, inits = results_so_far(task, name)  # another process may have added other folds meanwhile
            rows = sorted(rows + results.rows, key=lambda row: (row["member"], row["fold"]))
            inits |= json.loads((output / RESULT).read_text(encoding="utf-8"))["inits"]
            write_results(task, name, rows, {"settings": settings, "inits": inits})


def results_so_far(task: str, name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Predictions of the folds and seeds that are done, and what is known of the models that they started from.

    Raises:
        SystemExit: if they were trained with other settings than those of the recipe now.
    """
    path = OUT / task / f"{name}.parquet"
    if not path.exists():
        return [], {}
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if about["settings"] != recipes(task)[name]:
        raise SystemExit(f"{path.name} was made with {about['settings']}: give the new recipe another name.")
    return pq.read_table(path).to_pylist(), about["inits"]


def write_results(task: str, name: str, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Replace the files of a recipe; the one for Matbench as soon as all folds are done."""
    folder = OUT / task
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{name}.parquet") as temporary:
        pq.write_table(pa.Table.from_pylist(rows), temporary)
    summary = FoldResults(TARGETS[task], rows).summary()
    write_json(folder / f"{name}.json", {**summary, **about, "machine": machine(), "versions": versions()})
    complete = complete_seeds(task, rows)
    if complete.rows:
        seeds = sorted({row["member"] for row in complete.rows})
        algorithm = {"algorithm": f"crystalformers: {name}", "settings": about["settings"], "seeds": len(seeds)}
        write_matbench(folder / f"{name}.matbench.json", task, complete, algorithm)


def complete_seeds(task: str, rows: Sequence[dict[str, Any]]) -> FoldResults:
    """The predictions of the seeds with which every fold was trained."""
    folds_of: dict[int, set[int]] = {}
    for row in rows:
        folds_of.setdefault(row["member"], set()).add(row["fold"])
    return FoldResults(TARGETS[task], [row for row in rows if folds_of[row["member"]] == set(FOLDS)])


def results_of(task: str) -> dict[str, FoldResults]:
    """What was predicted of a task, by recipe."""
    paths = sorted((OUT / task).glob("*.parquet"))
    return {path.stem: FoldResults(TARGETS[task], pq.read_table(path).to_pylist()) for path in paths}


def published(task: str) -> dict[str, list[float]]:
    """Errors of each fold that others have published, by model."""
    content = yaml.safe_load(Path(__file__).with_name("matbench_published.yaml").read_text(encoding="utf-8"))
    return {name: entry[task] for name, entry in content.items()}


def table(task: str, *, other_data: bool = False) -> str:
    """Errors of a task fold by fold: others' as published, and those of the predictions in the results.

    A fold that a seed was not trained on yet has a dash, and that seed no mean.

    Args:
        task: of `TARGETS`.
        other_data: whether the models are those that began as a trained model, or those that began at random.
    """
    digits = 2 if TARGETS[task].unit == "1/cm" else 4
    heads = [f"MAE ({TARGETS[task].unit})", *(f"fold {fold}" for fold in FOLDS), "mean"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]

    def add(name: str, errors: Sequence[float | None]) -> None:
        mean = None if None in errors else float(np.mean([error for error in errors if error is not None]))
        numbers = " | ".join("–" if error is None else f"{error:.{digits}f}" for error in (*errors, mean))
        lines.append(f"| {name} | {numbers} |")

    for name, errors in ({} if other_data else published(task)).items():
        add(f"{name}, published", errors)
    for name, results in results_of(task).items():
        if ("init" in recipes(task)[name]) != other_data:
            continue
        seeds = {seed for fold in results.errors().values() for seed in fold}
        for seed in sorted(seeds):
            add(f"`{name}`, seed {seed}", [results.errors().get(fold, {}).get(seed) for fold in FOLDS])
        complete = complete_seeds(task, results.rows)
        if len(seeds := {row["member"] for row in complete.rows}) > 1:
            means = complete.summary()["mae_of_mean"]
            add(f"`{name}`, mean of {len(seeds)} models", [means[str(fold)] for fold in FOLDS])
    return "\n".join(lines) + "\n"


def computed(task: str, *, other_data: bool = False) -> ComputedTable:
    """The table of a task in the documentation."""
    name = f"{task} with other data" if other_data else task
    return ComputedTable("accuracy.md", name, "accuracy/matbench.py")


def tables() -> dict[ComputedTable, str]:
    """All tables in the documentation, and what they should hold."""
    found = {computed(task): table(task) for task in TARGETS}
    pretrained = computed("matbench_phonons", other_data=True)
    return {**found, pretrained: table("matbench_phonons", other_data=True)}


def main() -> None:
    """Parse the command line."""
    options = parser(__doc__)
    options.add_argument("action", choices=["search", "run", "table"])
    options.add_argument("--task", choices=TARGETS, help="needed by `search` and `run`")
    options.add_argument("--recipe", nargs="+", help="names in matbench.yaml; default: all")
    options.add_argument("--folds", type=int, nargs="+", default=list(FOLDS))
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    if given.action == "table":
        for place, text in tables().items():
            place.write(text)
        return
    if given.task is None:
        options.error("name the --task")
    torch.set_num_threads(given.threads)
    names = given.recipe or list(recipes(given.task))
    if given.action == "search":
        search(given.task, names, given.seeds)
    else:
        for name in names:
            run_all(given.task, name, given.folds, given.seeds)


if __name__ == "__main__":
    main()
