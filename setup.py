"""The one compiled part, a C library without any Python in it, loaded through ctypes."""

import sys

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "crystalformers._kernels",
            ["crystalformers/attention/fused.c", "crystalformers/images.c"],
            extra_compile_args=[]
            if sys.platform == "win32"
            else ["-O3", "-std=c11", "-ffp-contract=fast", "-fno-math-errno"],
            # Without a compiler the installation succeeds, and plain PyTorch does the work.
            optional=True,
        )
    ],
)
