"""The compiled library: where it is, whether it fits this code, and how to call it from many threads.

A forked process begins with one thread, as PyTorch's loader processes do; a spawned one may use as many as any.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import count, pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crystalformers.csrc import openmp
from crystalformers.errors import ConfigError

CHUNKS_PER_THREAD = 4
"""More chunks than threads, so that one slow chunk does not hold up the rest."""

INSTRUCTION_SETS = ("avx512", "avx2", "default")
"""What the library is built for, the fastest first; each processor runs its own and all that follow."""

SUFFIX = {"win32": ".dll", "darwin": ".dylib"}.get(sys.platform, ".so")
"""How the names of libraries end here, as setup.py has it."""

TABLES = ("attention_table", "images_table")
"""Tables in the library of the numbers that C and Python must agree on; see table.h."""

LOADING_PROCESS = os.getpid()
"""The process that loaded this module; OpenMP's threads do not follow into a fork."""

NOT_INSTALLED = "needs the compiled kernels; reinstall with a C compiler"
"""Why a backend cannot compute anything without the library."""

VARIABLE = "CRYSTALFORMERS_KERNELS"
"""Environment variable that names an instruction set instead of the fastest, or `none` for plain PyTorch."""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The kernels for this processor, or None where the installation had no compiler or they are switched off.

    Raises:
        ConfigError: if the environment asks for kernels that are not there.
    """
    usable, wanted = instruction_sets(), os.environ.get(VARIABLE)
    if switched_off() or (not wanted and not usable):
        return None
    if wanted and wanted not in usable:
        raise ConfigError(f"{VARIABLE}={wanted}: not among the kernels usable here ({', '.join([*usable, 'none'])}).")
    return load(wanted or usable[0])


def switched_off() -> bool:
    """Whether the environment asks for plain PyTorch."""
    return os.environ.get(VARIABLE) == "none"


def instruction_sets() -> list[str]:
    """The instruction sets that are installed and that this processor has, the fastest first."""
    best = torch.backends.cpu.get_cpu_capability().lower()
    runnable = INSTRUCTION_SETS[INSTRUCTION_SETS.index(best if best in INSTRUCTION_SETS else "default") :]
    return [name for name in runnable if library_file(name) is not None]


@lru_cache(maxsize=len(INSTRUCTION_SETS))
def load(instruction_set: str) -> ctypes.CDLL:
    """The kernels for one of `instruction_sets()`."""
    return ctypes.CDLL(str(library_file(instruction_set)))


def library_file(instruction_set: str) -> Path | None:
    """The file of the kernels for an instruction set, if it is installed."""
    path = Path(__file__).with_name(f"_kernels_{instruction_set}{SUFFIX}")
    return path if path.is_file() else None


class TableEntry(ctypes.Structure):
    """`TableEntry` of table.h."""

    _fields_ = (("name", ctypes.c_char_p), ("value", ctypes.c_double))


def table(loaded: ctypes.CDLL) -> dict[str, float]:
    """Constants, sizes of structures in bytes and offsets of their fields (`KernelInput.ptr`) in a library, by name.

    Raises:
        ValueError: if the library has no such table.
    """
    return {entry.name.decode(): entry.value for name in TABLES for entry in _entries(loaded, name)}


def _entries(loaded: ctypes.CDLL, name: str) -> Iterator[TableEntry]:
    first = ctypes.pointer(TableEntry.in_dll(loaded, name))
    for number in count():
        if first[number].name is None:
            return
        yield first[number]


@lru_cache(maxsize=16)
def check_layout(loaded: ctypes.CDLL, structure: type[ctypes.Structure]) -> None:
    """Compare a structure with that of the library, whose name is the same without the leading C.

    Raises:
        ConfigError: if they differ, because the library was built from other sources.
    """
    name = structure.__name__.removeprefix("C")
    fields = {f"{name}.{field[0]}": getattr(structure, field[0]).offset for field in structure._fields_}
    expected = {name: ctypes.sizeof(structure), **fields}
    try:
        compiled = table(loaded)
    except ValueError:
        compiled = {}
    found = {key: value for key, value in compiled.items() if key.partition(".")[0] == name}
    if found != expected:
        raise ConfigError(
            f"the compiled kernels were built from other sources than this code ({name} differs)",
            where=loaded._name,
            remedy="reinstall crystalformers",
        )


class BoundKernel:
    """A function of the compiled library with all its arguments but the rows.

    Tensors must be contiguous, of the types that the C function declares, and on the CPU.
    """

    def __init__(self, name: str, shared: ctypes.Structure, *arguments: Tensor | ctypes.Structure | None) -> None:
        loaded = library()
        if loaded is None:
            raise ConfigError(f"The kernel {name} is not installed", remedy="reinstall with a C compiler")
        for structure in (shared, *arguments):
            if isinstance(structure, ctypes.Structure):
                check_layout(loaded, type(structure))
        self.name, self.shared, self.arguments = name, shared, arguments
        self.function = getattr(loaded, name)
        self.arrays = (ctypes.c_void_p * len(arguments))(*map(_address, arguments))

    def __call__(self, first: int, last: int) -> None:
        """Handle rows `first` to `last` - 1."""
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


def in_parallel(kernel: Callable[[int, int], None], ptr: Tensor) -> None:
    """Call `kernel(first, last)` over all rows on `torch.get_num_threads()` threads, in chunks of about equal cost.

    The calling thread is one of them; the others are PyTorch's own for a `BoundKernel`, where they can be had, else a
    pool.

    Args:
        kernel: handles rows `first` to `last` - 1; several run at the same time while inside the compiled library.
        ptr: running total of the cost of the rows, shape (rows + 1,).
    """
    threads, rows = torch.get_num_threads(), len(ptr) - 1
    if threads == 1 or rows == 1:
        kernel(0, rows)
        return
    cost, chunks = ptr.numpy(), threads * CHUNKS_PER_THREAD  # NumPy: a quarter of PyTorch's time for so few numbers
    bounds = sorted({0, rows, *cost.searchsorted(cost[-1] * np.arange(1, chunks) // chunks).tolist()} - {rows + 1})
    team = openmp.team() if isinstance(kernel, BoundKernel) and os.getpid() == LOADING_PROCESS else None
    if team is None:
        _by_pool(kernel, bounds, threads)
    else:
        assert isinstance(kernel, BoundKernel)
        kernel.by_team(team, threads, bounds)


def _by_pool(kernel: Callable[[int, int], None], bounds: Sequence[int], threads: int) -> None:
    chunks = deque(pairwise(bounds))

    def take() -> None:
        while chunks:
            try:
                chunk = chunks.popleft()
            except IndexError:  # another thread was faster
                return
            kernel(*chunk)

    others = [_pool(os.getpid(), threads - 1).submit(take) for _ in range(threads - 1)]
    try:
        take()
    finally:
        for other in others:
            other.result()


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """One pool per process (a fork must not use its parent's threads) and number of threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="crystalformers")


def _after_fork() -> None:
    # PyTorch's own threads do not survive a fork, and its next parallel operation would wait for them for ever.
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
