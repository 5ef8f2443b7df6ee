"""The compiled part: a C library without any Python in it, loaded through ctypes, built once per instruction set.

A wheel of it therefore serves every Python of a platform. It is compiled by the C compiler of the machine, or by zig
(the package `ziglang`) for the platform that the environment variable CRYSTALFORMERS_PLATFORM names, one of PLATFORMS.
"""

import os
import platform
import sys
from pathlib import Path
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = ("attention", "images", "threads")
HEADERS = ("cosines", "frames", "heads", "image_search", "table")
FLAGS = "-O3 -std=c11 -ffp-contract=fast -fno-math-errno -fno-trapping-math".split()
X86 = {"avx2": ["-mavx2", "-mfma"], "avx512": ["-mavx2", "-mfma", "-mavx512f", "-mavx512vl"]}


class Platform(NamedTuple):
    """A platform that zig compiles for."""

    triple: str
    suffix: str

    @property
    def instruction_sets(self) -> dict[str, list[str]]:
        """Compiler flags of each instruction set that the library is built for."""
        return {"default": [], **(X86 if self.triple.startswith("x86_64") else {})}


PLATFORMS = {
    "manylinux_2_17_x86_64": Platform("x86_64-linux-gnu.2.17", ".so"),
    "manylinux_2_17_aarch64": Platform("aarch64-linux-gnu.2.17", ".so"),
    "macosx_11_0_arm64": Platform("aarch64-macos.11.0", ".dylib"),
    "macosx_11_0_x86_64": Platform("x86_64-macos.11.0", ".dylib"),
    "win_amd64": Platform("x86_64-windows-gnu", ".dll"),
}
"""By the names that wheels have for them."""


def this_machine() -> Platform:
    """The platform that runs this; on Windows zig compiles, whose compiler knows GCC's vectors."""
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    system, suffix = {"win32": ("windows-gnu", ".dll"), "darwin": ("macos", ".dylib")}.get(sys.platform, ("", ".so"))
    return Platform(f"{machine}-{system}", suffix)


WANTED = os.environ.get("CRYSTALFORMERS_PLATFORM")
if WANTED is not None and WANTED not in PLATFORMS:
    raise SystemExit(f"CRYSTALFORMERS_PLATFORM={WANTED} is not one of {', '.join(PLATFORMS)}.")
TARGET = this_machine() if WANTED is None else PLATFORMS[WANTED]


class BuildLibrary(build_ext):
    """Builds libraries that are no Python modules: without its name in theirs, and without its entry point."""

    def get_ext_filename(self, fullname: str) -> str:
        """Where a library goes."""
        return str(Path(*fullname.split("."))) + TARGET.suffix

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """None but those that C exports anyway."""
        return []

    def build_extension(self, ext: Extension) -> None:
        """Compile and link."""
        if WANTED is None and sys.platform != "win32":
            super().build_extension(ext)
            return
        library = Path(self.get_ext_fullpath(ext.name))
        library.parent.mkdir(parents=True, exist_ok=True)
        zig = [sys.executable, "-m", "ziglang", "cc", "-target", TARGET.triple, "-shared", "-fPIC", "-g0", "-s"]
        self.spawn([*zig, *ext.extra_compile_args, *ext.sources, "-o", str(library)])
        for extra in (library.with_suffix(".pdb"), library.with_suffix(".lib")):  # beside a DLL
            extra.unlink(missing_ok=True)


class Wheel(bdist_wheel):
    """A wheel for every Python 3 of one platform."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, its binary interface, and the platform."""
        return "py3", "none", WANTED or super().get_tag()[2]


setup(
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": Wheel},
    ext_modules=[
        Extension(
            f"crystalformers.csrc._kernels_{name}",
            [f"crystalformers/csrc/{source}.c" for source in SOURCES],
            depends=[f"crystalformers/csrc/{header}.h" for header in HEADERS],
            extra_compile_args=[*FLAGS, *flags],
            # Without a compiler the installation succeeds, and plain PyTorch does the work; a wheel for another
            # platform must hold what it promises.
            optional=WANTED is None,
        )
        for name, flags in TARGET.instruction_sets.items()
    ],
)
