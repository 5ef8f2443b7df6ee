"""A screen: the rows of `predict`, each once, after kills, in shards and with others at work on the same folder."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command import invoke
from faults import Fault, Killed, Kind
from samples import CELL_ENERGY, ENERGY, many, tiny_model, write_table
from screens import ONE, rows_in, screened, write_folder

from crystalformers.errors import ConfigError, CrystalformersError
from crystalformers.files import locked
from crystalformers.prediction.loading import load_model
from crystalformers.screening import Choice, Resources, screen
from crystalformers.screening.parts import done_path

CRYSTALS = many(20)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", (ENERGY, CELL_ENERGY))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty structures, of which the ninth has no volume."""
    path = write_table(tmp_path_factory.mktemp("table") / "many.parquet", CRYSTALS)
    rows = pq.read_table(path)
    lattices = rows["lattice"].to_pylist()
    lattices[8] = [0.0] * 9
    pq.write_table(rows.set_column(rows.column_names.index("lattice"), "lattice", [lattices]), path)
    return path


@pytest.fixture(scope="module")
def whole(weights: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole") / "results"
    screened(table, folder, weights)
    return folder


def same(folder: Path, whole: Path) -> bool:
    """Whether the rows are those of another run, and nothing else is left."""
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    return all(rows_in(folder, kind) == rows_in(whole, kind) for kind in ("predictions", "rejected"))


def test_the_rows_are_those_of_predict(weights: Path, table: Path, whole: Path) -> None:
    rows = rows_in(whole)
    assert [row["row"] for row in rows] == [k for k in range(20) if k != 8]
    assert {row["file"] for row in rows} == {str(table)}
    model = load_model(weights)
    for row, prediction in zip(rows, model.predict([c for c in CRYSTALS if c.name != "x8"]), strict=True):
        assert (row["name"], row["formula"], row["n_atoms"]) == (
            prediction.name,
            prediction.formula,
            prediction.n_atoms,
        )
        assert [row["energy"], row["cell_energy"]] == pytest.approx(list(prediction.values.values()), rel=1e-5)
    schema = pq.read_schema(whole / "predictions" / "000000.parquet")
    assert schema.field("energy").metadata[b"unit"] == b"eV/atom"
    about = json.loads(schema.metadata[b"crystalformers"])
    assert about["models"][0]["sha256"] == model.fingerprint
    (bad,) = rows_in(whole, "rejected")
    assert (bad["file"], bad["row"], bad["name"]) == (str(table), 8, "x8")
    assert "the cell has no volume" in bad["reason"]


def test_the_manifest_says_what_is_computed(table: Path, whole: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["about"]["tolerance"] == 1e-7
    assert manifest["about"]["crystalformers"]
    (given,) = manifest["inputs"]
    assert given["address"] == str(table)
    assert len(given["sha256"]) == 64
    assert sum(piece[3] for part in manifest["parts"] for piece in part) == 20


def test_a_condition_selects_rows(weights: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    middle = sorted(row["energy"] for row in rows_in(whole))[10]
    choice = Choice(where=f"energy > {middle!r} and n_atoms <= 6")
    found = screened(table, tmp_path / "r", weights, choice=choice)
    expected = [row for row in rows_in(whole) if row["energy"] > middle and row["n_atoms"] <= 6]
    assert rows_in(tmp_path / "r") == expected
    assert 0 < len(expected) == found.selected < 19
    assert (found.structures, found.rejected) == (20, 1)


@pytest.mark.parametrize("lowest", [True, False])
@pytest.mark.parametrize("count", [1, 5, 100])
def test_the_first_rows_by_a_column(
    count: int, lowest: bool, weights: Path, table: Path, whole: Path, tmp_path: Path
) -> None:
    choice = Choice(where="n_atoms > 2", top=count, by="energy", lowest=lowest)
    found = screened(table, tmp_path / "r", weights, choice=choice)
    rows = sorted(rows_in(whole), key=lambda row: row["energy"], reverse=not lowest)
    expected = [row for row in rows if row["n_atoms"] > 2][:count]
    assert pq.read_table(tmp_path / "r" / "top.parquet").to_pylist() == expected
    assert found.selected == len(expected)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (Choice(where="gap > 1"), "there is no column 'gap'; the columns are n_atoms, energy, cell_energy"),
        (Choice(where="name > 1"), "there is no column 'name'"),
        (Choice(top=3), "top and by belong together"),
        (Choice(by="energy"), "top and by belong together"),
        (Choice(top=3, by="gap"), "there is no column 'gap'; the columns are"),
        (Choice(lowest=True), "lowest: it needs top and by"),
    ],
)
def test_a_choice_that_makes_no_sense_leaves_nothing(
    choice: Choice, message: str, weights: Path, table: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        screened(table, tmp_path / "r", weights, choice=choice)
    assert list(tmp_path.iterdir()) == []


def test_resources_that_make_no_sense() -> None:
    for given in ({"shard": (0, 2)}, {"shard": (3, 2)}, {"engine": "magic"}, {"workers": 0}):
        with pytest.raises(ConfigError):
            Resources(**given)


# again and again


def test_a_second_run_computes_nothing(weights: Path, table: Path, tmp_path: Path) -> None:
    first = screened(table, tmp_path / "r", weights)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*") if path.is_file()}
    assert screened(table, tmp_path / "r", weights) == first
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "r").rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("kind", ["kill", "interrupt", "terminate", "full disk", "read-only"])
def test_a_fault_at_every_operation(kind: Kind, weights: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    ended = 0
    for at in range(1, 60, 4):
        folder = tmp_path / str(at)
        fault = Fault(kind, at)
        try:
            with fault.injected():
                screened(table, folder, weights)
        except (Killed, KeyboardInterrupt, OSError, CrystalformersError):
            ended += 1
        screened(table, folder, weights)
        assert same(folder, whole), at
    assert ended >= 8


SLOW = """
import signal
import time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background processes ignore
import crystalformers.screening.parts as parts
original = parts.predict_window
def predict_window(*given):
    time.sleep(0.1)
    return original(*given)
parts.predict_window = predict_window
from crystalformers.cli import main
main()
"""


def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLOW, "screen", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)


def wait_for_parts(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(list((folder / "done").glob("*.json"))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_kills_change_nothing(weights: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    folder, rng = tmp_path / "r", random.Random(0)
    arguments = (table, "-o", folder, "-m", weights, "--part-size", 3, "--workers", 1)
    for parts in (0, 2, 4):
        with start(*arguments) as process:
            wait_for_parts(process, folder, parts)
            time.sleep(0.3 * rng.random())
            process.kill()
    assert not same_so_far(folder)
    with start(*arguments) as process:
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1, stderr
    assert "1 structures that could not be used" in stderr
    assert same(folder, whole)


def same_so_far(folder: Path) -> bool:
    """Whether all parts are there."""
    return len(list((folder / "done").glob("*.json"))) == 7


@pytest.mark.slow
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_leaves_no_temporary_file(stop: signal.Signals, weights: Path, tmp_path: Path) -> None:
    folder, long = tmp_path / "r", write_table(tmp_path / "long.parquet", many(20) * 40)
    with start(long, "-o", folder, "-m", weights, "--part-size", 3, "--workers", 1) as process:
        wait_for_parts(process, folder, 2)
        process.send_signal(stop)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + stop, stderr
    assert "Traceback" not in stderr
    assert not list(folder.rglob(".*"))


def test_shards_share_the_parts(weights: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    found = [screened(table, tmp_path / "r", weights, resources=Resources(workers=1, shard=(k, 3))) for k in (2, 1, 3)]
    assert [one.parts_left for one in found] == [5, 2, 0]
    assert sum(one.structures for one in found) == 20
    assert sum(one.rejected for one in found) == 1
    assert same(tmp_path / "r", whole)


@pytest.mark.parametrize("count", [2, 4])
def test_runs_at_once_share_the_parts(count: int, weights: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    arguments = (table, "-o", folder, "-m", weights, "--part-size", 3, "--workers", 1)
    processes = [start(*arguments) for _ in range(count)]
    ended = [(process.communicate(timeout=240)[1], process.returncode) for process in processes]
    assert [code for _, code in ended] == [1] * count, ended
    assert same(folder, whole)


def test_a_part_that_another_process_has_is_waited_for(weights: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    screened(table, folder, weights, resources=Resources(workers=1, shard=(1, 7)))
    with locked(done_path(folder, 3)):
        process = start(table, "-o", folder, "-m", weights, "--part-size", 3, "--workers", 1)
        wait_for_parts(process, folder, 6)
        time.sleep(1.5)
        assert process.poll() is None
        assert not done_path(folder, 3).exists()
    process.communicate(timeout=60)
    assert process.returncode == 1
    assert same(folder, whole)


# what does not fit


def test_another_screen_is_refused(weights: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    screened(table, folder, weights)
    other = tiny_model(tmp_path / "tiny.safetensors", (ENERGY, CELL_ENERGY), seed=5)
    copy = write_table(tmp_path / "copy.parquet", CRYSTALS)
    for given, message in (
        ({"choice": Choice(where="energy > 0")}, "where changed"),
        ({"tolerance": 1e-5}, "tolerance changed"),
        ({"part_size": 4}, "part_size changed"),
    ):
        with pytest.raises(ConfigError, match=message):
            screened(table, folder, weights, **given)
    with pytest.raises(ConfigError, match="models changed"):
        screened(table, folder, other)
    with pytest.raises(ConfigError, match="the inputs changed"):
        screened(copy, folder, weights)
    assert same(folder, whole)


def test_an_input_may_be_touched_and_not_changed(weights: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    copy, folder = tmp_path / "many.parquet", tmp_path / "r"
    copy.write_bytes(table.read_bytes())
    screened(copy, folder, weights, resources=Resources(workers=1, shard=(1, 2)))
    os.utime(copy, (1, 1))
    screened(copy, folder, weights)
    assert [row["energy"] for row in rows_in(folder)] == [row["energy"] for row in rows_in(whole)]
    write_table(copy, many(19))
    with pytest.raises(ConfigError, match=r"the input .* has changed"):
        screened(copy, folder, weights)


def test_damage_is_noticed_and_can_be_repaired(weights: Path, table: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    screened(table, folder, weights)
    for name in ("predictions/000002.parquet", "rejected/000002.parquet", "done/000002.json", "manifest.json"):
        path = folder / name
        content = path.read_bytes()
        for damaged in (content[:-1], bytes([content[0] ^ 1]) + content[1:]):
            path.write_bytes(damaged)
            with pytest.raises(ConfigError, match="damaged"):
                screened(table, folder, weights)
        path.write_bytes(content)
    (folder / "predictions" / "000002.parquet").unlink()
    with pytest.raises(ConfigError, match=r"missing or damaged; delete .*/000002.json to run the part again"):
        screened(table, folder, weights)
    done_path(folder, 2).unlink()
    screened(table, folder, weights)
    assert same(folder, whole)


def test_a_folder_that_is_not_empty_is_refused(weights: Path, table: Path, tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "notes.txt").write_text("notes")
    with pytest.raises(ConfigError, match="the folder holds other files"):
        screened(table, tmp_path / "r", weights)
    folder = write_folder(tmp_path / "in", CRYSTALS[:2])
    with pytest.raises(ConfigError, match="the results would lie in the input"):
        screened(folder, folder / "r", weights)
    assert sorted(path.name for path in folder.iterdir()) == ["x0.vasp", "x1.vasp"]


# the command


def test_exit_codes(weights: Path, table: Path, tmp_path: Path) -> None:
    good = write_table(tmp_path / "good.parquet", CRYSTALS[:4])
    result = invoke("screen", good, "-o", tmp_path / "a", "-m", weights, "--workers", 1)
    assert result.exit_code == 0
    assert f"{tmp_path}/a/predictions: 4 of 4 structures." in result.stderr
    result = invoke("screen", good, table, "-o", tmp_path / "b", "-m", weights, "--workers", 1, "--shard", "1/1")
    assert result.exit_code == 1
    assert "b/rejected: 1 structures that could not be used." in result.stderr
    for wrong in (
        ("--where", "gap > 1"),
        ("--shard", "2"),
        ("--shard", "3/2"),
        ("--engine", "magic"),
        ("--option", "address"),
        ("--option", "address=auto"),
        ("-m", tmp_path / "none"),
    ):
        assert invoke("screen", good, "-o", tmp_path / "c", "-m", weights, *wrong).exit_code == 2, wrong
    assert invoke("screen", tmp_path / "none", "-o", tmp_path / "d", "-m", weights).exit_code == 2


def test_threads_are_the_processes_of_the_local_engine(weights: Path, table: Path, tmp_path: Path) -> None:
    one, two = (
        invoke("screen", table, "-o", tmp_path / f"{k}", "-m", weights, "--threads", k, "--part-size", 5)
        for k in (1, 2)
    )
    assert one.exit_code == two.exit_code == 1  # a row cannot be used
    first, second = (pq.read_table(tmp_path / name / "predictions").sort_by("name") for name in ("1", "2"))
    assert first["energy"] == second["energy"]
    for given in (("--workers", 1), ("--engine", "slurm")):
        result = invoke("screen", table, "-o", tmp_path / "r", "-m", weights, "--threads", 1, *given)
        assert result.exit_code == 2
        assert "--threads: it counts the processes of the local engine" in result.stderr
    assert not (tmp_path / "r").exists()


def test_progress_has_rate_and_time_left(
    weights: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crystalformers.cli.progress.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("crystalformers.screening.SECONDS_BETWEEN_LOOKS", 0.0)
    arguments = ("-m", weights, "--workers", 1, "--part-size", 5)
    result = invoke("screen", table, "-o", tmp_path / "r", *arguments, "--top", 2, "--by", "energy")
    assert "screening: 15 of 20, " in result.stderr
    assert "a second, 0:00:0" in result.stderr
    assert "top.parquet: 2 of 20 structures." in result.stderr


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(weights: Path, tmp_path: Path) -> None:
    table = pq.read_table(write_table(tmp_path / "t.parquet", many(64)))
    peaks = []
    for times in (20, 400):
        pq.write_table(pq.ParquetFile(tmp_path / "t.parquet").read(), tmp_path / f"{times}.parquet")
        with pq.ParquetWriter(tmp_path / f"{times}.parquet", table.schema) as writer:
            for _ in range(times):
                writer.write_table(table)
        script = (
            "import resource, sys; from crystalformers.screening import screen, Resources\n"
            "screen([sys.argv[1]], sys.argv[2], [sys.argv[3]], resources=Resources(workers=1), part_size=640)\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
        )
        command = [
            sys.executable,
            "-c",
            script,
            str(tmp_path / f"{times}.parquet"),
            str(tmp_path / str(times)),
            str(weights),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        peaks.append(int(done.stdout))
    assert peaks[1] < peaks[0] + 60, peaks


def test_structures_of_one_part_do_not_depend_on_others(
    weights: Path, table: Path, whole: Path, tmp_path: Path
) -> None:
    screen([str(table)], tmp_path / "r", [str(weights)], resources=ONE)
    for row, other in zip(rows_in(tmp_path / "r"), rows_in(whole), strict=True):
        assert row["energy"] == pytest.approx(other["energy"], rel=1e-5)
