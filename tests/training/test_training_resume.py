"""A run that is killed with SIGKILL at random moments and resumed ends with the same bits as one that is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from samples import many, write_table

KILLS = 20

# Everything is imported once; each attempt is a fork, so that a kill costs no new start of the interpreter.
DRIVER = """
import os, random, shutil, signal, sys, time
from pathlib import Path
import torch
import lightning_fabric, matplotlib.figure, matplotlib.backends.backend_agg  # noqa
from crystalformers.data.table import open_table
from crystalformers.target import Target
from crystalformers.training.fit import fit
from crystalformers.training.recipe import Recipe

folder, kills = Path(sys.argv[1]), int(sys.argv[2])
table = open_table(folder / "table.parquet")
recipe = Recipe.parse(dict(
    epochs=5, average_epochs=2, batch_size=4, checkpoint_steps=1, threads=1, accelerator="cpu",
    model=dict(dim=16, heads=2, blocks=2, feedforward=32, radial_functions=16),
))
targets = [Target("energy", "eV/atom", "per_atom"), Target("gap", "eV")]

def attempt(run):
    child = os.fork()
    if child:
        return child
    try:
        sys.stderr = open(folder / "stderr.txt", "a")
        fit(table, targets, run, recipe, resume=True)
        os._exit(0)
    except BaseException:
        import traceback
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)

def step_of(run):
    try:
        return torch.load(run / "resume.pt", weights_only=True)["progress"]["step"]
    except FileNotFoundError:
        return -1

def saved(run):
    try:
        return (run / "resume.pt").stat().st_mtime_ns
    except FileNotFoundError:
        return 0

def wait_for_training(child, run):
    "Until the process has saved its first state, or a while if it has nothing left to train."
    before, until = saved(run), time.monotonic() + 10
    while saved(run) == before and time.monotonic() < until:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return
        time.sleep(0.001)

child = attempt(folder / "whole")
wait_for_training(child, folder / "whole")
began = time.monotonic()
assert os.waitpid(child, 0)[1] == 0
duration = time.monotonic() - began
print(f"uninterrupted {duration:.2f} s", flush=True)
draw = random.Random(0)
done = finished = 0
killed = True
while done < kills or killed:
    run = folder / f"killed{finished}"
    child = attempt(run)
    if done < kills:
        if done % 5:
            wait_for_training(child, run)
        time.sleep(draw.uniform(0, 0.4 * duration))
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status)
    if killed:
        done += 1
        print("killed after step", step_of(run), flush=True)
        continue
    assert status == 0, (folder / "stderr.txt").read_text()
    finished += 1
    for name in ("model.safetensors", "model-best.safetensors", "parity.png", "splits.json", "recipe.yaml"):
        assert (run / name).read_bytes() == (folder / "whole" / name).read_bytes(), name
    left = [path.name for path in run.iterdir() if path.name.startswith(".") or path.name == "resume.pt"]
    assert not left, left
    print("finished alike", flush=True)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    crystals = many(30)
    rng = np.random.default_rng(0)
    split = ["train"] * 22 + ["val"] * 4 + ["test"] * 4
    gap: list[float | None] = rng.random(30).tolist()
    gap[3] = None
    write_table(tmp_path / "table.parquet", crystals, energy=rng.normal(size=30), gap=gap, split=split)
    return tmp_path


@pytest.mark.slow
def test_killed_runs_end_with_the_same_weights(folder: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(folder), str(KILLS)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = {int(line.split()[-1]) for line in done.stdout.splitlines() if line.startswith("killed")}
    assert done.stdout.count("killed after") == KILLS
    assert len(steps - {-1}) >= 5, f"the kills hit too few different moments: {sorted(steps)}"
    whole, killed = ((folder / name / "metrics.csv").read_text().splitlines() for name in ("whole", "killed0"))
    # All but the last two columns, which are times.
    assert [line.split(",")[:-2] for line in whole] == [line.split(",")[:-2] for line in killed]
