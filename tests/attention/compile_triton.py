"""Compile the Triton kernels of the published architecture for a Hopper GPU, without one; print what they take.

One line per kernel: registers, bytes of stack (spills), bytes of shared memory. With `bfloat16` for such features.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from crystalformers.attention.backends.triton import angle_kernels, frame_kernels, frames, kernels
from crystalformers.attention.backends.triton.operators import TILING

HOPPER = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
KERNELS = (
    *("image_sum", "image_sum weighted", "image_sum_backward", "image_sum_pull"),
    *("angular_sum", "angular_sum_backward"),
    *("max_frames count", "max_frames write"),
)
FEATURES = ("q", "k", "v", "grad_q", "grad_k", "grad_v")
TYPES = {
    **dict.fromkeys(("source", "by_source", "target"), "*i32"),
    **dict.fromkeys(("ptr", "pair_ptr", "pair_source", "source_ptr", "stop", "frame_ptr"), "*i64"),
    **dict.fromkeys(("count",), "*i64"),
    **dict.fromkeys(("scale", "spacing", "per_width", "negligible", "per_tie_width"), "fp32"),
    "capacity": "i32",
}
MODULES = (kernels, angle_kernels, frame_kernels)


def compiled(name: str, operand: tl.dtype) -> str:
    function, _, purpose = name.partition(" ")
    kernel = next(getattr(module, function) for module in MODULES if hasattr(module, function))
    sizes = {"HEADS": 8, "WIDTH": 16, "COUNT": 64, "H": 8, "D": 16, "K": 64}
    tiles = {"IMAGES": TILING.images, "PAIRS": TILING.pairs, "SCAN": TILING.scan}
    choices = {
        "WEIGHTED": purpose == "weighted",
        "OPERAND": operand,
        "PRECISION": TILING.precision,
        "WRITE": purpose == "write",
    }
    everything = {**sizes, **tiles, **choices}
    constants = {arg: value for arg, value in everything.items() if arg in kernel.arg_names}
    feature = "*bf16" if operand == tl.bfloat16 else "*fp32"
    types = {**TYPES, **dict.fromkeys(FEATURES, feature), **dict.fromkeys(constants, "constexpr")}
    signature = {arg: types.get(arg, "*fp32") for arg in kernel.arg_names}
    aligned = {(k,): [["tt.divisibility", 16]] for k, kind in enumerate(signature.values()) if kind.startswith("*")}
    constexprs = {(kernel.arg_names.index(arg),): value for arg, value in constants.items()}
    source = ASTSource(kernel, signature, constexprs=constexprs, attrs=aligned)
    warps = frames.WARPS if function == "max_frames" else TILING.warps
    options = {"num_warps": warps, "num_stages": TILING.stages}
    binary = triton.compile(source, target=HOPPER, options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = dict(re.findall(r"(REG|STACK):(\d+)", usage.stdout + usage.stderr))
    return f"{name} {operand}: {found['REG']} registers, stack {found['STACK']} , shared {binary.metadata.shared}"


if __name__ == "__main__":
    chosen = tl.bfloat16 if "bfloat16" in sys.argv else tl.float32
    for kernel in KERNELS:
        print(compiled(kernel, chosen), flush=True)
