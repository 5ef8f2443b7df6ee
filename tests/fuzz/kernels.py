"""Call image building and attention with valid, strange and invalid arguments in a child process; say what went wrong.

    python tests/fuzz/kernels.py --calls 5000 [--seed 0] [--output summary.json]

Valid arguments must give the same values and gradients in every backend; invalid ones must be refused with an error of
the library's own; strange ones (NaN, huge numbers, images in disorder) may do either. Anything else is a finding:
another exception, a crash, more than SECONDS. The exit status is 1 if there are any.
"""

from __future__ import annotations

import argparse
import collections
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from fuzz import attack, judge
from strategies import KINDS, make_crystal
from torch import Tensor

from crystalformers.attention import AngularBasis, AngularEncoding, Geometry, RadialBasis, infinite_attention
from crystalformers.attention.frames.local import FrameMethod
from crystalformers.crystal import Crystal
from crystalformers.csrc.kernels import library
from crystalformers.errors import CrystalformersError
from crystalformers.images import CrystalBatch, build_images, with_images

TENSORS = ("q", "k", "v", "inverse_variance", "W", "angular")
EXACT = 1e-6
"""Largest difference between two backends in float64, relative to the largest number: with principal axes the reference
integrates over directions numerically."""
ROUNDED = 1e-4
"""The same for the CPU kernel in float32, beside ten times the error of plain float32."""


@dataclass(frozen=True)
class Call:
    """Arguments of `infinite_attention`, in float64, and of `build_images`."""

    tensors: dict[str, Any]
    batch: CrystalBatch
    radius: float
    basis: RadialBasis
    angular: tuple[AngularBasis, str, float] | None

    def to(self, dtype: torch.dtype) -> Call:
        """With all numbers rounded."""
        tensors = {name: None if t is None else t.to(dtype) for name, t in self.tensors.items()}
        return replace(self, tensors=tensors, batch=self.batch.to(dtype))

    def attend(self, backend: Any) -> Tensor:
        """The output of a backend."""
        *features, W_3HDK = (self.tensors[name] for name in TENSORS)
        angular = None if self.angular is None else AngularEncoding(W_3HDK, *self.angular)  # type: ignore[arg-type]
        return infinite_attention(*features, Geometry(self.batch, self.basis), backend, angular=angular)

    def solve(self, backend: Any) -> list[Tensor]:
        """The output and the gradients of all tensors, in float64."""
        leaves = {name: t.detach().requires_grad_() for name, t in self.tensors.items() if t is not None}
        y = replace(self, tensors={**self.tensors, **leaves}).attend(backend)
        probe = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).sin().view(y.shape).to(y.dtype)
        return [t.detach().double() for t in (y, *torch.autograd.grad(y, list(leaves.values()), probe))]


def valid(rng: np.random.Generator) -> Call:
    """Random crystals, sizes, settings and numbers; tensors may be views with any strides."""
    crystals = [_crystal(rng) for _ in range(rng.integers(1, 4))]
    framed, radius = rng.random() < 0.6, float(rng.uniform(0.5, 3.5))
    batch = with_images(CrystalBatch.from_crystals(crystals), radius, directions=framed or rng.random() < 0.5)
    atoms, heads, width = batch.n_atoms, int(rng.integers(1, 10)), int(rng.integers(1, 8))
    radial = RadialBasis(int(rng.integers(1, 20)), float(rng.uniform(0.5, 9)), float(rng.choice([0.2, 0.7, 1, 3, 20])))
    count = int(rng.integers(2, 12))
    spread = AngularBasis(count, float(rng.uniform(0.1, 1.5)) / (2 / (count - 1)))
    frame = str(rng.choice(get_args(FrameMethod)))
    scale = float(rng.choice([0.01, 1.0, 3.0]))
    tensors = {name: _strided(rng, scale * rng.normal(size=(atoms, heads, width))) for name in ("q", "k", "v")}
    tensors["inverse_variance"] = _strided(rng, rng.uniform(0.1, 2, size=(atoms, heads)))
    shape = (heads, width, radial.count)
    tensors["W"] = _strided(rng, rng.normal(size=shape)) if rng.random() < 0.8 else None
    tensors["angular"] = _strided(rng, rng.normal(size=(3, heads, width, count))) if framed else None
    angular = (spread, frame, float(rng.choice([0.01, 0.1, 1.0]))) if framed else None
    return Call(tensors, batch, radius, radial, angular)


def _crystal(rng: np.random.Generator) -> Crystal:
    """A crystal of any kind; sometimes far from the origin, or with two atoms on one spot."""
    crystal = make_crystal(str(rng.choice(KINDS)), int(rng.integers(1, 5)), int(rng.integers(10**6)))
    numbers, frac = crystal.numbers, crystal.frac_coords
    if rng.random() < 0.2:
        numbers, frac = np.append(numbers, 7), np.concatenate([frac, frac[:1] + rng.integers(-1, 2, 3)])
    return Crystal(numbers, frac + rng.choice([0, 0, 30, 1000]), crystal.lattice)


def _strided(rng: np.random.Generator, values: Any) -> Tensor:
    """The same numbers in another place of memory: transposed, with gaps, or one row for all (stride 0)."""
    tensor = torch.from_numpy(values)
    match rng.integers(5):
        case 0:
            return tensor.mT.contiguous().mT
        case 1:
            return torch.stack([tensor, tensor], -1)[..., 0]
        case 2:
            return tensor[:1].expand(tensor.shape)
    return tensor


def agree(call: Call, reference: bool) -> str:
    """Compare backends with PyTorch in float64, and with the reference too if asked: it is slow."""
    exact, single = call.solve("torch"), call.to(torch.float32)
    if reference:
        _compare("reference", call.solve("reference"), exact, [EXACT] * len(exact))
    if library() is not None:
        plain = _errors(single.solve("torch"), exact)
        _compare("cpu", single.solve("cpu"), exact, [ROUNDED + 10 * error for error in plain])
    return "same in all backends"


def _errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Largest difference of each tensor, relative to its largest number or to 1; infinite for NaN."""
    pairs = zip(found, exact, strict=True)
    return [float(((a - b).abs().max() / b.abs().max().clamp(min=1)).nan_to_num(math.inf)) for a, b in pairs]


def _compare(backend: str, found: list[Tensor], exact: list[Tensor], bounds: list[float]) -> None:
    errors = _errors(found, exact)
    if not all(error <= bound for error, bound in zip(errors, bounds, strict=True)):
        raise AssertionError(f"{backend} differs by {max(errors):.1e}")


Change = Callable[[Call, np.random.Generator], Call]


def _tensor(change: Callable[[Tensor], Any]) -> Change:
    """Change one of the tensors that there are."""

    def changed(call: Call, rng: np.random.Generator) -> Call:
        name = str(rng.choice([name for name in TENSORS if call.tensors[name] is not None]))
        return replace(call, tensors={**call.tensors, name: change(call.tensors[name])})

    return changed


def _images(**changes: Callable[[Any], Any]) -> Change:
    """Change fields of the list of images."""

    def changed(call: Call, _: np.random.Generator) -> Call:
        images = call.batch.images
        images = replace(images, **{name: change(getattr(images, name)) for name, change in changes.items()})
        return replace(call, batch=replace(call.batch, images=images))

    return changed


def _number(value: float, place: int = -1) -> Callable[[Tensor], Tensor]:
    """Overwrite one number."""

    def changed(tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        tensor[place] = value
        return tensor

    return changed


def _batch(**changes: Callable[[Tensor], Any]) -> Change:
    """Change fields of the batch."""

    def changed(call: Call, _: np.random.Generator) -> Call:
        fields = {name: change(getattr(call.batch, name)) for name, change in changes.items()}
        return replace(call, batch=replace(call.batch, **fields))

    return changed


def _settings(**changes: Any) -> Change:
    """Change fields of the angular encoding, which is added where there is none."""

    def changed(call: Call, _: np.random.Generator) -> Call:
        basis, frame, tie_width = call.angular or (AngularBasis(4, 1.0), "max", 0.01)
        found = {"count": basis.count, "width": basis.width, "frame": frame, "tie_width": tie_width, **changes}
        _, heads, width = call.tensors["q"].shape
        W_3HDK = torch.ones(3, heads, width, found["count"], dtype=torch.float64)
        angular = (AngularBasis(found["count"], found["width"]), found["frame"], found["tie_width"])
        return replace(call, tensors={**call.tensors, "angular": W_3HDK}, angular=angular)

    return changed


def _radial(**changes: Any) -> Change:
    return lambda call, _: replace(call, basis=replace(call.basis, **changes))


NOT_NUMBERS = (math.nan, math.inf, -math.inf)

INVALID: dict[str, Change] = {
    "cut": _tensor(lambda t: t.narrow(-1, 0, t.shape[-1] - 1)),
    "longer": _tensor(lambda t: torch.cat([t, t[:1]])),
    "flat": _tensor(lambda t: t.flatten()),
    "one more axis": _tensor(lambda t: t.unsqueeze(0)),
    "half": _tensor(lambda t: t.half()),
    "other floats": _tensor(lambda t: t.to(torch.float32 if t.dtype == torch.float64 else torch.float64)),
    "integers": _tensor(lambda t: t.long()),
    "complex": _tensor(lambda t: t.to(torch.complex64)),
    "meta": _tensor(lambda t: t.to("meta")),
    "sparse": _tensor(lambda t: t.to_sparse()),
    "NumPy": _tensor(lambda t: t.numpy()),
    "no heads": lambda call, _: replace(
        call, tensors={name: None if t is None else t[:, :0] for name, t in call.tensors.items()}
    ),
    "negative variance": lambda call, _: replace(
        call, tensors={**call.tensors, "inverse_variance": _number(-1.0)(call.tensors["inverse_variance"])}
    ),
    **{f"radial maximum {x}": _radial(maximum=x) for x in (0.0, -1.0, *NOT_NUMBERS)},
    **{f"radial width {x}": _radial(width=x) for x in (0.0, -1.0, *NOT_NUMBERS)},
    "radial count": _radial(count=-1),
    **{f"angular width {x}": _settings(width=x) for x in (0.0, -1.0, 1e-3, *NOT_NUMBERS)},
    **{f"tie width {x}": _settings(tie_width=x) for x in (0.0, -1.0, *NOT_NUMBERS)},
    "one angular function": _settings(count=1),
    "unknown frame": _settings(frame="none"),
    **{f"radius {x}": _images(radius=lambda _, x=x: x) for x in (0.0, -1.0, 1e-300, *NOT_NUMBERS)},
    **{f"distance {x}": _images(distance=_number(x)) for x in (-1.0, *NOT_NUMBERS)},
    **{f"pair {x}": _images(pair=_number(x)) for x in (-1, 2**31 - 1)},
    **{f"ptr {x}": _images(ptr=_number(x)) for x in (-1, 2**62)},
    **{f"source {x}": _images(pair_source=_number(x)) for x in (-1, 2**62)},
    **{f"target {x}": _images(pair_target=_number(x)) for x in (-1, 2**62)},
    "pair as int64": _images(pair=lambda t: t.long()),
    "ptr as int32": _images(ptr=lambda t: t.int()),
    "images as integers": _images(distance=lambda t: t.long(), vectors=lambda t: None if t is None else t.long()),
    **{
        f"{name} {what}": _images(**{name: change})  # type: ignore[arg-type]
        for name in ("distance", "pair", "ptr", "pair_target", "pair_source")
        for what, change in {
            "cut": lambda t: t[:-1],
            "on meta": lambda t: t.to("meta"),
            "missing": lambda _: None,
            "flat": lambda t: t[:, None],
        }.items()
    },
    "no images": _batch(images=lambda _: None),
    "positions cut": _batch(positions=lambda t: t[:-1]),
    "lattice cut": _batch(lattice=lambda t: t[:-1]),
    "numbers cut": _batch(numbers=lambda t: t[:-1]),
    "atoms of no crystal": _batch(ptr=lambda t: t - 1),
}
"""What `infinite_attention` must refuse, whatever the rest."""

STRANGE: dict[str, Change] = {
    **{f"a feature {x}": _tensor(lambda t, x=x: _number(x, 0)(t)) for x in (math.nan, math.inf)},
    **{f"features times {x:g}": _tensor(lambda t, x=x: t * x) for x in (1e-30, 1e10, 1e30, 1e38)},
    "images in disorder": _images(distance=lambda t: t.flip(0)),
    "images beyond the radius": _images(distance=lambda t: t * 1e6),
    "images on one spot": _images(distance=torch.zeros_like),
    "no image lists": _images(
        pair=lambda t: t[:0], distance=lambda t: t[:0], ptr=torch.zeros_like, vectors=lambda _: None
    ),
    "huge vectors": _images(vectors=lambda t: None if t is None else t * 1e300),
    "NaN vectors": _images(vectors=lambda t: None if t is None else t * math.nan),
    "wide radial functions": _radial(width=1e6),
    "narrow radial functions": _radial(width=1e-9),
    "radial functions side by side": _radial(maximum=1e-12),
    "wide angular functions": _settings(width=1e9),
    "narrow angular functions": _settings(width=0.02, count=5),
    "many ties": _settings(tie_width=1e6),
    "only exact ties": _settings(tie_width=1e-30),
}
"""What may be computed or refused."""

IMPOSSIBLE: dict[str, Change] = {
    **{f"position {x}": _batch(positions=_number(x)) for x in (1e300, 1e15, *NOT_NUMBERS)},
    **{f"lattice {x}": _batch(lattice=_number(x)) for x in (0.0, *NOT_NUMBERS)},
    "flat cell": _batch(lattice=lambda t: t[:, [0, 1, 1]]),
    "tiny cell": _batch(lattice=lambda t: t * 1e-30),
    **{f"radius {x}": lambda call, _, x=x: replace(call, radius=x) for x in (0.0, -1.0, 1e-300, 1e9, *NOT_NUMBERS)},
    "ptr descends": _batch(ptr=lambda t: t.flip(0)),
    "ptr beyond": _batch(ptr=lambda t: t + 1),
    "ptr as int32": _batch(ptr=lambda t: t.int()),
    "positions cut": _batch(positions=lambda t: t[:-1]),
    "positions flat": _batch(positions=lambda t: t.flatten()),
    "positions as integers": _batch(positions=lambda t: t.long()),
    "positions on meta": _batch(positions=lambda t: t.to("meta")),
    "all on meta": lambda call, _: replace(call, batch=call.batch.to("meta")),
    "no positions": _batch(positions=lambda _: None),
    "lattice cut": _batch(lattice=lambda t: t[:-1]),
    "numbers cut": _batch(numbers=lambda t: t[:-1]),
    "no atoms": _batch(numbers=lambda t: t[:0], positions=lambda t: t[:0]),
}
"""What `build_images` must refuse."""


def outcome(kind: str, seed: int) -> str:
    """What becomes of a call; raises what is a finding."""
    rng = np.random.default_rng([seed, *kind.encode()])
    if kind == "valid":
        call = valid(rng)
        cheap = call.batch.n_atoms <= 4 and call.tensors["q"].shape[1] <= 3 and "pca" not in str(call.angular)
        return agree(call, reference=cheap)
    return changed(kind, str(rng.choice(list(CHANGES[kind]))), rng)


CHANGES = {"invalid": INVALID, "strange": STRANGE, "images": IMPOSSIBLE}


def changed(kind: str, name: str, rng: np.random.Generator) -> str:
    """What becomes of valid arguments after a change by its name; raises what is a finding."""
    call, change = valid(rng), CHANGES[kind][name]
    backend = str(rng.choice(["auto", "torch", *(["cpu"] if library() is not None else [])]))
    torch.set_num_threads(int(rng.integers(1, 3)))
    try:
        if kind == "images":
            call = change(replace(call, batch=replace(call.batch, images=None)), rng)
            build_images(call.batch, call.radius, directions=bool(rng.integers(2)))
        else:
            single = call.to(torch.float32) if backend == "cpu" or rng.random() < 0.5 else call
            y = change(single, rng).attend(backend)
            assert y.shape == call.tensors["q"].shape
    except CrystalformersError as error:
        return "refused" if str(error).strip() else "refused without a reason"
    finally:
        torch.set_num_threads(1)
    if kind != "strange":
        raise AssertionError(f"'{name}' was not refused by '{backend}'")
    return "computed"


def work(kind: str, seeds: range, pipe: Connection) -> None:
    """The child: seed by seed, tell what is begun and how it ended."""
    torch.set_num_threads(1)
    for seed in seeds:
        pipe.send(("begin", seed, None))
        text, wrong = judge(lambda seed=seed: outcome(kind, seed), GOOD)
        pipe.send(("wrong" if wrong else "end", seed, text))
    pipe.send(("done", 0, None))


SECONDS = 60.0
"""Longest time for one call; the reference needs seconds for many frames, and more on busy cores."""

GOOD = ("same in all backends", "computed", "refused")
"""How a call may end."""

SHARES = {"valid": 0.4, "invalid": 0.3, "strange": 0.15, "images": 0.15}
"""Of all calls."""


def findings(calls: int, seed: int) -> Iterator[tuple[str, int, str, bool]]:
    """Kind, seed, outcome, and whether it is a finding, of each call."""
    for kind, share in SHARES.items():
        for number, text, wrong in attack(kind, seed, round(calls * share), work, SECONDS):
            yield kind, number, text, wrong


def main() -> int:
    """Parse the command line; attack; report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0, help="the first; calls are numbered from it")
    parser.add_argument("--output", type=Path, help="file for the summary, JSON")
    given = parser.parse_args()
    counted: dict[str, collections.Counter[str]] = {kind: collections.Counter() for kind in SHARES}
    start = time.monotonic()
    for kind, seed, text, wrong in findings(given.calls, given.seed):
        counted[kind]["WRONG" if wrong else text] += 1
        if wrong:
            print(f"{kind} {seed}: {text}", flush=True)
    wrong = sum(count["WRONG"] for count in counted.values())
    summary = {
        "command": f"python tests/fuzz/kernels.py --calls {given.calls} --seed {given.seed}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, PyTorch {torch.__version__}",
        "calls": sum(count.total() for count in counted.values()),
        "seconds": round(time.monotonic() - start),
        "outcomes": {kind: dict(count) for kind, count in counted.items()},
        "findings": wrong,
    }
    print(json.dumps(summary))
    if given.output is not None:
        given.output.write_text(json.dumps(summary, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
