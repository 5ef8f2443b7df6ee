"""Crystalformer on one GPU: agreement, speed, memory, and the time of an epoch of JARVIS's size, part by part.

Crystals are synthetic and made from a seed: mean 10 atoms, 18 Å³ per atom, like JARVIS-DFT. A part that fails is
reported with its traceback and the others go on; the exit status then is 1. Without a GPU the same code takes tiny
steps on the CPU, the kernels in Triton's interpreter if it is installed, to show that it runs. `benchmarks/gpu.sh`
calls this.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.parts import EPOCH, PARTS
from benchmarks.gpu.work import Plan, synthetic_crystals
from benchmarks.harness import RESULTS, parser, size_distribution, write_results
from crystalformers.attention.backends.triton import operators
from crystalformers.models.crystalformer import Crystalformer


def attempt(part: Callable[[Plan], Any], plan: Plan) -> dict[str, Any]:
    """What a part found, or how it failed."""
    print(f"\n== {part.__name__}: {(part.__doc__ or '').splitlines()[0]}", flush=True)
    try:
        return {"found": part(plan)}
    except Exception:  # reported with its traceback; the lease of a GPU is too short to stop here
        traceback.print_exc()
        return {"failed": traceback.format_exc()}


def arguments() -> argparse.Namespace:
    options = parser(__doc__)
    options.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    options.add_argument("--structures", type=int, default=2048, help="synthetic crystals of one eager pass")
    options.add_argument("--epoch", type=int, default=EPOCH, help="synthetic crystals kept on the device")
    options.add_argument("--batch", type=int, default=256, help="crystals of a step")
    options.add_argument("--tolerance", type=float, default=1e-5, help="of the image radius; that of training")
    options.add_argument("--backends", nargs="+", default=["triton", "torch"], choices=["triton", "torch", "cpu"])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seconds", type=float, default=1.0, help="shortest turn of one task")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--output", type=Path, default=Path(os.environ.get("OUT", RESULTS)) / "gpu.json")
    return options.parse_args()


def the_plan(given: argparse.Namespace) -> Plan:
    """From the command line; tiny without a GPU."""
    backends, atoms = list(given.backends), tuple[int, ...]((1_000, 10_000))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tolerance = given.tolerance
    if device.type == "cpu":
        given.structures, given.batch, given.epoch, given.rounds, given.seconds = 2, 1, 4, 1, 0.0
        tolerance, atoms = 0.3, (50,)
    if not operators.installed():
        print('NOT MEASURED: backend triton; Triton is not installed (pip install "crystalformers[gpu]").')
        backends = [backend for backend in backends if backend != "triton"]
    crystals = synthetic_crystals(given.structures, given.seed)
    batches = [crystals[k : k + given.batch] for k in range(0, len(crystals), given.batch)]
    radius, sizes = Crystalformer().radius(tolerance), (given.batch, given.epoch)
    return Plan(device, batches, radius, given.seed, backends, *sizes, atoms, given.rounds, given.seconds)


def main() -> None:
    given = arguments()
    if not torch.cuda.is_available():
        if os.environ.get("TRITON_INTERPRET") != "1":  # Triton reads it when it is imported
            os.environ["TRITON_INTERPRET"] = "1"
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu.run", *sys.argv[1:]])
        print("NO GPU: PyTorch sees no CUDA device. Tiny steps on the CPU follow; nothing is measured or written.")
        torch.set_num_threads(1)
    plan = the_plan(given)
    results: dict[str, Any] = {
        "what": __doc__,
        "settings": {name: str(value) for name, value in vars(given).items()} | {"radius": plan.radius},
        "n_atoms": size_distribution(len(crystal) for part in plan.batches for crystal in part),
        "parts": {},
    }
    if plan.on_gpu:
        results |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}
    for name in given.parts:
        results["parts"][name] = attempt(PARTS[name], plan)
        if plan.on_gpu:
            write_results(given.output, results, "triton")  # after every part: a lease may end in the middle
    failed = [name for name, part in results["parts"].items() if "failed" in part]
    print("\n" + ("FAILED: " + ", ".join(failed) if failed else f"All parts ran: {', '.join(given.parts)}."))
    raise SystemExit(bool(failed))


if __name__ == "__main__":
    main()
