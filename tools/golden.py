"""Does the library of a wheel for another platform compute what the one installed here computes?

    python tools/golden.py dist/crystalformers-*-win_amd64.whl --run wine
    python tools/golden.py dist/crystalformers-*_aarch64.whl --run "qemu-aarch64 -L /usr/aarch64-linux-gnu"

Every call of a kernel while images are built and a Crystalformer and a CrystalFramer are trained for one step on the
example crystals is recorded with all memory it reads, and made again by `replay.c` with the other library in an
emulator. Each instruction set is compared with itself: how many orders of a series are summed depends on it. Images at
equal distances may come in another order, so the numbers in lists of images are compared as sets.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import os
import shlex
import struct
import subprocess
import sys
import tempfile
import unittest.mock
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from crystalformers.csrc import kernels
from crystalformers.images import CrystalBatch, with_images
from crystalformers.io import read_crystal
from crystalformers.models import build_model
from crystalformers.models.presets import preset

ROOT = Path(__file__).parents[1]
TRIPLES = {"win_amd64": "x86_64-windows-gnu", "aarch64": "aarch64-linux-gnu.2.17", "x86_64": "x86_64-linux-gnu.2.17"}
"""What `replay.c` is compiled for, by how the name of a wheel ends."""


@dataclass
class Call:
    """A call of a kernel: memory before and after."""

    name: str
    rows: tuple[int, int]
    before: list[bytes] = field(default_factory=list)
    after: list[bytes] = field(default_factory=list)
    types: list[torch.dtype | None] = field(default_factory=list)
    relocations: list[tuple[int, int, int]] = field(default_factory=list)
    arrays: list[int] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """In the format of `replay.c`; the shared structure is the first buffer."""
        numbers = (*self.rows, len(self.before), len(self.relocations), len(self.arrays), 0)
        parts = [self.name.encode().ljust(64, b"\0"), struct.pack("<6q", *numbers)]
        parts += [struct.pack("<q", len(data)) + data for data in self.before]
        parts += [struct.pack("<3q", *relocation) for relocation in self.relocations]
        path.write_bytes(b"".join(parts) + struct.pack(f"<{len(self.arrays)}q", *self.arrays))


class Recorder:
    """Takes the place of `BoundKernel.__call__` and notes what is read and written."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.call = kernels.BoundKernel.__call__

    def method(self) -> Callable[[kernels.BoundKernel, int, int], None]:
        """What takes its place."""

        def method(kernel: kernels.BoundKernel, first: int, last: int) -> None:
            self.record(kernel, first, last)

        return method

    def record(self, kernel: kernels.BoundKernel, first: int, last: int) -> None:
        """Make the call."""
        tensors = {t.data_ptr(): t for t in gc.get_objects() if isinstance(t, torch.Tensor) and t.numel()}
        call, known = Call(kernel.name, (first, last)), dict[int, int]()

        def add(what: torch.Tensor | ctypes.Structure) -> int:
            address = ctypes.addressof(what) if isinstance(what, ctypes.Structure) else what.data_ptr()
            if address in known:
                return known[address]
            number = known[address] = len(call.before)
            call.types.append(None if isinstance(what, ctypes.Structure) else what.dtype)
            call.before.append(memory(what))
            if isinstance(what, ctypes.Structure):
                for name, kind, *_ in what._fields_:
                    pointer = getattr(what, name)
                    if kind is ctypes.c_void_p and pointer:
                        offset = getattr(type(what), name).offset
                        call.relocations.append((number, offset, add(tensors[pointer])))
            return number

        add(kernel.shared)
        held = [kernel.shared, *kernel.arguments]
        call.arrays = [-1 if argument is None else add(argument) for argument in kernel.arguments]
        self.call(kernel, first, last)
        for address in known:
            same = [h for h in held if isinstance(h, ctypes.Structure) and ctypes.addressof(h) == address]
            call.after.append(memory(same[0] if same else tensors[address]))
        self.calls.append(call)


def memory(what: torch.Tensor | ctypes.Structure) -> bytes:
    """The bytes of a structure or of the storage of a tensor."""
    if isinstance(what, ctypes.Structure):
        return bytes(what)
    size = what.untyped_storage().nbytes() - what.storage_offset() * what.itemsize
    return ctypes.string_at(what.data_ptr(), int(size))


def recorded(instruction_set: str) -> list[Call]:
    """Every call while images are built and two models take a step."""
    os.environ[kernels.VARIABLE] = instruction_set
    kernels.library.cache_clear()
    recorder = Recorder()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    crystals = [read_crystal(path) for path in sorted((ROOT / "examples").glob("*.cif"))]
    with unittest.mock.patch.object(kernels.BoundKernel, "__call__", recorder.method()):
        for name in ("crystalformer", "crystalframer"):
            model = build_model("crystalformer", vars(preset(name)))
            model.backend = "cpu"
            radius = model.radius(1e-5)
            batch = with_images(CrystalBatch.from_crystals(crystals), radius, directions=model.needs_directions)
            batch = batch.to(torch.float32)
            model.calibrate(batch)
            model(batch).sum().backward()
    return recorder.calls


def difference(call: Call, expected: list[bytes], found: list[bytes]) -> float:
    """Largest difference in units of the largest number of a buffer; infinite for integers that are not the same."""
    worst = 0.0
    for dtype, one, other in zip(call.types, expected, found, strict=True):
        if dtype is None or one == other:
            continue
        a, b = (np.frombuffer(data, str(dtype).removeprefix("torch.")) for data in (one, other))
        if call.name.startswith("images"):
            a, b = np.sort(a), np.sort(b)
        if not np.issubdtype(a.dtype, np.floating):
            worst = worst if np.array_equal(a, b) else float("inf")
            continue
        if not np.isfinite(b[np.isfinite(a)]).all():
            return float("inf")
        written = np.isfinite(a) & np.isfinite(b)
        worst = max(worst, float(np.abs(a - b)[written].max() / max(float(np.abs(a[written]).max()), 1e-30)))
    return worst


def results(data: bytes, call: Call) -> Iterator[bytes]:
    """The buffers of a result, after its status."""
    place = 8
    for before in call.before:
        yield data[place : place + len(before)]
        place += len(before)


def main() -> int:
    """Record, replay, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--run", default="", help="the emulator, with its options")
    parser.add_argument(
        "--tolerance", type=float, default=1e-4, help="largest difference in units of the largest number"
    )
    given = parser.parse_args()
    triple = next(triple for end, triple in TRIPLES.items() if given.wheel.stem.endswith(end))
    worst: dict[tuple[str, str], tuple[int, float]] = {}
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(given.wheel) as archive:
        folder = Path(name)
        replay = folder / "replay.exe"
        compiler = [sys.executable, "-m", "ziglang", "cc", "-target", triple, "-O1", "-ldl"]
        compiler = [part for part in compiler if part != "-ldl" or "linux" in triple]
        subprocess.run([*compiler, str(Path(__file__).with_name("replay.c")), "-o", str(replay)], check=True)
        for member in (name for name in archive.namelist() if "_kernels_" in name):
            library = Path(archive.extract(member, folder))
            for call in recorded(library.stem.removeprefix("_kernels_")):
                call.write(folder / "call")
                done = subprocess.run(
                    [*shlex.split(given.run), str(replay), str(library), str(folder / "call"), str(folder / "result")],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    print(f"{library.name} {call.name}: exit code {done.returncode} {done.stderr[-300:].strip()}")
                    worst[library.name, call.name] = (1, float("inf"))
                    continue
                data = (folder / "result").read_bytes()
                apart = difference(call, call.after, list(results(data, call)))
                apart = apart if struct.unpack("<q", data[:8]) == (0,) else float("inf")
                count, most = worst.get((library.name, call.name), (0, 0.0))
                worst[library.name, call.name] = (count + 1, max(most, apart))
    for (library_name, function), (count, most) in worst.items():
        print(f"{library_name} {function}: {count} calls, largest difference {most:.1e}")
    return int(any(not most <= given.tolerance for _, most in worst.values()))


if __name__ == "__main__":
    sys.exit(main())
