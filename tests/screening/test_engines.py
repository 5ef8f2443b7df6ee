"""Every engine gives the same rows, and loses no more than the part that a lost worker had in hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samples import ENERGY, many, tiny_model, write_table
from screens import rows_in, screened

from crystalformers.errors import ConfigError, CrystalformersError
from crystalformers.screening import Resources, engines

CRYSTALS = many(24)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", (ENERGY,))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "many.parquet", CRYSTALS)


@pytest.fixture(scope="module")
def whole(weights: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whole") / "results"
    screened(table, folder, weights)
    return rows_in(folder)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The processes that the local engine starts."""
    processes: list[subprocess.Popen[str]] = []
    original = engines.Process._started

    def recorded(process: engines.Process) -> subprocess.Popen[str]:
        processes.append(original(process))
        return processes[-1]

    monkeypatch.setattr(engines.Process, "_started", recorded)
    return processes


def broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    """Let `code` run in every worker process before a part that it is given as `index`."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'crystalformers.screening.worker' in sys.orig_argv:\n"
        "    import os, signal, pathlib\n"
        "    import crystalformers.screening.parts as parts\n"
        "    original = parts.Job.run\n"
        "    def run(job, index):\n"
        f"        {code}\n"
        "        return original(job, index)\n"
        "    parts.Job.run = run\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(engines.__file__).parents[2]}")


def test_processes_give_the_same_rows(
    weights: Path, table: Path, whole: list[dict[str, Any]], started: list[Any], tmp_path: Path
) -> None:
    screened(table, tmp_path / "r", weights, resources=Resources(workers=2))
    assert rows_in(tmp_path / "r") == whole
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)


def test_a_lost_process_costs_its_part_only(
    weights: Path, table: Path, whole: list[dict[str, Any]], started: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    flag = tmp_path / "killed"
    code = f"if index == 3 and not os.path.exists({str(flag)!r}): open({str(flag)!r}, 'w'); os.kill(os.getpid(), 9)"
    broken(monkeypatch, tmp_path, code)
    screened(table, tmp_path / "r", weights, resources=Resources(workers=2))
    assert flag.exists()
    assert rows_in(tmp_path / "r") == whole
    assert len(started) == 3


def test_a_part_that_ends_every_process_ends_the_run(
    weights: Path, table: Path, whole: list[dict[str, Any]], started: list[Any], tmp_path: Path, monkeypatch: Any
) -> None:
    with monkeypatch.context() as context:
        broken(context, tmp_path, "if index == 3: os.kill(os.getpid(), 9)")
        with pytest.raises(CrystalformersError, match="part 3: the process that ran it was killed 2 times"):
            screened(table, tmp_path / "r", weights, resources=Resources(workers=2))
    assert all(process.poll() is not None for process in started)
    screened(table, tmp_path / "r", weights)
    assert rows_in(tmp_path / "r") == whole


@pytest.mark.parametrize(
    ("code", "message"), [("raise OSError(28, 'No space left')", "No space left"), ("1 / 0", "ended with exit code 1")]
)
def test_what_goes_wrong_in_a_process_is_told(
    code: str, message: str, weights: Path, table: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    broken(monkeypatch, tmp_path, code)
    with pytest.raises(CrystalformersError, match=message):
        screened(table, tmp_path / "r", weights, resources=Resources(workers=2))


def test_processes_end_with_their_parent(weights: Path, table: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """However it ends, and silently; the results are then free for the next run."""
    broken(
        monkeypatch, tmp_path, f"open(r'{tmp_path}/' + str(os.getpid()) + '.pid', 'w'); import time; time.sleep(0.3)"
    )
    command = [sys.executable, "-c", "from crystalformers.cli import main; main()", "screen"]
    given = [str(table), "-o", str(tmp_path / "r"), "-m", str(weights), "--workers", "2", "--part-size", "1"]
    errors = tmp_path / "errors"
    with errors.open("w") as stderr, subprocess.Popen([*command, *given], stderr=stderr) as process:
        while len(list(tmp_path.glob("*.pid"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    deadline = time.monotonic() + 180  # the part in hand is finished, on a busy machine too
    while any(alive(int(path.stem)) for path in tmp_path.glob("*.pid")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "Error" not in errors.read_text()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_ends_its_processes_and_leaves_no_temporary_file(
    stop: signal.Signals, weights: Path, table: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    broken(
        monkeypatch, tmp_path, f"open(r'{tmp_path}/' + str(os.getpid()) + '.pid', 'w'); import time; time.sleep(0.3)"
    )
    reset = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{reset}; from crystalformers.cli import main; main()", "screen"]
    given = [str(table), "-o", str(tmp_path / "r"), "-m", str(weights), "--workers", "2", "--part-size", "1"]
    with subprocess.Popen([*command, *given], stderr=subprocess.PIPE, text=True) as process:
        while len(list(tmp_path.glob("r/done/*.json"))) < 2:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(stop)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + stop
    assert "Traceback" not in stderr
    assert not any(alive(int(path.stem)) for path in tmp_path.glob("*.pid"))
    assert not list((tmp_path / "r").rglob(".*"))


def test_a_process_that_is_terminated_within_a_finaliser_ends_too(
    weights: Path, table: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    late = "time.sleep(0.01)"  # Python drops the exception of the handler
    finaliser = f"lambda self: (os.kill(os.getpid(), signal.SIGTERM), {late})"
    broken(monkeypatch, tmp_path, f"import time; type('Last', (), {{'__del__': {finaliser}}})(); time.sleep(60)")
    with pytest.raises(CrystalformersError, match=f"ended with exit code {128 + signal.SIGTERM}"):
        screened(table, tmp_path / "r", weights, resources=Resources(workers=2))


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


# Slurm


@pytest.mark.slow
def test_an_array_of_jobs_gives_the_same_rows(
    weights: Path, table: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    pytest.importorskip("submitit", reason="NOT TESTED: submitit is not installed")
    resources = Resources("slurm", 2, {"cluster": "local", "timeout_min": "5"})
    screened(table, tmp_path / "r", weights, resources=resources)
    assert rows_in(tmp_path / "r") == whole
    assert list((tmp_path / "r" / "slurm").iterdir())


@pytest.mark.slow
def test_a_lost_job_is_told_and_the_run_goes_on(
    weights: Path, table: Path, whole: list[dict[str, Any]], tmp_path: Path, monkeypatch: Any
) -> None:
    pytest.importorskip("submitit", reason="NOT TESTED: submitit is not installed")
    resources = Resources("slurm", 2, {"cluster": "local", "timeout_min": "5"})
    with monkeypatch.context() as context:
        broken(context, tmp_path, "if index == 4: os.kill(os.getppid(), 9)")
        with pytest.raises(ConfigError, match=r"1 of 2 jobs failed .*repeat the command"):
            screened(table, tmp_path / "r", weights, resources=resources)
    assert {row["name"] for row in rows_in(tmp_path / "r")} >= {row["name"] for row in whole if row["row"] // 3 % 2}
    assert len(list((tmp_path / "r" / "done").glob("*.json"))) < 8
    screened(table, tmp_path / "r", weights, resources=resources)
    assert rows_in(tmp_path / "r") == whole


# Ray


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A cluster of two workers with a core each, beside a head that runs nothing."""
    pytest.importorskip("ray", reason="NOT TESTED: Ray is not installed")
    import ray
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    made.workers = [made.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=made.address, log_to_driver=False, ignore_reinit_error=True)
    yield made
    ray.shutdown()
    made.shutdown()


def test_tasks_of_ray_survive_a_lost_worker(
    cluster: Any, weights: Path, table: Path, whole: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "r"

    def lose_a_worker() -> None:
        while len(list((folder / "done").glob("*.json"))) < 2:
            time.sleep(0.01)
        cluster.remove_node(cluster.workers[0], allow_graceful=False)

    thread = threading.Thread(target=lose_a_worker)
    thread.start()
    screened(table, folder, weights, resources=Resources("ray"))
    thread.join()
    assert rows_in(folder) == whole
    assert len(cluster.list_all_nodes()) == 2


def test_an_option_that_an_engine_does_not_have(weights: Path, table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the engine local has no option address"):
        screened(table, tmp_path / "r", weights, resources=Resources("local", 2, {"address": "auto"}))


@pytest.mark.parametrize(("engine", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_package_is_named(
    engine: str, package: str, weights: Path, table: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"needs the package {package}; pip install 'crystalformers\[{engine}\]'"):
        screened(table, tmp_path / "r", weights, resources=Resources(engine, 2))
