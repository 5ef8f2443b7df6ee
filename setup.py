"""The compiled part: a C library without any Python in it, loaded through ctypes, built once per instruction set."""

import platform
import sys

from setuptools import Extension, setup

WINDOWS = sys.platform == "win32"
FLAGS = "-O3 -std=c11 -ffp-contract=fast -fno-math-errno -fno-trapping-math"
INSTRUCTION_SETS = {"default": []}
if platform.machine() in ("x86_64", "AMD64") and not WINDOWS:
    INSTRUCTION_SETS |= {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512vl"]}

setup(
    ext_modules=[
        Extension(
            f"crystalformers.csrc._kernels_{name}",
            [f"crystalformers/csrc/{source}.c" for source in ("attention", "images", "threads")],
            depends=[
                f"crystalformers/csrc/{name}.h" for name in ("cosines", "frames", "heads", "image_search", "table")
            ],
            extra_compile_args=[] if WINDOWS else FLAGS.split() + flags,
            # Without a compiler the installation succeeds, and plain PyTorch does the work.
            optional=True,
        )
        for name, flags in INSTRUCTION_SETS.items()
    ]
)
