"""From a host to a number beside the published one: every set in miniature, by the commands that a user types."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command import invoke
from fetching import optimade_pages, play_materials_project
from host import Host
from miniatures import (
    jarvis_rows,
    lemat_parquet,
    matbench_gzip,
    megnet_rows,
    modulus_pickles,
    oqmd_rows,
    perovskite_zip,
    play,
    zipped_json,
)
from test_lemat_bulk import lemat

from crystalformers import load_model
from crystalformers.data.sets import SETS, DataSet, Store
from crystalformers.data.sets.sources import Optimade
from crystalformers.reproduction import Result, find, published, read_result
from crystalformers.training import TrainingInterrupted
from crystalformers.training.loop import TrainingLoop

COUNT = 20
SMALL = ("--set", "epochs=2", "--set", "average_epochs=1", "--set", "batch_size=8", "--set", "threads=1")
MODEL = {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 16, "radial_functions": 8}
NARROW = [part for name, value in MODEL.items() for part in ("--set", f"model.{name}={value}")]
REDUCED = (*SMALL, *NARROW)


def with_gaps(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with gaps that differ, where they have one."""
    for k, row in enumerate(rows):
        for name in ("optb88vdw_bandgap", "_oqmd_band_gap"):
            if row.get(name) is not None:
                row[name] = row[name] + 0.1 * k
    return rows


MADE: dict[str, Callable[[Host], DataSet]] = {
    "jarvis-dft3d-2021": lambda host: play(
        host, "jarvis-dft3d-2021", [zipped_json("jdft_3d-8-18-2021.json", with_gaps(jarvis_rows(COUNT)))], COUNT
    ),
    "megnet-2018": lambda host: play(host, "megnet-2018", [zipped_json("megnet.json", megnet_rows(COUNT))], COUNT),
    "megnet-bulk": lambda host: play(host, "megnet-bulk", modulus_pickles(COUNT, "bulk"), COUNT),
    "megnet-shear": lambda host: play(host, "megnet-shear", modulus_pickles(COUNT, "shear"), COUNT),
    "oqmd-2021": lambda host: play(
        host, "oqmd-2021", [zipped_json("all_oqmd.json", with_gaps(oqmd_rows(COUNT)))], COUNT
    ),
}
"""The sets of the papers' tables."""


@pytest.fixture
def offered(host: Host, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The sets of the papers on our host, none of them fetched; the folder of the test is the current one."""
    for name, make in MADE.items():
        monkeypatch.setitem(SETS, name, make(host))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(name: str) -> Result:
    result = read_result(Path("runs/reproduce") / name / "result.json")
    assert result is not None
    return result


TASKS = [name for name in published() if name.startswith("crystalformer/")]


@pytest.mark.parametrize("name", TASKS)
def test_a_published_row(offered: Path, store: Store, name: str) -> None:
    """Fetched, converted, split, trained with the reduced recipe of the paper, and shown beside the published value."""
    row = find(name)
    result = invoke("reproduce", name, *REDUCED)
    assert result.exit_code == 0, result.stderr
    assert f"{row.data} is not here; fetching it." in result.stderr
    assert "not the recipe of the paper: epochs = 2" in result.stderr
    printed = result.stdout.splitlines()[-2].split()
    found = written(name)
    assert printed[0] == name
    assert float(printed[2]) == row.mae
    assert float(printed[3]) == float(f"{found.mean:.4g}")
    assert found.published == row.mae
    assert found.changes["batch_size"] == 8
    assert "lr" not in found.changes
    about = store.about(row.data)
    assert about is not None
    split = f"split_{row.target}" if f"split_{row.target}" in about["splits"] else "split"
    assert found.n == about["splits"][split]["test"]["in_table"]
    assert f"{found.mean:.4g}" in invoke("reproduce", "--list", name).stdout
    (target,) = load_model(Path("runs/reproduce") / name / "seed-123").targets
    assert (target.name, target.unit, target.basis) == (row.target, row.label.unit, row.label.basis)


@pytest.mark.parametrize("model", ["crystalframer", "crystalformer-dual-space"])
def test_other_models(offered: Path, model: str) -> None:
    narrow = (*REDUCED, "--set", "model.angular_functions=8") if model == "crystalframer" else REDUCED
    result = invoke("reproduce", f"{model}/jarvis/band-gap", *narrow, "--published")
    assert result.exit_code == 0, result.stderr
    found = written(f"{model}/jarvis/band-gap")
    assert found.follows_authors
    assert "published_slips" not in found.changes


def test_several_seeds_and_two_ways_to_measure(offered: Path) -> None:
    name = "crystalformer/mp/bulk-modulus"
    assert invoke("reproduce", name, "--seeds", 2, *REDUCED).exit_code == 0
    averaged = written(name)
    assert list(averaged.errors) == [123, 124]
    assert len(set(averaged.errors.values())) == 2
    assert averaged.spread is not None
    # The errors of the best epochs come from the same runs, which are only read.
    other = "crystalformer-without-averaging/mp/bulk-modulus"
    refused = invoke("reproduce", other, "--seeds", 2, *REDUCED)
    assert refused.exit_code == 2
    assert "go on with --resume" in refused.stderr
    weights = Path("runs/reproduce") / name / "seed-123" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert invoke("reproduce", other, "--seeds", 2, *REDUCED, "--resume").exit_code == 0
    assert weights.stat().st_mtime_ns == before
    for seed, error in written(other).errors.items():
        summary = json.loads((Path("runs/reproduce") / name / f"seed-{seed}" / "summary.json").read_text())
        assert error == summary["best"]["errors"]["test"]["log10_bulk_modulus"]["mae"]
        assert averaged.errors[seed] == summary["errors"]["test"]["log10_bulk_modulus"]["mae"]


def test_an_interrupted_reproduction_goes_on(offered: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the second seed, it ends with the errors of a reproduction that was never stopped."""
    name = "crystalformer/mp/shear-modulus"
    command = ("reproduce", name, "--seeds", 2, *REDUCED, "--set", "batch_size=4", "--set", "checkpoint_steps=1")
    assert invoke(*command, "-o", "whole").exit_code == 0
    whole = read_result(Path("whole") / name / "result.json")
    before, steps = TrainingLoop.after_step, []

    def stopping(loop: TrainingLoop) -> None:
        before(loop)
        steps.append(1)
        if len(steps) == 8:
            raise TrainingInterrupted(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "after_step", stopping)
        stopped = invoke(*command)
    assert stopped.exit_code in {130, 143}, stopped.stderr
    assert "Repeat the command with --resume to go on." in stopped.stderr
    assert list(written(name).errors) == [123]
    result = invoke(*command, "--resume")
    assert result.exit_code == 0, result.stderr
    assert whole is not None
    assert written(name).errors == whole.errors


def test_ctrl_c_and_going_on(offered: Path, store: Store) -> None:
    """A process of its own is sent SIGINT in the middle of its training, and another one ends what it began."""
    name = "crystalformer/mp/shear-modulus"
    assert invoke("data", "get", "megnet-shear").exit_code == 0
    script = "from crystalformers.cli import main; main()"
    command = [sys.executable, "-c", script, "reproduce", name, *REDUCED, "--set", "epochs=300"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    run = Path("runs/reproduce") / name / "seed-123"
    end = time.monotonic() + 120
    while not (run / "metrics.csv").exists():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Repeat the command with --resume to go on." in said
    assert not (run / "summary.json").exists()
    assert invoke("reproduce", name, *REDUCED, "--set", "epochs=300", "--resume").exit_code == 0
    assert len((run / "metrics.csv").read_text().splitlines()) == 301
    assert list(written(name).errors) == [123]


def test_runs_of_another_recipe_are_not_taken_for_these(offered: Path) -> None:
    name = "crystalformer/mp/bulk-modulus"
    assert invoke("reproduce", name, *REDUCED).exit_code == 0
    refused = invoke("reproduce", name, *REDUCED, "--set", "lr=1e-3", "--resume")
    assert refused.exit_code == 2
    assert "lr: 0.0005 in the run, 0.001 now" in refused.stderr


def test_a_split_that_is_not_the_published_one_is_refused(offered: Path, store: Store) -> None:
    assert invoke("data", "get", "jarvis-dft3d-2021").exit_code == 0
    path = store.folder("jarvis-dft3d-2021") / "about.json"
    about = json.loads(path.read_text())
    about["splits"]["split"]["test"]["published"] = "0" * 64
    path.write_text(json.dumps(about))
    refused = invoke("reproduce", "crystalformer/jarvis/band-gap", *REDUCED)
    assert refused.exit_code == 2
    assert f"published is {'0' * 64}" in refused.stderr
    assert not Path("runs").exists()


MATBENCH = [name for name in SETS if name.startswith("matbench")]
OPTIMADE = [name for name, dataset in SETS.items() if isinstance(dataset.source, Optimade)]
LEMAT = {"lemat-bulk": "pbe", "lemat-bulk-pbesol": "pbesol", "lemat-bulk-scan": "scan"}


def test_every_set_has_its_chain() -> None:
    """In this file each set is fetched, converted and trained on."""
    assert {*MADE, *MATBENCH, *OPTIMADE, *LEMAT, "materials-project", "hybrid-perovskites"} == set(SETS)


@pytest.mark.parametrize("name", MATBENCH)
def test_a_task_of_matbench(
    host: Host, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    (label,) = SETS[name].labels
    monkeypatch.setitem(SETS, name, play(host, name, [matbench_gzip(label.source_column, COUNT)], COUNT))
    trained(tmp_path, name, label.name)


@pytest.mark.parametrize("name", OPTIMADE)
def test_a_provider_of_optimade(
    host: Host, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    dataset = SETS[name]
    assert isinstance(dataset.source, Optimade)
    optimade_pages(host, COUNT, 10, dataset.source.fields)
    here = replace(dataset, source=replace(dataset.source, base_url=f"{host.url}/pbe"))
    monkeypatch.setitem(SETS, name, here)
    trained(tmp_path, name, dataset.labels[0].name)


def test_a_provider_by_its_address(host: Host, store: Store, tmp_path: Path) -> None:
    optimade_pages(host, COUNT, 10)
    url = f"{host.url}/pbe"
    assert invoke("data", "get", url, "--name", "mine", "--field", "_x_gap").exit_code == 0
    trained(tmp_path, "mine", "_x_gap", "--unit", "eV", get=False)


@pytest.mark.parametrize(("name", "functional"), LEMAT.items())
def test_lemat_bulk(
    host: Host, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, functional: str
) -> None:
    pytest.importorskip("huggingface_hub")
    lemat(monkeypatch, host, lemat_parquet(COUNT), functional)
    trained(tmp_path, name, "energy")


def test_the_materials_project(store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    play_materials_project(monkeypatch, tmp_path, COUNT)
    trained(tmp_path, "materials-project", "band_gap")


def test_hybrid_perovskites(store: Store, tmp_path: Path) -> None:
    """From a file that the user has collected; two of its rows have no structure."""
    given = perovskite_zip(tmp_path / "mine.zip", COUNT)
    fetched = invoke("data", "get", "hybrid-perovskites", "--from", given)
    assert fetched.exit_code == 0, fetched.stderr
    trained(tmp_path, "hybrid-perovskites", "formation_energy_per_atom", get=False)


def trained(folder: Path, name: str, target: str, *options: str, get: bool = True) -> None:
    """Fetch a set and train on it, by its name, with the reduced recipe."""
    if get:
        fetched = invoke("data", "get", name)
        assert fetched.exit_code == 0, fetched.stderr
    result = invoke("train", name, "--target", target, *options, *REDUCED, "-o", folder / name)
    assert result.exit_code == 0, result.stderr
    summary: dict[str, Any] = json.loads((folder / name / "summary.json").read_text())
    assert summary["errors"]["test"][target]["n"] > 0
