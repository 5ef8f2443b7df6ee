"""A base model by merging: the mean of encoders that were fine-tuned on one property of mp36k each.

    python -m benchmarks.accuracy.merging

The targets of `joint` in `base_model.yaml` share its epochs: each is learned alone, from the same model, for about as
many optimiser steps as the others. Then the weights of all are averaged, but for those of the heads, which new targets
replace. Runs, which go on where they were stopped, and the merged model are in runs/base-model.
"""

from __future__ import annotations

import numpy as np
import torch
import yaml

from benchmarks.accuracy.base_model import RUNS, SETTINGS, write_table
from benchmarks.harness import parser, recipe_of
from crystalformers import Model, Target, fit, load_model, open_table
from crystalformers.checkpoint import save_model

FROM = "joint"
OUTPUT = RUNS / "merged" / "model.safetensors"


def learned_alone(target: Target, settings: dict[str, object], epochs: float, threads: int) -> Model:
    """A model of one target, trained for as many steps as `epochs` over all rows take."""
    table, run = open_table(RUNS / "mp36k.parquet"), RUNS / f"single-{target.name}"
    share = float(np.isfinite(table.labels(target.name)).mean())
    recipe = recipe_of({**settings, "epochs": round(epochs / share), "threads": threads})
    fit(table, [target], run, recipe, resume=True)
    return load_model(run)


def main() -> None:
    """Train what is missing, and merge."""
    options = parser(__doc__)
    options.add_argument("--threads", type=int, default=1)
    given = options.parse_args()
    if not (path := RUNS / "mp36k.parquet").exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_table(path, {})
    entry = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))["models"][FROM]
    targets = [Target(**target) for target in entry["targets"]]
    epochs = entry["recipe"]["epochs"] / len(targets)
    models = [learned_alone(target, entry["recipe"], epochs, given.threads) for target in targets]
    weights = [dict(model.network.named_parameters()) for model in models]
    network, head = models[0].network, {id(parameter) for parameter in models[0].network.stages[-1].parameters()}
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if id(parameter) not in head:
                parameter.copy_(torch.stack([own[name] for own in weights]).mean(dim=0))
    OUTPUT.parent.mkdir(exist_ok=True)
    save_model(OUTPUT, network, models[0].targets, {"merged": [model.fingerprint for model in models]})


if __name__ == "__main__":
    main()
