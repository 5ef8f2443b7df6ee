"""The finished part of a prediction on disk: it comes back, damage is noticed, and one process at a time has it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from samples import many

from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError
from crystalformers.io import Rejected
from crystalformers.prediction.journal import open_journal
from crystalformers.prediction.rows import Prediction, Row

HEADER: dict[str, Any] = {"models": ["some"], "units": {"energy": "eV/atom"}}


def predicted(crystal: Crystal, energy: float) -> Prediction:
    return Prediction(crystal.name, "NaCl", len(crystal), {"energy": energy}, HEADER["units"])


def written(path: Path) -> tuple[list[list[Crystal | Rejected]], list[list[Row]]]:
    """Windows of structures and their rows, after they were written to a journal that was not finished."""
    first, second, third = many(3)
    bad = Rejected("bad", "the file is empty", "bad.cif", "export it again")
    windows: list[list[Crystal | Rejected]] = [[first, bad], [second, third]]
    rows: list[list[Row]] = [[predicted(first, 0.1), bad], [predicted(second, -1 / 3), predicted(third, 2e-17)]]
    with open_journal(path, HEADER, resume=False) as journal:
        for window, part in zip(windows, rows, strict=True):
            journal.append(window, part)
    return windows, rows


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    windows, rows = written(tmp_path / "out.partial")
    with open_journal(tmp_path / "out.partial", HEADER, resume=True) as journal:
        assert journal.finished == 4
        assert list(journal.windows()) == rows
        stream = iter([*windows, [windows[0][0]]])
        journal.skip(stream)
        assert next(stream) == [windows[0][0]]
        journal.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("old", "new"), [(b"0.1", b"0.7"), (b'"n_atoms": ', b'"n_atoms": 1'), (b"export it", b"export ix")]
)
def test_damage_that_is_still_json_is_noticed(tmp_path: Path, old: bytes, new: bytes) -> None:
    path = tmp_path / "out.partial"
    written(path)
    content = path.read_bytes()
    assert content.count(old) >= 1
    damaged = content.replace(old, new, 1)
    path.write_bytes(damaged)
    with pytest.raises(ConfigError, match="line 2 is damaged"), open_journal(path, HEADER, resume=True):
        pass
    assert path.read_bytes() == damaged


def test_a_missing_line_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    written(path)
    header, _, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(header + last)
    with pytest.raises(ConfigError, match="line 2 is damaged"), open_journal(path, HEADER, resume=True):
        pass


HOLDER = """
import sys
from pathlib import Path
from test_journal import HEADER, many, predicted
from crystalformers.prediction.journal import open_journal
with open_journal(Path(sys.argv[1]), HEADER, resume=True) as journal:
    crystals = many(3)
    journal.append(crystals, [predicted(crystal, 0.5) for crystal in crystals])
    print("open", flush=True)
    sys.stdin.read()
    journal.remove()
"""


def holder(path: Path) -> subprocess.Popen[str]:
    """A process that opens a journal, writes a window and stays until its input is closed."""
    code = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]}\n{HOLDER}"
    command, pipe = [sys.executable, "-c", code, str(path)], subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def wait_until_open(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n", process.communicate()[1]


@pytest.mark.parametrize("resume", [True, False])
def test_a_journal_that_another_process_has_open_is_refused(tmp_path: Path, resume: bool) -> None:
    path = tmp_path / "out.partial"
    with holder(path) as process:
        wait_until_open(process)
        before = path.read_bytes()
        who = re.escape(f"in use by process {process.pid} on {socket.gethostname()}")
        with pytest.raises(ConfigError, match=who), open_journal(path, HEADER, resume=resume):
            pass
        assert path.read_bytes() == before
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    with holder(path) as process:
        wait_until_open(process)
        process.kill()
    with open_journal(path, HEADER, resume=True) as journal:
        assert journal.finished == 3
        journal.remove()
    assert list(tmp_path.iterdir()) == []


def test_of_two_processes_that_start_together_one_works(tmp_path: Path) -> None:
    path = tmp_path / "out.partial"
    processes = [holder(path), holder(path)]
    deadline = time.monotonic() + 120
    while all(process.poll() is None for process in processes):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    loser, winner = sorted(processes, key=lambda process: process.poll() is None)
    assert f"in use by process {winner.pid}" in loser.communicate()[1]
    assert winner.communicate(timeout=60) == ("open\n", "")
    assert winner.returncode == 0
    assert list(tmp_path.iterdir()) == []
