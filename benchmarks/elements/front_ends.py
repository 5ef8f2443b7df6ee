"""The element vectors of this library: train the front-ends they come from, and put the tables where they are found.

    python -m benchmarks.elements.front_ends train [--kinds crystaltransformer ...] [--seeds 0 1 2]  # resumable
    python -m benchmarks.elements.front_ends bundle                                                  # what is trained

Each kind is `recipes/elements-KIND.yaml` on mp36k's training split, formation energy and band gap at once or, where a 7
stands in the name, seven properties, without the crystals whose composition occurs in a table that the experiment
transfers to (`data.EXCLUDED`). Runs stand in runs/elements/KIND-SEED; `bundle` writes their tables to
crystalformers/bundled/elements and their errors to benchmarks/results/elements/front-ends.json. One seed of the slowest
kind takes a quarter of an hour on one core, half an hour on a busy one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.elements.data import EXCLUDED, FRONT_END, TASKS, load
from benchmarks.harness import RESULTS, machine, shared, versions, write_results
from crystalformers.checkpoint import read_description
from crystalformers.elements.library import BUNDLED
from crystalformers.elements.trained import from_model
from crystalformers.target import Target
from crystalformers.training import fit
from crystalformers.training.recipe import Recipe

ROOT = Path(__file__).parents[2]
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
KINDS = {
    "crystaltransformer": TWO,
    "crystalformer": TWO,
    "composition": TWO,
    "crystaltransformer7": SEVEN,
    "composition7": SEVEN,
}
"""What each kind learns."""
ABOUT = {
    "licence": "CC-BY 4.0, as the Materials Project data they were learned from",
    "citation": "Materials Project (Jain et al., APL Materials 1, 011002, 2013)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("train", "bundle"))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    if arguments.command == "bundle":
        bundle()
        return
    for seed in arguments.seeds:
        for kind in arguments.kinds:
            train(kind, seed)


def train(kind: str, seed: int) -> None:
    """One run; goes on where it was interrupted, and is left alone if finished."""
    run = RUNS / f"{kind}-{seed}"
    if (run / "model.safetensors").exists():
        return
    exclude = [
        {"table": str(shared() / "data" / f"{name}.parquet"), "split": None, "by": "composition"} for name in EXCLUDED
    ]
    recipe = Recipe.load(ROOT / "recipes" / f"elements-{kind}.yaml", {"seed": seed, "threads": 1, "exclude": exclude})
    fit(load(FRONT_END), KINDS[kind], run, recipe, resume=True)


def bundle() -> None:
    """Tables of the finished runs, and what is known of them."""
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
    about = {"machine": machine(), "versions": versions("torch", "numpy"), "tables": content}
    write_results(RESULTS / "elements" / "front-ends.json", about)


def without_folders(recipe: dict[str, Any]) -> dict[str, Any]:
    """The recipe with the names of left-out tables instead of where they lay on the machine of the training."""
    excluded = [{**setting, "table": Path(setting["table"]).name} for setting in recipe["exclude"]]
    return {**recipe, "exclude": excluded}


if __name__ == "__main__":
    main()
