"""The element vectors of this library: train the front-ends they come from, and bundle their tables.

    python -m benchmarks.elements.front_ends train [--kinds crystaltransformer7 ...] [--seeds 0 1 2]  # resumable
    python -m benchmarks.elements.front_ends bundle                                                   # finished runs

A front-end is a model that is trained for its element vectors: `recipes/elements.yaml` with the changes in `KINDS`. It
learns from the training split of mp36k, without the crystals whose composition occurs in a table that the experiment
transfers to (`data.EXCLUDED`). The kinds named after CrystalTransformer are its invariant variant, an encoder built of
Crystalformer's blocks, not the published network.

Runs are written to runs/elements/KIND-SEED; `bundle` writes their tables to crystalformers/bundled/elements and their
errors to benchmarks/results/elements/front-ends.json. One seed of the slowest kind takes a quarter of an hour on one
core, half an hour on a busy one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.elements.data import EXCLUDED, FRONT_END, TASKS, load
from benchmarks.harness import RESULTS, ROOT, parser, shared, write_results
from crystalformers.checkpoint import read_description
from crystalformers.elements.library import BUNDLED
from crystalformers.elements.trained import from_model
from crystalformers.target import Target
from crystalformers.training import fit
from crystalformers.training.recipe import Recipe

RUNS = ROOT / "runs" / "elements"
TWO = [TASKS[name].target for name in ("mp36k-energy", "mp36k-gap")]
SEVEN = [
    *TWO,
    Target("e_fermi", "eV"),
    Target("volume", "A^3", "per_cell"),
    Target("bulk_modulus", "GPa", transform="log10"),
    Target("shear_modulus", "GPa", transform="log10"),
    Target("magn_raw", "mu_B", "per_cell"),
]


COMPOSITION = "crystaltransformer-composition"
"""Preset of the control: the same network without geometry."""

KINDS: dict[str, tuple[list[Target], dict[str, Any]]] = {
    "crystaltransformer": (TWO, {"model": {}}),
    "crystalformer": (TWO, {"preset": "crystalformer", "model": {}}),
    "composition": (TWO, {"preset": COMPOSITION, "model": {}}),
    "crystaltransformer7": (SEVEN, {}),
    "composition7": (SEVEN, {"preset": COMPOSITION}),
}
"""Name of the tables (a 7 marks seven targets) -> what is learned, and the settings that differ from those of
recipes/elements.yaml; an empty `model` undoes the small beginning of the vectors."""

ABOUT = {
    "licence": "CC-BY 4.0, as the Materials Project data they were learned from",
    "citation": "Materials Project (Jain et al., APL Materials 1, 011002, 2013)",
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("command", choices=("train", "bundle"))
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = options.parse_args()
    if arguments.command == "bundle":
        bundle()
        return
    for seed in arguments.seeds:
        for kind in arguments.kinds:
            train(kind, seed)


def train(kind: str, seed: int) -> None:
    """Train one front-end; an interrupted run is resumed, a finished one is left alone."""
    run = RUNS / f"{kind}-{seed}"
    if (run / "model.safetensors").exists():
        return
    tables = [shared() / "data" / f"{name}.parquet" for name in EXCLUDED]
    exclude = [{"table": str(table), "split": None, "by": "composition"} for table in tables]
    fit(load(FRONT_END), KINDS[kind][0], run, recipe_of(kind, seed=seed, exclude=exclude), resume=True)


def recipe_of(kind: str, **settings: Any) -> Recipe:
    """The recipe of a kind, for one thread; `settings` override it."""
    return Recipe.load(ROOT / "recipes" / "elements.yaml", {"threads": 1, **KINDS[kind][1], **settings})


def bundle() -> None:
    """Write the tables of the finished runs, and their errors."""
    BUNDLED.mkdir(exist_ok=True)
    content: dict[str, Any] = {}
    for weights in sorted(RUNS.glob("*/model.safetensors")):
        kind, seed = weights.parent.name.rsplit("-", 1)
        name = f"{kind}-mp36k-seed{seed}"
        card = read_description(weights)["card"]
        table = from_model(weights, name=name, about={**ABOUT, "recipe": without_folders(card["recipe"])})
        table.save(BUNDLED / f"{name}.safetensors")
        content[name] = {"elements": len(table.numbers), "data": card["data"], "errors": card["errors"]}
        print(f"{name}: {len(table.numbers)} elements, {table.dim} numbers each")
    write_results(RESULTS / "elements" / "front-ends.json", {"tables": content})


def without_folders(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the file names of the excluded tables, without the folders of the machine that trained."""
    excluded = [{**setting, "table": Path(setting["table"]).name} for setting in recipe["exclude"]]
    return {**recipe, "exclude": excluded}


if __name__ == "__main__":
    main()
