"""A prediction that is disturbed in any order of ways ends like one that is not, or says why it cannot."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
from command import invoke
from faults import Fault, Killed, Kind
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from samples import ENERGY, many, tiny_model, write_table

from crystalformers.files import locked

WINDOW = 3
TEMPORARY = Path(tempfile.mkdtemp())
SEEDS = st.integers(0, 2**32)
LAST = 45
"""About how many operations on files a whole run has."""


@lru_cache
def weights() -> Path:
    return tiny_model(TEMPORARY / "tiny.safetensors", (ENERGY,))


@lru_cache
def table(version: int) -> Path:
    """Ten structures; in version 1 another eighth one, in version 2 the second has no volume."""
    crystals = many(11)
    if version == 1:
        crystals[7] = many(1)[0]
    path = write_table(TEMPORARY / f"{version}.parquet", crystals[:10])
    if version == 2:
        rows = pq.read_table(path)
        lattices = rows["lattice"].to_pylist()
        lattices[1] = [0.0] * 9
        pq.write_table(rows.set_column(rows.column_names.index("lattice"), "lattice", [lattices]), path)
    return path


def predict(version: int, tolerance: str, output: Path, *options: str) -> Any:
    with patch("crystalformers.prediction.predictor.WINDOW", WINDOW):
        return invoke("predict", table(version), "-m", weights(), "--tolerance", tolerance, "-o", output, *options)


@lru_cache
def undisturbed(version: int, tolerance: str, suffix: str) -> tuple[int, bytes]:
    """Exit code and output of a run that nothing happens to."""
    output = TEMPORARY / f"{version}-{tolerance}{suffix}"
    result = predict(version, tolerance, output)
    assert result.exit_code == (1 if version == 2 else 0), result.stderr
    return result.exit_code, output.read_bytes()


class DisturbedPrediction(RuleBasedStateMachine):
    """One output file, and all that may happen to it."""

    @initialize(suffix=st.sampled_from([".csv", ".json", ".parquet"]), version=st.integers(0, 2))
    def begin(self, suffix: str, version: int) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=TEMPORARY))
        self.suffix, self.version, self.tolerance = suffix, version, "1e-7"
        self.damaged, self.begun_with = False, (version, "1e-7")
        self.output = self.folder / f"out{suffix}"
        self.partial = self.folder / f"out{suffix}.partial"

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.partial.unlink(missing_ok=True)
            self.run(Fault("none"), resume=False)
            shutil.rmtree(self.folder)

    @rule(seed=SEEDS)
    def kill(self, seed: int) -> None:
        self.run(Fault.drawn(["kill"], seed, LAST), resume=True)

    @rule(seed=SEEDS)
    def stop(self, seed: int) -> None:
        self.run(Fault.drawn(["interrupt", "terminate"], seed, LAST), resume=True)

    @rule(seed=SEEDS)
    def fail_to_write(self, seed: int) -> None:
        self.run(Fault.drawn(["full disk", "read-only"], seed, LAST), resume=True)

    @rule(resume=st.booleans())
    def leave_alone(self, resume: bool) -> None:
        self.run(Fault("none"), resume=resume)

    def run(self, fault: Fault, *, resume: bool) -> None:
        """Whatever happens, the output is whole or absent; and the exit code says which, unless the run is killed."""
        code, content = undisturbed(self.version, self.tolerance, self.suffix)
        if not self.partial.exists() or self.partial.stat().st_size == 0:
            self.damaged, self.begun_with = False, (self.version, self.tolerance)
        try:
            with fault.injected():
                result = predict(self.version, self.tolerance, self.output, *(["--resume"] if resume else []))
        except Killed:
            self.count("killed")
        else:
            self.count(str(result.exit_code))
            assert result.stderr.strip()
            assert "Traceback" not in result.stderr
            if result.exit_code == code:
                assert self.output.exists()
                # In a folder that can no more be written to, the lock stays too.
                locks = [] if fault.kind != "read-only" else list(self.folder.glob(".*.lock"))
                assert set(self.folder.iterdir()) == {self.output, *locks}
            else:
                stopped = {"interrupt": 130, "terminate": 143}.get(fault.kind, 2)
                assert result.exit_code in (2, stopped), result.stderr
                changed = self.begun_with != (self.version, self.tolerance)
                assert result.exit_code != 2 or not resume or self.damaged or changed or stopped == 2, result.stderr
                assert fault.kind != "none" or not resume or self.damaged or changed, result.stderr
                if result.exit_code != 2 and self.partial.exists():
                    # Nothing more is said of a run that was stopped before it had opened the journal.
                    assert "--resume" in result.stderr or result.stderr.strip() == "interrupted"
        if self.output.exists():
            assert self.output.read_bytes() == content
            self.output.unlink()

    def count(self, ended: str) -> None:
        """Remember that a run ended so."""
        ENDED[ended] += 1

    @rule()
    def another_has_it(self) -> None:
        before = self.files()
        with locked(self.partial):
            result = predict(self.version, self.tolerance, self.output, "--resume")
        assert result.exit_code == 2
        assert "in use by process" in result.stderr
        assert self.files() == before

    @rule()
    def output_is_there(self) -> None:
        before = self.files()
        self.output.write_bytes(b"of another run")
        result = predict(self.version, self.tolerance, self.output, "--resume")
        assert result.exit_code == 2
        assert "--overwrite" in result.stderr
        self.output.unlink()
        assert self.files() == before

    def files(self) -> dict[str, bytes]:
        """Content of all files but the lock, which a killed run leaves."""
        return {path.name: path.read_bytes() for path in self.folder.iterdir() if path.suffix != ".lock"}

    @precondition(lambda self: hasattr(self, "partial") and self.partial.exists() and self.partial.stat().st_size > 0)
    @rule(seed=SEEDS)
    def damage(self, seed: int) -> None:
        rng = random.Random(seed)
        content = bytearray(self.partial.read_bytes())
        position = rng.randrange(len(content))
        content[position] ^= 1 << rng.randrange(8)
        self.damaged = True
        self.partial.write_bytes(content[:position] if rng.random() < 0.2 else content)

    @precondition(lambda self: hasattr(self, "partial") and self.partial.exists())
    @rule(seed=SEEDS)
    def exchange_lines(self, seed: int) -> None:
        rng, lines = random.Random(seed), self.partial.read_bytes().splitlines(keepends=True)
        if lines:
            self.damaged = True
            lines[rng.randrange(len(lines))] = rng.choice(lines)
        self.partial.write_bytes(b"".join(lines))

    @rule(version=st.integers(0, 2))
    def change_input(self, version: int) -> None:
        self.version = version

    @rule(tolerance=st.sampled_from(["1e-7", "1e-5"]))
    def change_settings(self, tolerance: str) -> None:
        self.tolerance = tolerance

    @rule()
    def start_again(self) -> None:
        self.partial.unlink(missing_ok=True)


ENDED: Counter[str] = Counter()
"""How the runs ended, over all examples."""


@pytest.mark.parametrize("kind", ["kill", "interrupt", "terminate", "full disk", "read-only"])
def test_a_fault_at_every_operation(kind: Kind) -> None:
    ENDED.clear()
    for at in range(1, LAST + 1):
        machine = DisturbedPrediction()
        machine.begin((".csv", ".json", ".parquet")[at % 3], at % 2)
        machine.run(Fault(kind, at), resume=True)
        machine.teardown()
    stopped = {"kill": "killed", "interrupt": "130", "terminate": "143"}.get(kind, "2")
    assert ENDED[stopped] >= 15, ENDED


def test_disturbed_predictions() -> None:
    ENDED.clear()
    run_state_machine_as_test(
        DisturbedPrediction,
        settings=settings(
            max_examples=40,
            stateful_step_count=8,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],  # a failure is told as it was found: shrinking it takes minutes
        ),
    )
    assert min(ENDED[way] for way in ("0", "1", "2", "killed")) >= 5, ENDED
