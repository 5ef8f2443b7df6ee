"""Predictions that are interrupted, killed or found unfinished: what is kept, and that the whole comes out the same."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from command import invoke, leftovers, rows_of
from samples import CELL_ENERGY, ENERGY, many, rock_salt, tiny_model, write_table

import crystalformers.prediction.model
import crystalformers.prediction.predictor


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", (ENERGY, CELL_ENERGY))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "many.parquet", many(30))


def interrupt_after(windows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while the window after `windows` whole ones is computed."""
    original, calls = crystalformers.prediction.predictor.predict_window, []

    def predict_window(*arguments: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) > windows:
            raise KeyboardInterrupt
        return original(*arguments, **options)

    monkeypatch.setattr(crystalformers.prediction.predictor, "predict_window", predict_window)


def run_to_the_end(table: Path, weights: Path, output: Path, *options: str) -> bytes:
    result = invoke("predict", table, "-m", weights, "-o", output, *options)
    assert result.exit_code == 0, result.stderr
    return output.read_bytes()


def test_ctrl_c_keeps_what_is_finished_and_resume_gives_the_same_file(
    weights: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crystalformers.prediction.predictor, "WINDOW", 7)
    output = tmp_path / "out.csv"
    with monkeypatch.context() as context:
        interrupt_after(2, context)
        result = invoke("predict", table, "-m", weights, "-o", output)
    assert result.exit_code == 130
    assert "14 structures are kept in" in result.stderr
    assert "--resume" in result.stderr
    assert not output.exists()
    assert leftovers(tmp_path) == ["out.csv.partial"]

    again = invoke("predict", table, "-m", weights, "-o", output)
    assert again.exit_code == 2
    assert "out.csv.partial holds an unfinished prediction" in again.stderr

    with monkeypatch.context() as context:
        interrupt_after(3, context)  # 5 windows in all: only three are left to compute
        resumed = run_to_the_end(table, weights, output, "--resume")
    assert leftovers(tmp_path) == []
    assert resumed == run_to_the_end(table, weights, tmp_path / "whole.csv")


def test_ctrl_c_before_anything_is_finished_leaves_nothing(
    weights: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(0, monkeypatch)
    for verb, output in (("predict", "out.json"), ("embed", "out.parquet")):
        monkeypatch.setattr(
            crystalformers.prediction.model.Model, "atom_vectors", crystalformers.prediction.predictor.predict_window
        )
        result = invoke(verb, table, "-m", weights, "-o", tmp_path / output)
        assert result.exit_code == 130
        assert result.stderr.startswith("interrupted")
        assert not (tmp_path / output).exists()
        assert leftovers(tmp_path) == []


def test_a_partial_of_other_work_is_not_continued(
    weights: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crystalformers.prediction.predictor, "WINDOW", 7)
    output, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial"
    with monkeypatch.context() as context:
        interrupt_after(2, context)
        invoke("predict", table, "-m", weights, "-o", output)
    content = partial.read_bytes()

    def refusal(*arguments: object) -> str:
        result = invoke("predict", *arguments, "-o", output, "--resume")
        assert result.exit_code == 2
        assert partial.read_bytes() == content
        return result.stderr

    other = tiny_model(tmp_path / "tiny.safetensors", (ENERGY, CELL_ENERGY), seed=5)
    assert "models changed" in refusal(table, "-m", other)
    assert "tolerance changed" in refusal(table, "-m", weights, "--tolerance", "1e-5")
    crystals = many(30)
    changed = write_table(tmp_path / "changed.parquet", [*crystals[:8], rock_salt(name="x8"), *crystals[9:]])
    assert "the window from 'x7' on has changed" in refusal(changed, "-m", weights)
    shorter = write_table(tmp_path / "shorter.parquet", crystals[:7])
    assert "the window from 'x7' on has changed" in refusal(shorter, "-m", weights)

    content = content[:-200].replace(b'"rows"', b'"sores"')
    partial.write_bytes(content + b"\n")
    content += b"\n"
    assert "is damaged" in refusal(table, "-m", weights)


def test_a_torn_line_is_computed_again(
    weights: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crystalformers.prediction.predictor, "WINDOW", 7)
    whole = run_to_the_end(table, weights, tmp_path / "whole.parquet")
    output, partial = tmp_path / "out.parquet", tmp_path / "out.parquet.partial"
    with monkeypatch.context() as context:
        interrupt_after(2, context)
        invoke("predict", table, "-m", weights, "-o", output)
    content = partial.read_bytes()
    for end in (len(content) - 1, len(content) - 100, content.index(b"\n") + 5, content.index(b"\n"), 3, 0):
        partial.write_bytes(content[:end])
        assert run_to_the_end(table, weights, output, "--resume", "--overwrite") == whole


SLOW_PREDICTION = """
import sys, time
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background processes ignore
import crystalformers.prediction.predictor as predict
predict.WINDOW = 5
original = predict.predict_window
def predict_window(*arguments, **options):
    time.sleep(0.3)
    return original(*arguments, **options)
predict.predict_window = predict_window
from crystalformers.cli import main
main()
"""


def start(script: str, arguments: Sequence[object]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_windows(process: subprocess.Popen[str], partial: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while not (partial.exists() and partial.read_bytes().count(b"\n") > count):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_prediction_goes_on_where_it_was(weights: Path, table: Path, tmp_path: Path) -> None:
    output, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial"
    whole = start(SLOW_PREDICTION, ["predict", table, "-m", weights, "-o", tmp_path / "whole.csv"])
    process = start(SLOW_PREDICTION, ["predict", table, "-m", weights, "-o", output])
    wait_for_windows(process, partial, 2)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not output.exists()
    assert partial.read_bytes().count(b"\n") < 7

    process = start(SLOW_PREDICTION, ["predict", table, "-m", weights, "-o", output, "--resume"])
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    whole.communicate(timeout=120)
    assert output.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert len(rows_of(output)) == 30
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_process_tidies_up_and_says_so(
    stop: signal.Signals, weights: Path, table: Path, tmp_path: Path
) -> None:
    # Slow enough that it cannot end before the signal arrives, on however busy a machine.
    script = SLOW_PREDICTION.replace("sleep(0.3)", "sleep(5)")
    process = start(script, ["predict", table, "-m", weights, "-o", tmp_path / "out.csv"])
    wait_for_windows(process, tmp_path / "out.csv.partial", 1)
    process.send_signal(stop)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + stop
    assert "Traceback" not in stderr
    assert stderr.startswith("interrupted: ")
    assert "go on with the same command and --resume" in stderr
    assert leftovers(tmp_path) == ["out.csv.partial"]


def test_of_two_resumed_runs_the_second_is_refused(
    weights: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crystalformers.prediction.predictor, "WINDOW", 5)
    whole = run_to_the_end(table, weights, tmp_path / "whole.csv")
    output, partial = tmp_path / "out.csv", tmp_path / "out.csv.partial"
    with monkeypatch.context() as context:
        interrupt_after(2, context)
        invoke("predict", table, "-m", weights, "-o", output)
    script = SLOW_PREDICTION.replace("sleep(0.3)", "sleep(1)")
    first = start(script, ["predict", table, "-m", weights, "-o", output, "--resume"])
    wait_for_windows(first, partial, 3)
    first.send_signal(signal.SIGSTOP)
    second = invoke("predict", table, "-m", weights, "-o", output, "--resume")
    first.send_signal(signal.SIGCONT)
    assert second.exit_code == 2
    assert f"out.csv.partial is in use by process {first.pid} on {socket.gethostname()}" in second.stderr
    assert len(second.stderr.splitlines()) == 1
    _, stderr = first.communicate(timeout=120)
    assert first.returncode == 0, stderr
    assert output.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many.parquet", "out.csv", "whole.csv"]


SIGNAL_IN_A_FINALISER = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background processes ignore
import crystalformers.prediction.predictor as predictor
from crystalformers.cli import main

class Last:
    def __del__(self):
        os.kill(os.getpid(), int(os.environ["STOP"]))
        time.sleep(0.01)  # Python drops the exception of the handler

def predict_window(*_, **__):
    Last()
    time.sleep(60)

predictor.predict_window = predict_window
main()
"""


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_within_a_finaliser_stops_the_command_too(
    stop: signal.Signals, weights: Path, table: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", SIGNAL_IN_A_FINALISER, "predict", str(table), "-m", str(weights)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "out.csv")],
        capture_output=True,
        text=True,
        timeout=50,
        env={**os.environ, "STOP": str(int(stop))},
        check=False,
    )
    assert done.returncode == 128 + stop, done.stderr
    assert "interrupted" in done.stderr
    assert "ignored" not in done.stderr
