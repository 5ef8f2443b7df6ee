"""`fit`: from a table with labels to a folder with trained weights, resumable at any moment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from crystalformers.checkpoint import Checkpoint, save_model
from crystalformers.data.table import CrystalTable
from crystalformers.elements.table import ElementTable
from crystalformers.errors import ConfigError, TableError, TargetError
from crystalformers.extras import require
from crystalformers.models import build_model
from crystalformers.prediction.model import Model
from crystalformers.target import Target
from crystalformers.training import calibration, elements, lineage, report
from crystalformers.training.averaging import other_weights
from crystalformers.training.batching import Batches
from crystalformers.training.dataset import Dataset, Splits
from crystalformers.training.evaluation import evaluate_split
from crystalformers.training.folder import COVERAGE_PLOT, RunFolder
from crystalformers.training.interruption import Signals
from crystalformers.training.loop import TrainingLoop
from crystalformers.training.observer import Observer, TensorBoard
from crystalformers.training.parent import Parent, inherit
from crystalformers.training.processes import fabric_for, is_first_process, launch
from crystalformers.training.recipe import OPERATIONAL, Recipe
from crystalformers.training.state import TrainingState

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def fit(
    table: CrystalTable,
    targets: Sequence[Target],
    run: Path,
    recipe: Recipe | None = None,
    *,
    resume: bool = False,
    observer: Observer | None = None,
    splits: Splits | None = None,
) -> Path:
    """Train a model and leave everything about it in a folder.

    Args:
        table: crystals with label columns named like the targets, in the targets' units.
        targets: what to learn; mean and std are learned here, from the training split.
        run: the folder; created if need be.
        recipe: all settings; default: the recommended settings.
        resume: continue an unfinished run in that folder (or begin, if there is none).
        observer: hears messages and progress; nothing is shown by default
            (`crystalformers.cli.training_progress.terminal_observer` is what the command line shows).
        splits: usable rows of `train`, `val` and `test`; default: those that the table names, or drawn at random.

    Returns:
        The weight file. If weights were averaged it has the average, and `model-best.safetensors` beside it has those
        of the best epoch by validation; otherwise it has the latter.

    Raises:
        ConfigError: if the folder holds a finished run, or an unfinished one that is not to be resumed or was
            started with other settings, data or targets; if another process trains in it; if a setting does not fit
            the machine.
        CheckpointError: if the saved state is damaged.
        TableError: if the table is none (a pandas frame, a path), or a column or split is missing.
        TargetError: if a target cannot be learned.
        BatchMemoryError: if a batch does not fit into memory.
        CrystalformersError: if the loss is not finite any more.
        OSError: if a file cannot be written; what was saved before stays.
        TrainingInterrupted: after SIGINT (Ctrl-C) or SIGTERM; the state is saved.
    """
    _check_kinds(table, targets, recipe)
    recipe, folder = recipe or Recipe.parse({}), RunFolder(Path(run))
    if not is_first_process():
        return folder.weights if folder.summary.exists() else _fit(table, targets, folder, recipe, [], splits)
    observers = [observer or Observer()]
    with folder.locked():
        if folder.is_finished(resume=resume):
            folder.check_recipe(recipe)
            _tell(observers, f"{folder.path}: this run is finished already.")
            return folder.weights
        return _fit(table, targets, folder, recipe, observers, splits)


def _check_kinds(table: object, targets: object, recipe: object) -> None:
    if not isinstance(table, CrystalTable):
        kind = type(table).__name__
        given = "frame" if kind == "DataFrame" else "path"
        raise TableError(f"a {kind} is no table of crystals", remedy=f"pass open_table({given})")
    if not isinstance(targets, Sequence) or not all(isinstance(target, Target) for target in targets):
        raise TargetError("targets must be a list of Target", remedy="pass [Target(column, unit)]")
    if not isinstance(recipe, Recipe | None):
        raise ConfigError(f"a {type(recipe).__name__} is no recipe", remedy="pass Recipe.parse(settings)")


def _fit(
    table: CrystalTable,
    targets: Sequence[Target],
    folder: RunFolder,
    recipe: Recipe,
    observers: list[Observer],
    splits: Splits | None,
) -> Path:
    require("train", "training", "lightning_fabric", "matplotlib")
    if recipe.tensorboard:
        require("tensorboard", "tensorboard: true", "tensorboard")
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    fabric = fabric_for(recipe)
    dataset = Dataset.of(table, targets, recipe, splits)
    vectors = elements.load_for(dataset, recipe.elements)
    _tell(observers, report.describe_data(dataset))
    if is_first_process():
        folder.describe(recipe, dataset)
    launch(fabric, recipe)
    state, batches, parent = _begin_or_resume(dataset, recipe, vectors, fabric, folder)
    if parent is not None:
        _tell(observers, parent.describe(dataset))
    _tell(observers, report.describe_run(state, batches))
    if not state.progress.finished:
        if recipe.tensorboard and fabric.is_global_zero:
            observers.append(TensorBoard(folder.path / "tensorboard"))
        _train(state, batches, fabric, folder, observers)
    card = report.card(dataset, recipe, vectors) | {"ended": report.describe_end(state.progress)}
    card |= {} if parent is None else {"init": parent.to_dict(dataset)}
    inherited = None if parent is None else parent.model.arrays
    seen = lineage.rows_seen(table, dataset.splits["train"], inherited)
    errors = _finish(state, batches, fabric, folder, card, seen)
    _tell(observers, f"{report.describe_end(state.progress)}\n{report.describe_errors(errors)}")
    return folder.weights


def _tell(observers: Sequence[Observer], text: str) -> None:
    for observer in observers:
        observer.message(text)


def _begin_or_resume(
    dataset: Dataset, recipe: Recipe, vectors: ElementTable | None, fabric: Fabric, folder: RunFolder
) -> tuple[TrainingState, Batches, Parent | None]:
    """A fresh model, calibrated on the first batch, or the one whose state was saved; its batches and its parent."""
    torch.manual_seed(recipe.seed)
    settings = {**recipe.model, "n_targets": len(dataset.targets)}
    if vectors is None or recipe.elements is None:
        model = build_model(recipe.architecture, settings)
    else:
        model = build_model(recipe.architecture, {**settings, "element_dim": vectors.dim})
        elements.install(model, vectors, recipe.elements)
    parent = None if recipe.init is None else inherit(model, dataset.targets, recipe.init)
    batches = Batches(dataset, model.radius(recipe.tolerance), recipe, directions=model.needs_directions)
    if not folder.state.exists() and not model.is_calibrated:
        # Every process takes the whole first batch, so that all start with the same statistics.
        model.calibrate(batches.store.batch(batches.train_order(0)[0]))
    state = TrainingState(model.to(fabric.device), batches, identity(recipe, dataset, vectors, parent))
    folder.load_state(state)
    return state, batches, parent


def identity(
    recipe: Recipe, dataset: Dataset, vectors: ElementTable | None = None, parent: Parent | None = None
) -> dict[str, object]:
    """What a resumed run must have in common with its beginning; plain types, flat."""
    settings = recipe.model_dump(mode="json", exclude=set(OPERATIONAL))
    model = settings.pop("model")
    return {
        **{f"recipe setting {name}": value for name, value in settings.items()},
        **{f"model setting {name}": value for name, value in model.items()},
        "table fingerprint": dataset.table.fingerprint,
        **{f"excluded table {k + 1}": excluded.fingerprint for k, excluded in enumerate(dataset.excluded)},
        **({} if vectors is None else {"element table": elements.fingerprint(vectors)}),
        "rows of each split": _fingerprint(dataset.splits),
        **({} if parent is None else {"model to start from": parent.model.fingerprint}),
        **{f"target {k + 1}": json.dumps(target.to_dict()) for k, target in enumerate(dataset.targets)},
    }


def _fingerprint(splits: Splits) -> str:
    content = b"".join(name.encode() + rows.tobytes() for name, rows in splits.items())
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _train(
    state: TrainingState, batches: Batches, fabric: Fabric, folder: RunFolder, observers: Sequence[Observer]
) -> None:
    signals = Signals()
    for observer in observers:
        observer.begin(state.progress, batches.dataset.targets)
    try:
        with signals.caught():
            TrainingLoop(state, batches, fabric, folder, observers, signals).run()
    finally:
        for observer in observers:
            observer.end()


def _finish(
    state: TrainingState,
    batches: Batches,
    fabric: Fabric,
    folder: RunFolder,
    card: dict[str, Any],
    seen: dict[str, NDArray[np.int64]],
) -> dict[str, report.Errors]:
    """Measure and save the averaged weights, if there are any, and the best ones; describe the run.

    Averaged weights owe nothing to the validation errors, unless these ended the run: the validation rows calibrate
    them.

    Returns:
        What each set of weights is, and its errors.
    """
    dataset, progress = batches.dataset, state.progress
    candidates = {f"epoch {progress.best_epoch + 1}, best by validation": state.best}
    if state.average.count:
        epochs = batches.recipe.average_epochs
        name = f"average over the last {f'{epochs} epochs' if epochs > 1 else 'epoch'}"
        candidates = {name: state.average.mean, **candidates}
    measured: dict[str, report.Errors] = {}
    for path, (name, weights) in zip((folder.weights, folder.best_weights), candidates.items(), strict=False):
        with other_weights(state.model, weights):
            results = {
                split: evaluate_split(state.model, batches, split, fabric, "the final evaluation")
                for split in ("val", "test")
                if len(dataset.splits[split])
            }
            measured[name] = {split: report.errors(result, dataset.targets) for split, result in results.items()}
            if fabric.is_global_zero:
                averaged = path == folder.weights and state.average.count > 0
                honest = averaged and batches.recipe.early_stopping is None
                about, arrays = _doubt(state, batches, folder.path / COVERAGE_PLOT if honest else None)
                description = {**card, **about, "weights": name, "errors": measured[name]}
                save_model(path, state.model, dataset.targets, description, {**seen, **arrays})
        if fabric.is_global_zero and path == folder.weights:
            report.parity_plot(folder.path / "parity.png", results, dataset.targets)
    if fabric.is_global_zero:
        report.loss_plot(folder.path / "loss.png", progress)
        folder.finish(report.summary(dataset, progress, measured))
    # The other processes return once the files are there.
    fabric.barrier()
    return measured


def _doubt(
    state: TrainingState, batches: Batches, picture: Path | None
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """What card and weight file say of the doubt about predictions of the present weights.

    Args:
        state: the model.
        batches: what it was trained on.
        picture: of the coverage; None if the validation rows chose the weights and cannot calibrate them.
    """
    dataset, recipe = batches.dataset, batches.recipe
    device = next(state.model.parameters()).device
    model = Model(Checkpoint(state.model, dataset.targets, {}), "", "", str(device), recipe.tolerance)
    held_out = calibration.learn_reference(model, dataset, recipe.seed)
    measured: calibration.Measured = {}
    if picture is not None:
        calibration.calibrate(model, dataset, dataset.splits["val"], held_out, recipe.seed)
        measured = calibration.measured_coverage(model, dataset, dataset.splits["test"])
        calibration.coverage_plot(picture, measured)
    return calibration.card_of(model, measured, "validation rows"), calibration.arrays_of(model)
