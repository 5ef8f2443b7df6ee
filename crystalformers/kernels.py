"""The compiled library: where it is, and how to call it from many threads."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor

CHUNKS_PER_THREAD = 4
"""More chunks than threads, so that one slow chunk does not hold up the rest."""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The kernels for this processor's instruction set, or None where the installation had no compiler."""
    best = torch.backends.cpu.get_cpu_capability().lower()
    for instruction_set in dict.fromkeys([best, "default"]):
        for suffix in EXTENSION_SUFFIXES:
            path = Path(__file__).with_name(f"_kernels_{instruction_set}{suffix}")
            if path.is_file():
                return ctypes.CDLL(str(path))
    return None


def in_parallel(work: Callable[[int, int], None], ptr: Tensor) -> None:
    """Call `work(first, last)` over all rows on `torch.get_num_threads()` threads, in chunks of about equal cost.

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
    # `list` raises again what a thread raised.
    list(_pool(os.getpid(), threads).map(work, bounds[:-1], bounds[1:]))


def row_function(name: str, layout: ctypes.Structure, *tensors: Tensor | None) -> Callable[[int, int], None]:
    """The function `name` of the compiled library as a function of the rows it handles, for `in_parallel`.

    The tensors must be contiguous and of the types that the C function declares, and must outlive the call.
    """
    function = getattr(library(), name)
    pointers = [ctypes.c_void_p(None if t is None else t.data_ptr()) for t in tensors]

    def call(first: int, last: int) -> None:
        status = function(ctypes.c_int64(first), ctypes.c_int64(last), ctypes.byref(layout), *pointers)
        if status:
            raise MemoryError(f"{name} failed with status {status} (1: out of memory); use smaller batches.")

    return call


@lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """One pool per process (a fork must not use its parent's threads) and number of threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="crystalformers")
