"""The compiled library: every instruction set the processor has, threads, other processes, and repeats bit for bit."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from strategies import random_crystals
from torch import Tensor

from crystalformers.attention.backends.cpu.cosines import READ_AHEAD
from crystalformers.attention.backends.cpu.images import LANES, WINDOW_LANES, CKernelInput
from crystalformers.attention.frames import local
from crystalformers.csrc import kernels, openmp
from crystalformers.csrc.kernels import INSTRUCTION_SETS, VARIABLE, in_parallel, instruction_sets, library
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, Images, with_images
from crystalformers.images.batch import ONE_SPOT
from crystalformers.images.enumeration import CBinnedAtoms, CImageLists
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig

REPEATS = 250
needs_library = pytest.mark.skipif(library() is None, reason="NOT TESTED: the compiled kernels are not installed")


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def model_and_batch(frame: str | None, crystals: int = 3) -> tuple[Crystalformer, CrystalBatch]:
    torch.manual_seed(0)
    config = CrystalformerConfig(blocks=1, dim=16, heads=2, feedforward=16, frame=frame)  # type: ignore[arg-type]
    model = Crystalformer(config)
    model.backend = "cpu"
    batch = with_images(CrystalBatch.from_crystals(random_crystals(crystals)), 5.0, directions=frame is not None)
    return model, batch.to(torch.float32)


def step(model: Crystalformer, batch: CrystalBatch) -> list[Tensor]:
    """Predictions and all gradients."""
    predicted = model(batch)
    return [predicted.detach(), *torch.autograd.grad(predicted.sum(), list(model.parameters()))]


# --- instruction sets ---


CONSTANTS = {"LANES": LANES, "WINDOW_LANES": WINDOW_LANES} | {
    name: getattr(local, name) for name in ("COLLINEAR", "PENALTY_FLOOR", "EXACTLY_COLLINEAR")
}
CONSTANTS["ONE_SPOT"] = ONE_SPOT
STRUCTURES = (CKernelInput, CBinnedAtoms, CImageLists)


@needs_library
@pytest.mark.parametrize("name", instruction_sets())
def test_python_and_c_agree_on_constants_and_structures(name: str) -> None:
    table = kernels.table(kernels.load(name))
    assert table.pop("BLOCK") <= READ_AHEAD
    for constant, value in CONSTANTS.items():
        assert np.float32(table.pop(constant)) == np.float32(value), constant
    for structure in STRUCTURES:
        kernels.check_layout(kernels.load(name), structure)
    assert {key.partition(".")[0] for key in table} == {structure.__name__[1:] for structure in STRUCTURES}


class CImageListsOfAnotherVersion(ctypes.Structure):
    _fields_ = (*CImageLists._fields_[1:], CImageLists._fields_[0])


@needs_library
def test_a_library_built_from_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = library()
    assert loaded is not None
    CImageListsOfAnotherVersion.__name__ = "CImageLists"
    with pytest.raises(ConfigError, match=r"_kernels_.*built from other sources .*ImageLists.*; reinstall"):
        kernels.check_layout(loaded, CImageListsOfAnotherVersion)
    monkeypatch.setattr(kernels, "TABLES", ("no_table",))
    kernels.check_layout.cache_clear()
    with pytest.raises(ConfigError, match="built from other sources"):
        images()
    kernels.check_layout.cache_clear()


@needs_library
@pytest.mark.parametrize("frame", [None, "max"])
def test_all_instruction_sets_agree(frame: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    names = instruction_sets()
    print("instruction sets of this processor:", names)
    results: list[tuple[Images, list[Tensor]]] = []
    for name in names:
        loaded = kernels.load(name)
        monkeypatch.setattr(kernels, "library", lambda loaded=loaded: loaded)
        model, batch = model_and_batch(frame)
        assert batch.images is not None
        results.append((batch.images, step(model, batch)))
    first_images, first = results[0]
    for name, (images, tensors) in zip(names, results, strict=True):
        for field in ("distance", "pair", "ptr", "pair_target", "pair_source"):
            assert torch.equal(getattr(images, field), getattr(first_images, field)), (name, field)
        for expected, found in zip(first, tensors, strict=True):
            assert (found - expected).abs().max() <= 2e-5 * expected.abs().max() + 1e-7, name


def test_a_processor_without_the_best_takes_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library_file", Path)
    for capability, expected in (("AVX512", INSTRUCTION_SETS), ("AVX2", INSTRUCTION_SETS[1:]), ("NEON", ("default",))):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda capability=capability: capability)
        assert instruction_sets() == list(expected)
    monkeypatch.setattr(kernels, "library_file", lambda name: Path(name) if name == "default" else None)
    assert instruction_sets() == ["default"]


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "none")
    assert library.__wrapped__() is None
    for name in instruction_sets():
        monkeypatch.setenv(VARIABLE, name)
        assert library.__wrapped__() is kernels.load(name)
    monkeypatch.setenv(VARIABLE, "sse9")
    with pytest.raises(ConfigError, match="CRYSTALFORMERS_KERNELS=sse9: not among the kernels usable here"):
        library.__wrapped__()


# --- threads and processes ---


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_as_many_threads_work_as_pytorch_is_told(threads: int) -> None:
    torch.set_num_threads(threads)
    seen: dict[int, list[tuple[int, int]]] = {}
    together = threading.Barrier(threads)

    def work(first: int, last: int) -> None:
        if threading.get_ident() not in seen:
            seen[threading.get_ident()] = []
            together.wait(timeout=30)
        seen[threading.get_ident()].append((first, last))

    in_parallel(work, torch.arange(0, 1001, 10))
    assert len(seen) == threads
    rows = sorted(row for chunks in seen.values() for first, last in chunks for row in range(first, last))
    assert rows == list(range(100)), "every row once"


def test_an_error_in_any_thread_is_raised() -> None:
    torch.set_num_threads(2)

    def fail(first: int, last: int) -> None:
        if last == 100:
            raise MemoryError("out of memory in the last chunk")

    with pytest.raises(MemoryError, match="last chunk"):
        in_parallel(fail, torch.arange(101))


def images() -> Images:
    found = with_images(CrystalBatch.from_crystals(random_crystals(40)), 6.0).images
    assert found is not None
    return found


@needs_library
def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(3)
    by_team = images()
    monkeypatch.setattr(openmp, "team", lambda: None)
    by_pool = images()
    torch.set_num_threads(1)
    by_one = images()
    for found in (by_team, by_pool):
        assert torch.equal(found.distance, by_one.distance)
        assert torch.equal(found.pair, by_one.pair)


@needs_library
def test_the_team_is_that_of_pytorch() -> None:
    if not torch.backends.openmp.is_available():
        pytest.skip("NOT TESTED: PyTorch was built without OpenMP")
    assert openmp.team() is not None


SPIN = """
import os, sys, time
{imports}
import torch
from crystalformers.csrc import kernels, openmp
torch.set_num_threads(2)
if {ours}:
    assert openmp.team() is not None
x = torch.ones(1 << 20)
for _ in range(10):
    x.add_(1)
used = time.process_time()
for _ in range(20):
    x.add_(1)
    time.sleep(0.02)  # the other thread has nothing to do
print((time.process_time() - used) / 20)
"""


def seconds_per_operation(imports: str, ours: bool = True) -> float:
    """Processor time that an operation on two threads takes, with what its idle thread spins, in a new process."""
    environment = {name: value for name, value in os.environ.items() if name not in openmp.VARIABLES}
    command = [sys.executable, "-c", SPIN.format(imports=imports, ours=ours)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return float(done.stdout)


@needs_library
def test_idle_threads_sleep_soon_whichever_is_imported_first() -> None:
    found = openmp.loaded()
    if found is None or "libgomp" not in found._name or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("NOT TESTED: not GCC's OpenMP, or a single core")
    spinning = seconds_per_operation("import torch", ours=False)
    ours_first, torch_first = seconds_per_operation("import crystalformers"), seconds_per_operation("import torch")
    print(f"ms per operation: {1e3 * spinning:.2f} spinning, {1e3 * ours_first:.2f} and {1e3 * torch_first:.2f} here")
    assert max(ours_first, torch_first) < spinning / 2


@pytest.mark.parametrize("variable", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_the_user_says_about_waiting_stays(variable: str) -> None:
    code = "import os, crystalformers; print({name: os.environ.get(name) for name in sys.argv[1:]})"
    given = {"GOMP_SPINCOUNT": "77", "OMP_WAIT_POLICY": "active"}[variable]
    environment = {name: value for name, value in os.environ.items() if name not in openmp.VARIABLES}
    command = [sys.executable, "-c", f"import sys, {code.removeprefix('import ')}", *openmp.VARIABLES]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env={**environment, variable: given}
    )
    assert eval(done.stdout) == {**dict.fromkeys(openmp.VARIABLES), variable: given}


class NothingShared(ctypes.Structure):
    _fields_ = ()


class Failing(kernels.BoundKernel):
    """Calls back into Python instead of C; the second of its chunks fails."""

    def __init__(self, failing: int) -> None:
        self.rows: list[tuple[int, int]] = []

        def rows(first: int, last: int, *_: object) -> int:
            self.rows.append((first, last))
            return 1 if first <= failing < last else 0

        signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
        self.name, self.shared, self.arrays = "rows", NothingShared(), None
        self.function = signature(rows)


@needs_library
@pytest.mark.parametrize("team", [True, False])
def test_every_row_is_handled_once_and_a_failure_is_raised(monkeypatch: pytest.MonkeyPatch, team: bool) -> None:
    torch.set_num_threads(3)
    if not team:
        monkeypatch.setattr(kernels, "LOADING_PROCESS", os.getpid() + 1)
    ptr = torch.arange(101)
    work = Failing(-1)
    kernels.in_parallel(work, ptr)
    bounds = sorted(work.rows)
    assert bounds[0][0] == 0
    assert bounds[-1][1] == 100
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    assert len(bounds) == 3 * kernels.CHUNKS_PER_THREAD
    with pytest.raises(MemoryError, match="rows failed with status 1"):
        kernels.in_parallel(Failing(50), ptr)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="NOT TESTED: the system does not fork")
@pytest.mark.parametrize("task", ["fork", "spawn", "loader-fork", "one-core"])
def test_other_processes_compute_the_same_and_none_hangs(task: str) -> None:
    if task == "one-core" and not hasattr(os, "sched_setaffinity"):
        pytest.skip("NOT TESTED: the system does not bind processes to cores")
    command = [sys.executable, str(Path(__file__).parents[1] / "workers.py"), task]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.stdout == "done\n", done.stderr


# --- repeats ---


@needs_library
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("frame", [None, "max"])
def test_repeats_are_the_same_bits(frame: str | None, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernels alone get the threads: those of PyTorch's own operations would wait for each other longer.
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model, batch = model_and_batch(frame, crystals=2)
    first = step(model, batch)
    for _ in range(REPEATS):
        assert all(torch.equal(a, b) for a, b in zip(first, step(model, batch), strict=True))
