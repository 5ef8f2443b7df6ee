"""The files of a run folder. Each is replaced as a whole, so that a kill at any moment leaves nothing half-written."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from crystalformers.errors import CheckpointError, ConfigError, CrystalformersError
from crystalformers.files import locked, write_atomically
from crystalformers.prediction.bundled import WEIGHTS
from crystalformers.training import report
from crystalformers.training.dataset import Dataset
from crystalformers.training.recipe import OPERATIONAL, Recipe
from crystalformers.training.state import TrainingState
from crystalformers.training.wording import counted
from crystalformers.training.yaml_settings import read_yaml

BEST_WEIGHTS = "model-best.safetensors"
"""Weights of the best epoch by validation, beside averaged ones in `WEIGHTS`."""

COVERAGE_PLOT = "coverage.png"
"""Measured against nominal coverage of the intervals on test rows."""

FILES = (
    WEIGHTS,
    BEST_WEIGHTS,
    "recipe.yaml",
    "environment.json",
    "splits.json",
    "metrics.csv",
    "parity.png",
    "loss.png",
    COVERAGE_PLOT,
    "summary.json",
    "resume.pt",
)
"""All that a run writes itself."""

STATE_FORMAT = 3
"""Changes whenever an older saved state cannot be read any more."""

DIGEST_MARK = b"\nsha256:"
"""Precedes the SHA-256 of all bytes before it, at the end of a saved state."""


class RunFolder:
    """Paths and contents of the files of a run.

    Args:
        path: the folder; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.weights = path / WEIGHTS
        self.best_weights = path / BEST_WEIGHTS
        self.recipe = path / "recipe.yaml"
        self.metrics = path / "metrics.csv"
        self.summary = path / "summary.json"
        self.state = path / "resume.pt"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Create the folder and keep out other processes, while the block runs; a new folder that stays empty goes.

        Raises:
            ConfigError: if the path is a file, or if another process has locked the folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError("is a file", where=str(self.path), remedy="name a folder for the run")
        created = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.path):
                yield
        finally:
            with suppress(OSError):  # it is not empty
                for folder in created:
                    folder.rmdir()

    def is_finished(self, *, resume: bool) -> bool:
        """Whether there is nothing left to resume; what a killed process left half-written is removed.

        Raises:
            ConfigError: if a run would be destroyed.
        """
        if self.summary.exists():
            if not resume:
                raise ConfigError(
                    "holds a finished run", where=str(self.path), remedy="choose another folder or delete this one"
                )
            self.state.unlink(missing_ok=True)
            return True
        if self.recipe.exists() and not resume:
            raise ConfigError(
                "holds an unfinished run",
                where=str(self.path),
                remedy="add --resume (resume=True in Python) to continue it, or delete the folder",
            )
        for name in FILES:
            for half_written in self.path.glob(f".{name}.*.tmp"):
                half_written.unlink()
        return False

    def check_recipe(self, recipe: Recipe) -> None:
        """Refuse to take a run for one with another recipe.

        Raises:
            ConfigError: naming what differs.
        """
        if not self.recipe.exists():
            return
        before: dict[str, Any] = read_yaml(self.recipe.read_text(encoding="utf-8"), str(self.recipe))
        now = recipe.model_dump(mode="json")
        if self.summary.exists() and before["epochs"] != now["epochs"]:
            raise ConfigError(
                f"the run is finished after {counted(before['epochs'], 'epoch')} and cannot go on to {now['epochs']}: "
                "its learning rate and the averaging of its weights followed the number of epochs",
                where=str(self.path),
                remedy=f"start a new run from its weights: --init {self.path} with another --output",
            )
        computing = set(before) - OPERATIONAL
        check_same(self.path, *({name: settings.get(name) for name in computing} for settings in (before, now)))

    def check_free(self, recipe: Recipe, *, resume: bool) -> None:
        """Refuse a folder with a run, unless it is to be resumed with the recipe that it has.

        Raises:
            ConfigError: with the remedy, or naming what differs.
        """
        if self.recipe.exists() and not resume:
            remedy = "go on with --resume, or name another folder"
            raise ConfigError("holds a run", where=str(self.path), remedy=remedy)
        self.check_recipe(recipe)

    def describe(self, recipe: Recipe, dataset: Dataset) -> None:
        """Write what is known before training, unless the run has begun already."""
        if not self.state.exists():
            write_atomically(self.recipe, recipe.to_yaml().encode())
            write_json(self.path / "environment.json", report.environment())
            write_json(self.path / "splits.json", dataset.ids)

    def write_metrics(self, history: Sequence[Mapping[str, float]]) -> None:
        """All epochs so far; always the whole file, so that a resume leaves neither gaps nor doubles."""
        if not history:
            self.metrics.unlink(missing_ok=True)
            return
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(history[0])
        writer.writerows([["" if math.isnan(v) else f"{v:.7g}" for v in row.values()] for row in history])
        write_atomically(self.metrics, text.getvalue().encode())

    def save_state(self, state: TrainingState) -> None:
        """Write all that `load_state` needs.

        Raises:
            CrystalformersError: if the training loss is not finite.
        """
        content = io.BytesIO()
        torch.save({"format": STATE_FORMAT, **state.state_dict()}, content)
        digest = hashlib.sha256(content.getvalue()).digest()
        write_atomically(self.state, content.getvalue() + DIGEST_MARK + digest)

    def load_state(self, state: TrainingState) -> None:
        """Put the saved state, if there is one, into a fresh one.

        Raises:
            CheckpointError: if the file is damaged or of another version.
            ConfigError: if the run was started with other settings, data or targets.
        """
        if not self.state.exists():
            return
        try:
            saved = self._saved_state()
            check_same(self.path, saved["identity"], state.identity)
            state.load_state_dict(saved)
        except CrystalformersError:
            raise
        except Exception as error:  # foreign bytes: any exception means "cannot be read"
            raise self._unreadable(type(error).__name__) from error

    def _saved_state(self) -> dict[str, Any]:
        content, mark, digest = self.state.read_bytes().rpartition(DIGEST_MARK)
        if not mark and not zipfile.is_zipfile(self.state):
            raise self._unreadable("it is incomplete")
        if mark and digest != hashlib.sha256(content).digest():
            raise self._unreadable("it does not agree with its hash")
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True) if mark else {}
        if saved.get("format") != STATE_FORMAT:  # older files have no hash
            raise CheckpointError(
                "the state was saved by another version of crystalformers",
                where=str(self.state),
                remedy="finish the run with that version, or start again in a new folder",
            )
        return dict(saved)

    def _unreadable(self, reason: str) -> CheckpointError:
        problem = f"the saved state cannot be read ({reason})"
        return CheckpointError(problem, where=str(self.state), remedy="start again in a new folder")

    def finish(self, summary: Mapping[str, object]) -> None:
        """Write the summary, which marks the run as finished, and drop the saved state."""
        write_json(self.summary, summary)
        self.state.unlink(missing_ok=True)


def check_same(run: Path, before: Mapping[str, object], now: Mapping[str, object]) -> None:
    """Refuse to go on with a run that was started with something else.

    Raises:
        ConfigError: naming what differs.
    """
    differing = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if differing:
        changes = "; ".join(f"{name}: {before.get(name)} in the run, {now.get(name)} now" for name in differing[:3])
        raise ConfigError(
            f"cannot resume with something else than the run was started with ({changes})", where=str(run)
        )


def write_json(path: Path, content: Mapping[str, object]) -> None:
    """Write readable JSON."""
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
