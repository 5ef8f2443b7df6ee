"""Tables in the form of the CrystalTransformer paper's Tables 1 to 3, on the data at hand; every model with its size.

    python -m benchmarks.elements.paper_tables front-ends [--crystals N] [--epochs 500]   # resumable
    python -m benchmarks.elements.paper_tables back-ends [--size 500] [--backends cgcnn megnet alignn]
    python -m benchmarks.elements.paper_tables tables

Front-ends are the published network (4.3 million weights) with the authors' recipe
(recipes/crystaltransformer-published*.yaml), trained on mp36k for one to four properties: formation energy (f), gap
(b), magnetisation (m) and Fermi energy (e). The paper's third property, the total energy, is not in mp36k. Crystals
with a composition of the tables in `data.EXCLUDED` are left out.

Back-ends have their published sizes (CGCNN 0.08, MEGNet 0.19, ALIGNN 4.1 million weights) and the training of
`experiment`. Table 1: vectors of one property against one-hot. Table 2: vectors of several properties. Table 3:
fine-tuned against frozen. A front-end that was not trained to its end (500 epochs on all crystals) puts no back-end
into the tables; what was not run is listed as such. Rows of `ours` have the bundled vectors of the invariant encoder,
which is not the published network. Published numbers are on other data (Materials Project of 2018, 60,000 crystals)
and only for orientation.
"""

from __future__ import annotations

import csv
import json
from typing import Any

import numpy as np

from benchmarks.elements.data import EXCLUDED, FRONT_END, TASKS, load
from benchmarks.elements.training import BACKENDS, BackEnd, Run, carry_out
from benchmarks.harness import RESULTS, ROOT, parser, record, recorded, shared, write_results
from crystalformers.checkpoint import read_description
from crystalformers.elements.trained import from_model
from crystalformers.files import write_atomically
from crystalformers.target import Target
from crystalformers.training import fit
from crystalformers.training.dataset import Dataset
from crystalformers.training.recipe import Recipe

RUNS = ROOT / "runs" / "elements" / "paper"
OUTPUT = RESULTS / "elements" / "paper-tables.json"
LINES = OUTPUT.with_suffix(".jsonl")
PROPERTIES = {
    "f": TASKS["mp36k-energy"].target,
    "b": TASKS["mp36k-gap"].target,
    "m": Target("magn_raw", "mu_B", "per_cell"),
    "e": Target("e_fermi", "eV"),
}
FRONT_ENDS = ("f", "b", "fb", "fbm", "fbme")
TASK_NAMES = {"Ef": "mp36k-energy", "Eg": "mp36k-gap"}
BACKENDS["alignn-published"] = BackEnd("alignn", 1e-3)
SIZED = {"cgcnn": "cgcnn", "megnet": "megnet", "alignn": "alignn-published"}
"""Back-ends in their published sizes."""

PUBLISHED = {
    ("cgcnn", "one task", "fine-tuned", "Ef"): 0.071,
    ("cgcnn", "one task", "fine-tuned", "Eg"): 0.359,
    ("cgcnn", "one task", "frozen", "Ef"): 0.073,
    ("cgcnn", "one task", "frozen", "Eg"): 0.358,
    ("cgcnn", "two tasks", "fine-tuned", "Ef"): 0.068,
    ("cgcnn", "two tasks", "fine-tuned", "Eg"): 0.357,
    ("cgcnn", "four tasks", "fine-tuned", "Eg"): 0.367,
}
ONE_TASK = {"Ef": "f", "Eg": "b"}
"""The front-end that learned the task of the back-end."""

SEVERAL = {"two tasks": "fb", "three tasks": "fbm", "four tasks": "fbme"}
BUNDLED = {
    "none": "one-hot",
    "ours, two tasks": "crystaltransformer-mp36k-seed0",
    "ours, seven tasks": "crystaltransformer7-mp36k-seed0",
}
"""Origin of vectors that come with the library -> table."""

EPOCHS = 500
"""Published length of the training of a front-end."""


def main() -> None:
    options = parser(__doc__)
    commands = options.add_subparsers(dest="command", required=True)
    command = commands.add_parser("front-ends")
    command.add_argument("--kinds", nargs="+", choices=FRONT_ENDS, default=list(FRONT_ENDS))
    command.add_argument("--crystals", type=int, help="training crystals; default: all")
    command.add_argument("--epochs", type=int, default=EPOCHS, help=f"published: {EPOCHS}")
    command = commands.add_parser("back-ends")
    command.add_argument("--backends", nargs="+", choices=SIZED, default=list(SIZED))
    command.add_argument("--size", type=int, help="training and validation crystals; default: all")
    command.add_argument("--seeds", nargs="+", type=int, default=[0])
    commands.add_parser("tables")
    arguments = options.parse_args()
    if arguments.command == "front-ends":
        for kind in arguments.kinds:
            train_front_end(kind, arguments.epochs, arguments.crystals)
    if arguments.command == "back-ends":
        run_back_ends(arguments.backends, arguments.size, arguments.seeds)
    write_tables()


def train_front_end(kind: str, epochs: int, crystals: int | None) -> None:
    """Train the published network on the properties of a kind; an interrupted run is resumed."""
    name = "crystaltransformer-published" + ("-multitask" if len(kind) > 1 else "")
    exclude = [
        {"table": str(shared() / "data" / f"{table}.parquet"), "split": None, "by": "composition"} for table in EXCLUDED
    ]
    recipe = Recipe.load(ROOT / "recipes" / f"{name}.yaml", {"epochs": epochs, "threads": 1, "exclude": exclude})
    table, targets = load(FRONT_END), [PROPERTIES[letter] for letter in kind]
    splits = None
    if crystals is not None:
        splits = dict(Dataset.of(table, targets, recipe).splits)
        drawn = np.random.default_rng(recipe.seed).permutation(splits["train"])[:crystals]
        splits["train"] = np.sort(drawn)
    fit(table, targets, RUNS / kind, recipe, resume=True, splits=splits)
    from_model(RUNS / kind / "model.safetensors", name=f"published-{kind}").save(RUNS / kind / "elements.safetensors")


def run_back_ends(backends: list[str], size: int | None, seeds: list[int]) -> None:
    """Train back-ends behind the tables of the front-ends that are there; a run is not repeated."""
    done = {_key(line) for line in recorded(LINES)}
    for seed in seeds:
        for backend in backends:
            for task, name in TASK_NAMES.items():
                for origin, source in sources(task).items():
                    for mode in ("frozen",) if origin == "none" else ("frozen", "fine-tuned"):
                        run = Run(name, size, SIZED[backend], origin, source, mode, seed)
                        if _key(vars(run)) not in done:
                            line = carry_out(run) | {"source": source if origin in BUNDLED else origin}
                            record(LINES, line)
                            print(backend, origin, mode, task, f"{line['mae']:.4f} {line['unit']}", flush=True)


def sources(task: str) -> dict[str, str]:
    """Origin of the vectors -> table, of those that are there; front-ends that were trained to their end only."""
    found = dict(BUNDLED)
    for origin, kind in {"one task": ONE_TASK[task], **SEVERAL}.items():
        weights = RUNS / kind / "model.safetensors"
        if weights.exists():
            card = read_description(weights)["card"]
            whole = card["recipe"]["epochs"] >= EPOCHS and card["data"]["rows"]["train"] > 20_000
            found |= {origin: str(RUNS / kind / "elements.safetensors")} if whole else {}
    return found


def _key(line: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(line[name] for name in ("task", "size", "backend", "table", "mode", "seed"))


def write_tables() -> None:
    """The tables as Markdown, and what they were drawn from as JSON."""
    lines, front_ends = recorded(LINES), _front_ends()
    text = [_front_end_table(front_ends)]
    titles = {
        "Table 1: vectors of one task": ("none", "one task"),
        "Table 2: vectors of several tasks": (*SEVERAL, "ours, two tasks", "ours, seven tasks"),
    }
    for title, vectors in titles.items():
        text.append(_table(title, lines, vectors, tuple(SIZED), ("frozen", "fine-tuned")))
    text.append(_table("Table 3: how the vectors are used", lines, ("one task",), ("cgcnn",), ("fine-tuned", "frozen")))
    write_atomically(OUTPUT.with_suffix(".md"), "\n".join(text).encode())
    write_results(OUTPUT, {"what": __doc__, "front_ends": front_ends, "back_ends": len(lines)})


def _front_ends() -> dict[str, Any]:
    """What is known of the front-ends: those trained here now, else those of an earlier result."""
    found = json.loads(OUTPUT.read_text(encoding="utf-8"))["front_ends"] if OUTPUT.exists() else {}
    for kind in FRONT_ENDS:
        weights = RUNS / kind / "model.safetensors"
        if weights.exists():
            card = read_description(weights)["card"]
            with (RUNS / kind / "metrics.csv").open(encoding="utf-8") as file:
                seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
            facts = {"rows": card["data"]["rows"], "epochs": card["recipe"]["epochs"], "errors": card["errors"]}
            found[kind] = {**facts, "seconds_of_last_epochs": seconds[-5:]}
    return found


def _front_end_table(found: dict[str, Any]) -> str:
    rows = ["## Front-ends: the published network, 4.3 million weights", ""]
    rows += ["| properties | training crystals | epochs (published: 500) | test MAE |", "|---|---|---|---|"]
    for kind in FRONT_ENDS:
        facts = found.get(kind)
        if facts is None:
            rows.append(f"| {kind} | - | - | not run |")
            continue
        errors = ", ".join(f"{n} {e['mae']:.3g} {e['unit']}" for n, e in facts["errors"]["test"].items())
        rows.append(f"| {kind} | {facts['rows']['train']:,} | {facts['epochs']} | {errors} |")
    return "\n".join(rows) + "\n"


def _table(
    title: str, lines: list[dict[str, Any]], vectors: tuple[str, ...], backends: tuple[str, ...], modes: tuple[str, ...]
) -> str:
    """Rows of one back-end, origin of the vectors and mode; columns of both tasks, ours and published."""
    header = ["back-end", "weights", "vectors", "mode", "crystals"]
    header += [f"{task} here ({TASKS[name].unit})" for task, name in TASK_NAMES.items()]
    header += [f"{task} published" for task in TASK_NAMES]
    rows = [f"## {title}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for backend in backends:
        for origin in vectors:
            for mode in ("frozen",) if origin == "none" else modes:
                rows.append(_row(lines, backend, origin, mode))
    return "\n".join(rows) + "\n"


def _row(lines: list[dict[str, Any]], backend: str, origin: str, mode: str) -> str:
    chosen = [x for x in lines if (x["backend"], x["table"], x["mode"]) == (SIZED[backend], origin, mode)]
    cells = [backend, "-", origin, mode, "-"]
    ours = []
    for name in TASK_NAMES.values():
        errors = [x["mae"] for x in chosen if x["task"] == name]
        ours.append(f"{np.mean(errors):.3f}" if errors else "not run")
    if chosen:
        cells[1] = f"{chosen[0]['parameters'] / 1e6:.2f} M"
        cells[4] = f"{chosen[0]['rows']['train']:,}"
    published = [f"{PUBLISHED.get((backend, origin, mode, task), '-')}" for task in TASK_NAMES]
    return "| " + " | ".join([*cells, *ours, *published]) + " |"


if __name__ == "__main__":
    main()
