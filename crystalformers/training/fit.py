"""`fit`: from a table with labels to a folder with trained weights, resumable at any moment."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crystalformers.checkpoint import save_model, write_atomically
from crystalformers.errors import ConfigError
from crystalformers.models import build_model
from crystalformers.prediction.bundled import WEIGHTS
from crystalformers.target import Target
from crystalformers.training import elements, report
from crystalformers.training.averaging import learned
from crystalformers.training.batching import Batches
from crystalformers.training.dataset import Dataset
from crystalformers.training.recipe import OPERATIONAL, Recipe

if TYPE_CHECKING:
    from crystalformers.data.table import CrystalTable
    from crystalformers.elements.table import ElementTable
    from crystalformers.training.callbacks import RunState, Signals
    from crystalformers.training.module import TrainingModule

SUMMARY, STATE = "summary.json", "resume.pt"


def fit(
    table: CrystalTable,
    targets: Sequence[Target],
    run: Path,
    recipe: Recipe | None = None,
    *,
    resume: bool = False,
) -> Path:
    """Train a model and leave everything about it in a folder.

    Args:
        table: crystals with label columns named like the targets, in the targets' units.
        targets: what to learn; mean and std are learned here, from the training split.
        run: the folder; created if need be.
        recipe: all settings; default: the published recipe.
        resume: continue an unfinished run in that folder (or begin, if there is none).

    Returns:
        The weight file.

    Raises:
        ConfigError: if the folder holds a finished run, or an unfinished one that is not to be resumed or was
            started with other settings, data or targets.
        TableError: if a column or split is missing.
        TargetError: if a target cannot be learned.
        SystemExit: 130 or 143 after SIGINT or SIGTERM; the state is saved.
    """
    recipe = recipe or Recipe.parse({})
    run = Path(run)
    main = _is_main()
    if main and _already_finished(run, resume):
        print(f"{run}: this run is finished already.", file=sys.stderr)
        return run / WEIGHTS
    _check_tensorboard(recipe)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    dataset = Dataset.of(table, targets, recipe)
    if main:
        print(report.describe_data(dataset), file=sys.stderr)
        _write_description(run, recipe, dataset)
    from crystalformers.training.callbacks import RunState, Signals

    vectors = elements.load_for(dataset, recipe.elements)
    state = RunState(run / STATE, _identity(recipe, dataset, vectors))
    module = _module(dataset, recipe, state, vectors)
    if main:
        print(report.describe_run(module.model, module.batches), file=sys.stderr)
        if module.progress.step:
            print(f"resuming after step {module.progress.step}, epoch {module.progress.epoch + 1}", file=sys.stderr)
    with Signals().caught() as signals:
        if module.progress.epoch < recipe.epochs and not module.progress.stopped:
            _train(module, run, state, signals)
    if main:
        _finish(module, run, state, report.card(dataset, recipe, vectors))
    return run / WEIGHTS


def _is_main() -> bool:
    """Lightning starts the other processes of a parallel run by repeating the program; the first has the say."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def _check_tensorboard(recipe: Recipe) -> None:
    if recipe.tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("tensorboard: the package is not installed; pip install 'crystalformers[tensorboard]'.")


def _already_finished(run: Path, resume: bool) -> bool:
    """Whether there is nothing left to resume; refuses whatever would destroy a run."""
    if run.exists() and not run.is_dir():
        raise ConfigError(f"{run}: is a file; name a folder for the run.")
    if (run / SUMMARY).exists():
        if resume:
            (run / STATE).unlink(missing_ok=True)
            return True
        raise ConfigError(f"{run}: holds a finished run; choose another folder or delete this one.")
    if (run / "recipe.yaml").exists() and not resume:
        raise ConfigError(f"{run}: holds an unfinished run; add --resume to continue it, or delete the folder.")
    for name in (WEIGHTS, SUMMARY, STATE, "metrics.csv"):
        for half_written in run.glob(f".{name}.*.tmp"):
            half_written.unlink()
    return False


def _write_description(run: Path, recipe: Recipe, dataset: Dataset) -> None:
    run.mkdir(parents=True, exist_ok=True)
    if (run / STATE).exists():
        return
    write_atomically(run / "recipe.yaml", recipe.to_yaml().encode())
    _write_json(run / "environment.json", report.environment())
    _write_json(run / "splits.json", dataset.ids)


def _write_json(path: Path, content: Any) -> None:
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def _identity(recipe: Recipe, dataset: Dataset, vectors: ElementTable | None) -> dict[str, Any]:
    """What a resumed run must have in common with its beginning; plain types, flat."""
    settings = recipe.model_dump(mode="json", exclude=set(OPERATIONAL))
    model = settings.pop("model")
    return {
        **{f"recipe setting {name}": value for name, value in settings.items()},
        **{f"model setting {name}": value for name, value in model.items()},
        "table fingerprint": dataset.table.fingerprint,
        **{f"excluded table {k + 1}": excluded.fingerprint for k, excluded in enumerate(dataset.excluded)},
        **({} if vectors is None else {"element table": elements.fingerprint(vectors)}),
        **{f"target {k + 1}": json.dumps(target.to_dict()) for k, target in enumerate(dataset.targets)},
    }


def _module(dataset: Dataset, recipe: Recipe, state: RunState, vectors: ElementTable | None) -> TrainingModule:
    """A fresh module, calibrated on the first batch, or the one whose state was saved."""
    from crystalformers.training.module import TrainingModule

    torch.manual_seed(recipe.seed)
    settings = {**recipe.model, "n_targets": len(dataset.targets)}
    if vectors is None or recipe.elements is None:
        model = build_model(recipe.architecture, settings)
    else:
        model = build_model(recipe.architecture, {**settings, "element_dim": vectors.dim})
        elements.install(model, vectors, recipe.elements)
    batches = Batches(dataset, model.radius(recipe.tolerance), recipe, directions=model.needs_directions)
    module = TrainingModule(model, batches, recipe)
    if state.path.exists():
        saved = state.read()
        _refuse_difference(state, saved["identity"])
        state.restore(module, saved)
    else:
        # Every process takes the whole first batch, so that all start with the same statistics.
        model.calibrate(batches.store.batch(batches.train_order(0)[0]))
    return module


def _refuse_difference(state: RunState, saved: dict[str, Any]) -> None:
    run, now = state.path.parent, state.identity
    differing = [name for name in {**saved, **now} if saved.get(name) != now.get(name)]
    if differing:
        changes = "; ".join(f"{name}: {saved.get(name)} in the run, {now.get(name)} now" for name in differing[:3])
        raise ConfigError(f"{run}: cannot resume with something else than the run was started with ({changes}).")


def _train(module: TrainingModule, run: Path, state: RunState, signals: Signals) -> None:
    from lightning import Callback, Trainer

    from crystalformers.training.callbacks import Keeper, TensorBoard
    from crystalformers.training.display import display

    recipe = module.recipe
    callbacks: list[Callback] = [Keeper(run, state, signals)]
    if _is_main():
        callbacks.append(display())
        callbacks += [TensorBoard(run / "tensorboard")] if recipe.tensorboard else []
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        # Lightning advises worker processes and logging intervals for loaders and loggers that are not used here.
        warnings.filterwarnings("ignore", module="lightning")
        trainer = Trainer(
            accelerator=recipe.accelerator,
            devices=recipe.devices,
            # Epochs done before a resume are behind us; Lightning counts only what is left.
            max_epochs=recipe.epochs - module.progress.epoch,
            gradient_clip_val=recipe.clip_norm,
            # A resumed epoch is shorter than the others.
            reload_dataloaders_every_n_epochs=1,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        trainer.fit(module)


def _device(recipe: Recipe) -> torch.device:
    return torch.device("cuda" if recipe.accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def _finish(module: TrainingModule, run: Path, state: RunState, card: dict[str, Any]) -> None:
    """Measure the kept weights, save them, describe the run; the summary comes last and marks it finished."""
    dataset, recipe, model = module.batches.dataset, module.recipe, module.model
    if module.average.count and not module.progress.stopped:
        module.average.swap()
    else:
        for tensor, best in zip(learned(model), state.best_weights, strict=True):
            tensor.data.copy_(best)
    model.to(_device(recipe)).eval()
    measured, shown = {}, "val"
    for split in ("val", "test"):
        if not len(dataset.splits[split]):
            continue
        rows, predicted = report.predictions(model, module.batches.evaluation(split), dataset, recipe)
        measured[split], shown = report.errors(dataset.values[rows], predicted, dataset.targets), split
        report.parity_plot(run / "parity.png", dataset.values[rows], predicted, dataset.targets, split)
    save_model(run / WEIGHTS, model, dataset.targets, {**card, "errors": measured})
    summary = {
        "errors": measured,
        "epochs": module.progress.epoch,
        "steps": module.progress.step,
        "stopped_early": module.progress.stopped,
        "rows": {split: len(rows) for split, rows in dataset.splits.items()},
        "left_out": [vars(row) for row in dataset.left_out],
        "unlabelled": dataset.unlabelled,
    }
    _write_json(run / SUMMARY, summary)
    state.path.unlink(missing_ok=True)
    for name, error in measured[shown].items():
        print(f"{shown} MAE {name}: {error['mae']:.4g} {error['unit']} ({error['n']} crystals)", file=sys.stderr)
