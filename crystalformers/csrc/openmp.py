"""PyTorch's OpenMP: its team of threads, and how long its idle threads spin.

Idle threads of GCC's OpenMP spin for milliseconds before they sleep. On cores that other processes use too, they take
the time of the very threads they wait for: every operation of PyTorch on two threads then lasts milliseconds.
GOMP_SPINCOUNT shortens it. OpenMP reads it when it is loaded, so `import crystalformers` sets it unless PyTorch is
loaded already; then `shorten_spin` does what still can be done.
"""

from __future__ import annotations

import ctypes
import os
import threading
from functools import lru_cache
from pathlib import Path

import torch

LIBRARIES = ("libgomp", "libomp", "libiomp5")
"""OpenMP of GCC, LLVM and Intel; all export GOMP_parallel."""

VARIABLES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""Environment variables by which a user decides how idle threads wait."""

TEAM_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""What every thread of a team calls."""


@lru_cache(maxsize=1)
def loaded() -> ctypes.CDLL | None:
    """The one OpenMP library that PyTorch brought, or None where it is not clear which that is."""
    package = Path(torch.__file__).parent
    folders = (package / "lib", package.parent / "torch.libs")
    found = [path for folder in folders for name in LIBRARIES for path in folder.glob(f"{name}*.so*")]
    if not torch.backends.openmp.is_available() or len(found) != 1:
        return None
    return ctypes.CDLL(str(found[0]))


@lru_cache(maxsize=1)
def team() -> ctypes.c_void_p | None:
    """GOMP_parallel of that library, which runs a function on the threads that PyTorch already has.

    With two teams of threads, the idle ones of OpenMP would spin on the cores that ours wait for.
    """
    library = loaded()
    if library is None:
        return None
    if "libgomp" in library._name and not any(name in os.environ for name in VARIABLES):
        shorten_spin(library)
    return ctypes.cast(library.GOMP_parallel, ctypes.c_void_p)


def shorten_spin(library: ctypes.CDLL) -> None:
    """Let idle threads of GCC's OpenMP sleep soon, in a process where it was loaded without GOMP_SPINCOUNT.

    With more threads than cores it spins a hundred times instead of 300,000 times (see GOMP_SPINCOUNT in its manual).
    A second team, as large as there are cores, is started once and then sleeps as long as the process lives.
    """
    started = threading.Event()

    def hold() -> None:
        nothing = TEAM_FUNCTION(lambda _: None)
        cores = library.omp_get_num_procs()
        library.GOMP_parallel(nothing, None, ctypes.c_uint(cores), ctypes.c_uint(0))
        started.set()
        threading.Event().wait()  # the team belongs to this thread, and ends with it

    threading.Thread(target=hold, name="crystalformers-openmp", daemon=True).start()
    started.wait()
