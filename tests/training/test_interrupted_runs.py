"""A training run that is disturbed in any order of ways ends like one that is not, or says why it cannot."""

from __future__ import annotations

import csv
import random
import shutil
import tempfile
from collections import Counter
from functools import lru_cache
from pathlib import Path
from unittest.mock import patch

import pytest
from faults import Fault, Killed
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from samples import many, write_table

from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import CrystalformersError
from crystalformers.files import locked, write_atomically
from crystalformers.target import Target
from crystalformers.training.fit import fit
from crystalformers.training.recipe import Recipe

TEMPORARY = Path(tempfile.mkdtemp())
SEEDS = st.integers(0, 2**32)
LAST = 60
"""About how many operations on files a whole run has."""

TARGET = Target("energy", "eV")
TIMES = 2
"""Last columns of metrics.csv that are times and speeds."""


@lru_cache
def table(version: int) -> CrystalTable:
    labels = [0.1 * k for k in range(6)]
    labels[0] -= version
    split = ["train"] * 4 + ["val", "test"]
    return open_table(write_table(TEMPORARY / f"{version}.parquet", many(6), energy=labels, split=split))


def train(run: Path, version: int, lr: float, *, resume: bool) -> None:
    model = {"dim": 4, "heads": 1, "blocks": 1, "feedforward": 4, "radial_functions": 2}
    recipe = Recipe.parse(
        {
            "epochs": 2, "average_epochs": 1, "batch_size": 2, "checkpoint_steps": 1, "threads": 1, "lr": lr,
            "accelerator": "cpu", "tolerance": 1e-2, "model": model,
        }
    )  # fmt: skip
    # The picture takes longer than all else together.
    with patch("crystalformers.training.report.parity_plot", lambda path, *given: write_atomically(path, b"picture")):
        fit(table(version), [TARGET], run, recipe, resume=resume)


def files(run: Path) -> dict[str, object]:
    """What a run leaves, without times."""
    content: dict[str, object] = {
        path.name: path.read_bytes() for path in run.iterdir() if path.name not in ("environment.json", "metrics.csv")
    }
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return content | {"metrics": [row[:-TIMES] for row in csv.reader(file)]}


@lru_cache
def undisturbed(version: int, lr: float) -> dict[str, object]:
    """The files of a run that nothing happens to."""
    run = TEMPORARY / f"{version}-{lr}"
    train(run, version, lr, resume=False)
    return files(run)


class DisturbedTraining(RuleBasedStateMachine):
    """One run folder, and all that may happen to it."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=TEMPORARY))
        self.path, self.version, self.lr = self.folder / "run", 0, 1e-3
        self.damaged, self.begun_with = False, (0, 1e-3)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            shutil.rmtree(self.path, ignore_errors=True)
            self.run(Fault("none"))
            shutil.rmtree(self.folder)

    @rule(seed=SEEDS)
    def kill(self, seed: int) -> None:
        self.run(Fault.drawn(["kill"], seed, LAST))

    @rule(seed=SEEDS)
    def stop(self, seed: int) -> None:
        self.run(Fault.drawn(["interrupt"], seed, LAST))

    @rule(seed=SEEDS)
    def fail_to_write(self, seed: int) -> None:
        self.run(Fault.drawn(["full disk", "read-only"], seed, LAST))

    @rule()
    def leave_alone(self) -> None:
        self.run(Fault("none"))

    def run(self, fault: Fault) -> None:
        """Whatever happens, a run is finished with the right files, or is not finished."""
        refusal = ""
        if not (self.path / "resume.pt").exists():
            self.damaged, self.begun_with = False, (self.version, self.lr)
        try:
            with fault.injected():
                train(self.path, self.version, self.lr, resume=True)
        except (Killed, KeyboardInterrupt) as stopped:
            ENDED[type(stopped).__name__] += 1
        except OSError:
            ENDED["OSError"] += 1
            assert fault.kind in ("full disk", "read-only")
        except CrystalformersError as error:
            ENDED["refused"] += 1
            refusal = str(error)
        else:
            ENDED["finished"] += 1
            assert files(self.path) == undisturbed(self.version, self.lr)
        if refusal:
            assert self.damaged or self.begun_with != (self.version, self.lr), refusal
            assert "resume.pt" in refusal or "cannot resume" in refusal
        expected = undisturbed(self.version, self.lr)
        if (self.path / "summary.json").exists():
            for name in ("model.safetensors", "model-best.safetensors", "summary.json"):
                assert (self.path / name).read_bytes() == expected[name]
            shutil.rmtree(self.path)

    @rule()
    def another_has_it(self) -> None:
        self.path.mkdir(exist_ok=True)
        before = {path.name: path.read_bytes() for path in self.path.iterdir() if path.suffix != ".lock"}
        before.pop(".lock", None)
        with locked(self.path), pytest.raises(CrystalformersError, match=r"run is in use by process \d+ on "):
            train(self.path, self.version, self.lr, resume=True)
        assert {path.name: path.read_bytes() for path in self.path.iterdir()} == before

    @precondition(lambda self: hasattr(self, "path") and (self.path / "resume.pt").exists())
    @rule(seed=SEEDS)
    def damage(self, seed: int) -> None:
        rng, path = random.Random(seed), self.path / "resume.pt"
        content = bytearray(path.read_bytes())
        position = rng.randrange(len(content))
        content[position] ^= 1 << rng.randrange(8)
        self.damaged = True
        path.write_bytes(content[:position] if rng.random() < 0.2 else content)

    @rule(version=st.integers(0, 1))
    def change_input(self, version: int) -> None:
        self.version = version

    @rule(lr=st.sampled_from([1e-3, 2e-3]))
    def change_settings(self, lr: float) -> None:
        self.lr = lr

    @rule()
    def start_again(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


ENDED: Counter[str] = Counter()
"""How the runs ended, over all examples."""


@pytest.mark.slow
def test_disturbed_runs() -> None:
    ENDED.clear()
    run_state_machine_as_test(
        DisturbedTraining,
        settings=settings(
            max_examples=40, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    assert min(ENDED[way] for way in ("finished", "Killed", "KeyboardInterrupt", "OSError", "refused")) >= 3, ENDED
