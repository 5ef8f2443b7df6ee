"""Ensembles and cross-validation: one model per fold of the rows, measured on the fold that it has not seen.

The rows are divided into K folds at random, and member k learns from all but fold k. So every row is predicted once by
a model that knows nothing of it, which is cross-validation, and the K models together are an ensemble. If there are
`ENOUGH_TO_CHOOSE` validation rows, they belong to no fold and calibrate the intervals of the ensemble; with fewer, all
rows are divided, and the errors on held-out rows do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.checkpoint import Checkpoint, save_model
from crystalformers.errors import ConfigError
from crystalformers.models.ensemble import Ensemble
from crystalformers.prediction.evaluation import Score, score
from crystalformers.prediction.intervals import ENOUGH_TO_CHOOSE
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import Model, network_outputs
from crystalformers.prediction.reference import Reference
from crystalformers.training import calibration, report
from crystalformers.training.dataset import Dataset, Splits
from crystalformers.training.evaluation import SplitResult
from crystalformers.training.fit import fit, identity
from crystalformers.training.folder import COVERAGE_PLOT, RunFolder, check_same, write_json
from crystalformers.training.held_out import HELD_OUT, HeldOut, held_out_predictions, write_held_out
from crystalformers.training.lineage import rows_seen
from crystalformers.training.observer import Observer
from crystalformers.training.parent import outputs
from crystalformers.training.processes import n_processes
from crystalformers.training.recipe import Recipe

if TYPE_CHECKING:
    from crystalformers.data.split import IntArray
    from crystalformers.data.table import CrystalTable
    from crystalformers.target import Target

IDENTITY = "ensemble.json"
"""What an ensemble was started with."""


def fit_ensemble(
    table: CrystalTable,
    targets: Sequence[Target],
    run: Path,
    recipe: Recipe | None = None,
    members: int = 5,
    *,
    every_row: bool = False,
    resume: bool = False,
    observer: Observer | None = None,
) -> Path:
    """Train one model per fold and join them to an ensemble.

    The folder has a run folder for each member, the predictions of every row by the member that had not seen it
    (`HELD_OUT`), and one weight file for the ensemble. Validation errors decide nothing: the weights of a member are
    averaged over its last epochs. Otherwise a row would not be new to the member that it was left out of.
    With `ENOUGH_TO_CHOOSE` validation rows, these belong to no fold and calibrate the intervals.

    Args:
        table: crystals with label columns named like the targets, in the targets' units.
        targets: what to learn.
        run: the folder; created if need be.
        recipe: settings of every member; default: the recommended settings. Member k has the seed of the recipe plus k.
        members: K, number of folds and models.
        every_row: divide the test rows among the folds too (cross-validation); otherwise the ensemble is measured on
            them.
        resume: continue an unfinished ensemble in that folder (or begin, if there is none).
        observer: hears messages and progress.

    Returns:
        The weight file of the ensemble.

    Raises:
        ConfigError: if there are fewer than two members or fewer rows than members, if the recipe chooses weights by
            validation errors or asks for several devices, and as `fit`.
        TableError, TargetError, BatchMemoryError, TrainingInterrupted: as `fit`.
    """
    recipe, folder, observer = recipe or Recipe.parse({}), RunFolder(Path(run)), observer or Observer()
    _check(recipe, members)
    with folder.locked():
        if folder.is_finished(resume=resume):
            folder.check_recipe(recipe)
            observer.message(f"{folder.path}: this ensemble is finished already.")
        else:
            _train(table, targets, folder, recipe, members, observer, every_row=every_row)
    return folder.weights


def _train(
    table: CrystalTable,
    targets: Sequence[Target],
    folder: RunFolder,
    recipe: Recipe,
    members: int,
    observer: Observer,
    *,
    every_row: bool,
) -> None:
    dataset = Dataset.of(table, targets, recipe)
    begin_or_resume(folder, IDENTITY, dataset, recipe, {"members": members, "every_row": every_row})
    apart = len(dataset.splits["val"]) >= ENOUGH_TO_CHOOSE and not every_row
    parts = ("train",) if apart else ("train", "val", "test") if every_row else ("train", "val")
    folds = list(_folds(dataset.splits, parts, members, recipe.seed_of_split))
    for k, splits in enumerate(folds):
        observer.message(f"member {k + 1} of {members}")
        settings = recipe.model_copy(update={"seed": recipe.seed + k})
        fit(table, targets, _member(folder, k), settings, resume=True, observer=observer, splits=splits)
    models = [load_model(_member(folder, k), tolerance=recipe.tolerance) for k in range(members)]
    held_out, references = held_out_predictions(table, models, folds, recipe.seed)
    write_held_out(folder.path / HELD_OUT, table, held_out)
    result = SplitResult(held_out.labels, held_out.predictions, tuple(held_out.scores().values()), float("nan"))
    report.parity_plot(folder.path / "parity.png", {"held-out rows": result}, held_out.targets)
    rows = np.sort(np.concatenate([dataset.splits[name] for name in parts]))
    ensemble = _join(models, dataset, recipe, held_out, references, rows)
    arrays = calibration.arrays_of(ensemble) | rows_seen(table, rows, _parent_arrays(recipe))
    test = dataset.splits["test"][: 0 if every_row else None]
    errors, measured = errors_on_test(ensemble, dataset, test)
    errors = {"held_out": {name: _errors(one) for name, one in held_out.scores().items()}, **errors}
    on = "validation rows" if apart else "held-out rows, each by the member that had not seen it"
    card = ensemble.card | calibration.card_of(ensemble, measured, on) | {"errors": errors}
    save_model(folder.weights, ensemble.network, ensemble.targets, card, arrays)
    calibration.coverage_plot(folder.path / COVERAGE_PLOT, measured)
    spread = {
        t.name: dict(zip(("mean", "std"), held_out.spread(k), strict=True)) for k, t in enumerate(ensemble.targets)
    }
    write_json(folder.summary, {"members": members, "errors": errors, "mae_over_folds": spread, "coverage": measured})
    observer.message(describe(held_out, errors, measured))


def describe(held_out: HeldOut, errors: dict[str, Any], measured: calibration.Measured) -> str:
    """The errors on held-out rows, with their spread over the folds, and those of the ensemble on test rows."""
    lines = []
    for k, (name, one) in enumerate(held_out.scores().items()):
        mean, deviation = held_out.spread(k)
        lines.append(
            f"{name}, every row by the member that had not seen it: MAE {one.mae:.4g} {one.unit} ({one.n} crystals); "
            f"over the folds {mean:.4g}{'' if deviation is None else f' ± {deviation:.2g}'}"
        )
    return "\n".join([*lines, *describe_ensemble(errors, measured, held_out.targets)])


def describe_ensemble(
    errors: dict[str, Any], measured: calibration.Measured, targets: Sequence[Target]
) -> Iterator[str]:
    """A line for each error of the ensemble on test rows, and for each measured coverage."""
    for name, one in errors.get("test", {}).items():
        if one["mae"] is not None:
            yield f"{name}, the ensemble: test MAE {one['mae']:.4g} {one['unit']} ({one['n']} crystals)"
    if coverage := calibration.describe_coverage(measured, {target.name: target.unit for target in targets}):
        yield coverage


def begin_or_resume(
    folder: RunFolder, identity_file: str, dataset: Dataset, recipe: Recipe, settings: dict[str, Any]
) -> None:
    """Describe several trainings, or refuse to go on with something else than they were started with.

    Args:
        folder: that of all trainings.
        identity_file: name of the file that keeps what they were started with.
        dataset: rows of all of them.
        recipe: settings of all of them.
        settings: what else must be the same.

    Raises:
        ConfigError: naming what differs.
    """
    file = folder.path / identity_file
    now = json.loads(json.dumps({**settings, **identity(recipe, dataset)}))
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        check_same(folder.path, before, now)
    else:
        folder.describe(recipe, dataset)
        write_json(file, now)


def _check(recipe: Recipe, members: int) -> None:
    if members < 2:
        raise ConfigError(f"An ensemble needs at least 2 members, not {members}.")
    if n_processes(recipe) > 1:
        raise ConfigError("devices: the members of an ensemble are trained on one device each; set devices to 1.")
    if recipe.early_stopping is not None or not recipe.average_epochs:
        name = "early_stopping" if recipe.early_stopping is not None else "average_epochs = 0"
        raise ConfigError(
            f"{name}: it chooses weights by validation errors, but the rows that a member of an ensemble leaves out "
            "must decide nothing",
            remedy="average the weights of some last epochs and do not stop early",
        )


def _folds(splits: Splits, parts: Sequence[str], count: int, seed: int) -> Iterator[Splits]:
    """The splits of each member: its fold of the rows in `parts` to validate on, the other folds to learn from."""
    pool = np.concatenate([splits[name] for name in parts])
    if len(pool) < 2 * count:
        raise ConfigError(f"{len(pool)} labelled rows are too few for {count} folds; use fewer members or more rows.")
    test = splits["test"][: 0 if "test" in parts else None]
    for fold in np.array_split(np.random.default_rng(seed).permutation(pool), count):
        yield {"train": np.setdiff1d(pool, fold), "val": np.sort(fold), "test": test}


def _member(folder: RunFolder, k: int) -> Path:
    return folder.path / f"member-{k + 1}"


def _join(
    models: Sequence[Model],
    dataset: Dataset,
    recipe: Recipe,
    held_out: HeldOut,
    references: Sequence[Reference],
    learned: IntArray,
) -> Model:
    """The ensemble with its reference and intervals; `learned` are the rows that members have learned from."""
    targets = models[0].targets
    splits = {name: np.setdiff1d(rows, learned) for name, rows in dataset.splits.items()} | {"train": learned}
    network = joined(models, [recipe.architecture] * len(models))
    card = report.card(replace(dataset, splits=splits), recipe, None) | {
        "members": len(models),
        "init": models[0].card.get("init"),
    }
    ensemble = Model(Checkpoint(network, targets, card), "", "", tolerance=recipe.tolerance)
    ensemble.reference = Reference.joined(references, held_out.distances)
    if len(rows := splits["val"]):
        (found,) = network_outputs([ensemble], calibration.crystals_of(dataset.table, rows))
        ensemble.reference = Reference.joined(references, ensemble.reference.distances(found.vectors))
        calibration.learn_spread(ensemble, found)
        calibration.calibrate(ensemble, dataset, rows, found, recipe.seed)
    else:
        ensemble.calibration = held_out.calibration(dataset.table.n_atoms, recipe.seed)
    return ensemble


def _parent_arrays(recipe: Recipe) -> dict[str, NDArray[Any]] | None:
    return None if recipe.init is None else load_model(recipe.init.model).arrays


def errors_on_test(
    ensemble: Model, dataset: Dataset, test: IntArray
) -> tuple[dict[str, dict[str, Any]], calibration.Measured]:
    """Errors on test rows, as `test`, and the coverage of the intervals there; nothing if there are no such rows."""
    if not len(test):
        return {}, {}
    labels, predictions = dataset.values[test], ensemble.values(calibration.crystals_of(dataset.table, test))
    errors = {
        target.name: _errors(score(target.name, target.unit, labels[:, k], predictions[:, k], np.array(target.mean)))
        for k, target in enumerate(ensemble.targets)
        if not np.isnan(labels[:, k]).all()
    }
    return {"test": errors}, calibration.measured_coverage(ensemble, dataset, test)


def _errors(one: Score) -> dict[str, Any]:
    return {name: value for name, value in asdict(one).items() if name in ("mae", "rmse", "n", "unit")}


def joined(models: Sequence[Model], architectures: Sequence[str]) -> Ensemble:
    """An ensemble of copies of models with the same targets, in the standardised units of the first one.

    Args:
        models: the members.
        architectures: of each of them.

    Raises:
        ConfigError: if their targets differ in more than mean and std.
    """
    first = [(t.name, t.unit, t.basis, t.transform) for t in models[0].targets]
    copies = [deepcopy(model.network) for model in models]
    for copy, model in zip(copies, models, strict=True):
        if [(t.name, t.unit, t.basis, t.transform) for t in model.targets] != first:
            raise ConfigError("The members of an ensemble must predict the same targets in the same units.")
        for output, before, now in zip(outputs(copy), model.targets, models[0].targets, strict=True):
            output.take_over(output, before, now)
    return Ensemble(copies, architectures)
