"""Finished runs on the same rows joined to one ensemble.

Deep ensembles (Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017): members that differ in their seeds, or settings,
and learn from all training rows. No member has learned from the validation rows, which calibrate the intervals of the
ensemble and tell how far its members usually agree. (`ensemble` divides the rows instead, which suits small tables.)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crystalformers.checkpoint import Checkpoint, save_model
from crystalformers.errors import ConfigError, TableError
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import Model
from crystalformers.training import calibration
from crystalformers.training.dataset import Dataset
from crystalformers.training.ensemble import describe_ensemble, errors_on_test, joined
from crystalformers.training.folder import COVERAGE_PLOT, RunFolder, write_json
from crystalformers.training.lineage import rows_seen_by_all
from crystalformers.training.observer import Observer

if TYPE_CHECKING:
    from crystalformers.data.table import CrystalTable
    from crystalformers.target import Target

OWN = ("calibration", "calibrated_on", "coverage", "ended", "errors", "weights")
"""What the card of a run says of its own weights and training."""


def join_runs(
    table: CrystalTable, runs: Sequence[Path], run: Path, *, device: str = "cpu", observer: Observer | None = None
) -> Path:
    """Join finished runs that learned the same targets from the same rows to one ensemble, calibrated anew.

    Args:
        table: what they were trained on.
        runs: their folders, two or more.
        run: folder of the ensemble; created if need be.
        device: what to compute on.
        observer: hears messages.

    Returns:
        The weight file of the ensemble.

    Raises:
        ConfigError: if the folder holds a run; if there are fewer than two runs; if one of them is not finished, is an
            ensemble, chose its weights by validation errors, or differs in its rows or targets from the first one.
        TableError: if the table is not theirs.
    """
    if len(runs) < 2:
        raise ConfigError(f"An ensemble needs at least 2 runs, not {len(runs)}.")
    folder, observer, members = RunFolder(Path(run)), observer or Observer(), [RunFolder(Path(path)) for path in runs]
    with folder.locked():
        folder.is_finished(resume=False)
        models = [_finished(member) for member in members]
        splits = _common_rows(table, members, models)
        recipes = [model.card["recipe"] for model in models]
        card = {
            **{name: value for name, value in models[0].card.items() if name not in OWN},
            "members": len(models),
            "joined": [model.fingerprint for model in models],
            "weights": f"mean of {len(models)} models",
        }
        network = joined(models, [recipe["architecture"] for recipe in recipes])
        ensemble = Model(Checkpoint(network, models[0].targets, card), "", "", device, tolerance=models[0].tolerance)
        dataset = dataset_of(table, ensemble.targets, splits)
        counted = sum(map(len, splits.values()))
        observer.message(f"{len(models)} models predict up to {counted} crystals, for intervals and flags")
        calibration.learn_doubt(ensemble, dataset, recipes[0]["seed"])
        errors, measured = errors_on_test(ensemble, dataset, dataset.splits["test"])
        described = calibration.card_of(ensemble, measured, "validation rows") | {"errors": errors}
        arrays = rows_seen_by_all([model.arrays for model in models]) | calibration.arrays_of(ensemble)
        save_model(folder.weights, network, ensemble.targets, ensemble.card | described, arrays)
        calibration.coverage_plot(folder.path / COVERAGE_PLOT, measured)
        write_json(folder.path / "splits.json", dataset.ids)
        write_json(folder.summary, {"members": len(models), "errors": errors, "coverage": measured})
        observer.message("\n".join(describe_ensemble(errors, measured, ensemble.targets)))
    return folder.weights


def _finished(member: RunFolder) -> Model:
    """The model of a finished run whose validation rows chose nothing.

    Raises:
        ConfigError: if the folder holds none.
    """
    if not member.recipe.exists() or not member.summary.exists():
        raise ConfigError("holds no finished run", where=str(member.path), remedy="name folders of finished runs")
    model = load_model(member.path)
    if len(model.network.members) > 1:
        raise ConfigError("is an ensemble itself", where=str(member.path), remedy="name runs of single models")
    recipe = model.card["recipe"]
    if not recipe["average_epochs"] or recipe["early_stopping"] is not None:
        raise ConfigError(
            "validation errors chose the weights of this run, so that nothing is left to calibrate an ensemble",
            where=str(member.path),
            remedy="train with average_epochs and without early stopping",
        )
    return load_model(member.path, tolerance=recipe["tolerance"])


def dataset_of(table: CrystalTable, targets: tuple[Target, ...], ids: dict[str, list[str]]) -> Dataset:
    """The table as a run has used it.

    Args:
        table: the crystals.
        targets: of the run, with mean and std.
        ids: of the rows of each split, as its `splits.json` has them.
    """
    row_of = {name: row for row, name in enumerate(table.ids)}
    splits = {split: np.array([row_of[name] for name in names], int) for split, names in ids.items()}
    labels = np.stack([table.labels(target.name) for target in targets], axis=1)
    return Dataset(table, targets, splits, labels, left_out=(), unlabelled=0)


def _common_rows(table: CrystalTable, members: Sequence[RunFolder], models: Sequence[Model]) -> dict[str, list[str]]:
    """The ids of the rows of each split, the same for all members.

    Raises:
        ConfigError: naming the run that differs from the first one.
        TableError: if the table is not theirs.
    """
    first: dict[str, list[str]]
    first, *others = [json.loads((member.path / "splits.json").read_text(encoding="utf-8")) for member in members]
    for member, ids in zip(members[1:], others, strict=True):
        if ids != first:
            problem = f"its rows are divided otherwise than those of {members[0].path}"
            raise ConfigError(problem, where=str(member.path), remedy="join runs with the same seed of the split")
    for member, model in zip(members, models, strict=True):
        if model.card["data"]["fingerprint"] != table.fingerprint:
            problem = f"is not the table that {member.path} was trained on"
            raise TableError(problem, where=str(table.path), remedy="name that one")
    return first
