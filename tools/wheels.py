"""Build the source distribution and a wheel for every platform, on one Linux machine; then look into each of them.

    pip install build lief ziglang
    python tools/wheels.py [--output dist] [--platform NAME ...]

Each wheel is made from the unpacked source distribution, so that nothing can be missing from that. The C library is
compiled by zig; its functions, processor, oldest system and the libraries that it asks for are read from its file.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import lief

ROOT = Path(__file__).parents[1]

PLATFORMS = {
    "manylinux_2_17_x86_64": ("X86_64", {"libc.so.6", "libm.so.6"}),
    "manylinux_2_17_aarch64": ("AARCH64", {"libc.so.6", "libm.so.6"}),
    "macosx_11_0_arm64": ("ARM64", {"/usr/lib/libSystem.B.dylib"}),
    "macosx_11_0_x86_64": ("X86_64", {"/usr/lib/libSystem.B.dylib"}),
    "win_amd64": ("AMD64", {"KERNEL32.dll"}),
}
"""The processor that each platform of setup.py has, and the libraries that may be asked for; on Windows also those of
the C runtime, `api-ms-win-crt-*.dll`."""

FUNCTION = re.compile(r"^(?:int|const TableEntry) (\w+)[(\[]", re.MULTILINE)
"""A function or table that a C file exports."""


def exported() -> set[str]:
    """What Python asks of the library, by the C files."""
    sources = (ROOT / "crystalformers" / "csrc").glob("*.c")
    return {name for path in sources for name in FUNCTION.findall(path.read_text(encoding="utf-8"))}


def build(what: str, source: Path, output: Path, platform: str | None = None) -> Path:
    """Build a `sdist` or `wheel` of a source tree and return its file."""
    before = set(output.glob("*"))
    environment = os.environ if platform is None else {**os.environ, "CRYSTALFORMERS_PLATFORM": platform}
    command = [sys.executable, "-m", "build", "--no-isolation", f"--{what}", "--outdir", str(output), str(source)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    made = set(output.glob("*")) - before
    if done.returncode or len(made) != 1:
        raise SystemExit(f"{' '.join(command)} failed for {platform}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return made.pop()


def described(library: Path) -> tuple[str, str, set[str], set[str]]:
    """Processor, oldest system, libraries asked for, and symbols exported."""
    binary = lief.parse(str(library))
    if isinstance(binary, lief.ELF.Binary):
        versions = {v.name for need in binary.symbols_version_requirement for v in need.get_auxiliary_symbols()}
        newest = max(versions, key=lambda name: [int(part) for part in name.removeprefix("GLIBC_").split(".")])
        names = {symbol.name for symbol in binary.exported_symbols}
        return binary.header.machine_type.name, newest, set(binary.libraries), {str(name) for name in names}
    if isinstance(binary, lief.MachO.Binary):
        assert binary.build_version is not None
        oldest = ".".join(map(str, binary.build_version.minos[:2]))
        names = {str(symbol.name).removeprefix("_") for symbol in binary.exported_symbols}
        asked = {lib.name for lib in binary.libraries if lib.command != lief.MachO.LoadCommand.TYPE.ID_DYLIB}
        return binary.header.cpu_type.name, f"macOS {oldest}", {str(name) for name in asked}, names
    if isinstance(binary, lief.PE.Binary):
        optional = binary.optional_header
        oldest = f"Windows {optional.major_subsystem_version}.{optional.minor_subsystem_version}"
        export = binary.get_export()
        names = {str(entry.name) for entry in export.entries} if export is not None else set()
        return binary.header.machine.name, oldest, {str(lib.name) for lib in binary.imports}, names
    raise SystemExit(f"{library.name} is no library.")


def inspect(wheel: Path, platform: str) -> None:
    """Print what a wheel holds; leave with an error if that is not what it must hold."""
    processor, allowed = PLATFORMS[platform]
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = archive.namelist()
        libraries = [name for name in names if "_kernels_" in name]
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, {len(names)} files")
        wanted = 3 if "x86_64" in platform or "amd64" in platform else 1
        problems = [] if len(libraries) == wanted else [f"{len(libraries)} libraries instead of {wanted}"]
        problems += [f"no {name}" for name in ("py.typed",) if f"crystalformers/{name}" not in names]
        for name in libraries:
            found, oldest, asked, symbols = described(Path(archive.extract(name, folder)))
            asked = {library for library in asked if not library.startswith("api-ms-win-crt-")}
            print(f"    {Path(name).name}: {found}, {oldest}, asks for {', '.join(sorted(asked)) or 'nothing'}")
            if found != processor:
                problems.append(f"{name} is for {found}")
            if missing := exported() - symbols:
                problems.append(f"{name} lacks {', '.join(sorted(missing))}")
            if asked - allowed:
                problems.append(f"{name} asks for {', '.join(sorted(asked - allowed))}")
    if problems:
        raise SystemExit(f"{wheel.name}: {'; '.join(problems)}.")


def main() -> None:
    """Build and inspect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "dist")
    parser.add_argument("--platform", choices=PLATFORMS, action="append", help="repeatable; default: all")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for old in given.output.glob("crystalformers-*"):
        old.unlink()
    source = build("sdist", ROOT, given.output)
    print(f"{source.name}: {source.stat().st_size / 1e6:.2f} MB")
    for platform in given.platform or PLATFORMS:
        with tempfile.TemporaryDirectory() as folder, tarfile.open(source) as archive:
            archive.extractall(folder, filter="data")
            (tree,) = Path(folder).iterdir()
            inspect(build("wheel", tree, given.output, platform), platform)


if __name__ == "__main__":
    main()
