"""The compiled library: where it is, and how to call it from many threads.

A forked process begins with one thread, as PyTorch's loader processes do; a spawned one may use as many as any.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from crystalformers.errors import ConfigError

CHUNKS_PER_THREAD = 4
"""More chunks than threads, so that one slow chunk does not hold up the rest."""

INSTRUCTION_SETS = ("avx512", "avx2", "default")
"""What the library is built for, the fastest first; each processor runs its own and all that follow."""

OPENMP = ("libgomp", "libomp", "libiomp5")
"""OpenMP of GCC, LLVM and Intel; all export GOMP_parallel."""

HOME = os.getpid()
"""The process that loaded this module; OpenMP's threads do not follow into a fork."""

VARIABLE = "CRYSTALFORMERS_KERNELS"
"""Environment variable that names one of them instead of the fastest, or `none` for plain PyTorch."""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The kernels for this processor, or None where the installation had no compiler.

    Raises:
        ConfigError: if the environment asks for kernels that are not there.
    """
    usable, wanted = instruction_sets(), os.environ.get(VARIABLE)
    if wanted == "none" or (not wanted and not usable):
        return None
    if wanted and wanted not in usable:
        raise ConfigError(f"{VARIABLE}={wanted}: not among the kernels usable here ({', '.join([*usable, 'none'])}).")
    return load(wanted or usable[0])


def instruction_sets() -> list[str]:
    """The instruction sets that are installed and that this processor has, the fastest first."""
    best = torch.backends.cpu.get_cpu_capability().lower()
    runnable = INSTRUCTION_SETS[INSTRUCTION_SETS.index(best if best in INSTRUCTION_SETS else "default") :]
    return [name for name in runnable if _file(name) is not None]


@lru_cache(maxsize=len(INSTRUCTION_SETS))
def load(instruction_set: str) -> ctypes.CDLL:
    """The kernels for one of `instruction_sets()`."""
    return ctypes.CDLL(str(_file(instruction_set)))


def _file(instruction_set: str) -> Path | None:
    paths = (Path(__file__).with_name(f"_kernels_{instruction_set}{suffix}") for suffix in EXTENSION_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


class Work:
    """A function of the compiled library, with all that it works on but the rows.

    Tensors must be contiguous, of the types that the C function declares, and on the CPU.
    """

    def __init__(self, name: str, shared: ctypes.Structure, *arguments: Tensor | ctypes.Structure | None) -> None:
        self.name, self.shared, self.arguments = name, shared, arguments
        self.function = getattr(library(), name)
        self.arrays = (ctypes.c_void_p * len(arguments))(*map(_address, arguments))

    def __call__(self, first: int, last: int) -> None:
        """Handle rows `first` to `last`."""
        arguments = (ctypes.c_int64(first), ctypes.c_int64(last), ctypes.byref(self.shared), self.arrays)
        self.check(self.function(*arguments))

    def by_team(self, team: ctypes.c_void_p, threads: int, bounds: Sequence[int]) -> None:
        """Handle the chunks of rows between successive bounds on the threads of PyTorch."""
        chunks = (ctypes.c_int64 * len(bounds))(*bounds)
        arguments = (self.function, ctypes.byref(self.shared), self.arrays, chunks, ctypes.c_int64(len(bounds) - 1))
        run_team = getattr(library(), "run_team")  # noqa: B009 - the type of a library that may be absent
        self.check(run_team(team, ctypes.c_int64(threads), *arguments))

    def check(self, status: int) -> None:
        """Raise what a status other than 0 means."""
        if status:
            raise MemoryError(f"{self.name} failed with status {status} (1: out of memory); use smaller batches.")


def _address(argument: Tensor | ctypes.Structure | None) -> int | None:
    if isinstance(argument, ctypes.Structure):
        return ctypes.addressof(argument)
    return None if argument is None else argument.data_ptr()


def in_parallel(work: Callable[[int, int], None], ptr: Tensor) -> None:
    """Call `work(first, last)` over all rows on `torch.get_num_threads()` threads, in chunks of about equal cost.

    The calling thread is one of them; the others are PyTorch's own for a `Work`, where they can be had, else a pool.

    Args:
        work: handles rows `first` to `last`; runs beside others while it is inside the compiled library.
        ptr: running total of the cost of the rows, shape (rows + 1,).
    """
    threads, rows = torch.get_num_threads(), len(ptr) - 1
    if threads == 1 or rows == 1:
        work(0, rows)
        return
    costs = torch.linspace(0, float(ptr[-1]), threads * CHUNKS_PER_THREAD + 1)[1:-1].to(ptr.dtype)
    bounds = sorted({0, rows, *torch.searchsorted(ptr, costs).tolist()} - {rows + 1})
    team = _team() if isinstance(work, Work) and os.getpid() == HOME else None
    if team is None:
        _by_pool(work, bounds, threads)
    else:
        assert isinstance(work, Work)
        work.by_team(team, threads, bounds)


def _by_pool(work: Callable[[int, int], None], bounds: Sequence[int], threads: int) -> None:
    chunks = deque(pairwise(bounds))

    def take() -> None:
        while chunks:
            try:
                chunk = chunks.popleft()
            except IndexError:  # another thread was faster
                return
            work(*chunk)

    others = [_pool(os.getpid(), threads - 1).submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        for other in others:
            other.result()


@lru_cache(maxsize=1)
def _team() -> ctypes.c_void_p | None:
    """GOMP_parallel of the one OpenMP library that PyTorch brought, or None where it cannot be told which that is.

    Two teams would fight: idle threads of OpenMP spin for milliseconds, on the cores that ours then wait for.
    """
    package = Path(torch.__file__).parent
    folders = (package / "lib", package.parent / "torch.libs")
    found = [path for folder in folders for name in OPENMP for path in folder.glob(f"{name}*.so*")]
    if not torch.backends.openmp.is_available() or len(found) != 1:
        return None
    return ctypes.cast(ctypes.CDLL(str(found[0])).GOMP_parallel, ctypes.c_void_p)


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """One pool per process (a fork must not use its parent's threads) and number of threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="crystalformers")


def _after_fork() -> None:
    # PyTorch's own threads do not survive a fork, and its next parallel operation would wait for them for ever.
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
