"""What `infinite_attention` is given, checked once before any backend: what ends in C or Triton must fit together.

Shapes: A atoms, E images, P pairs, H heads, D their width, K radial functions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crystalformers.attention.frames.encoding import AngularEncoding
from crystalformers.attention.geometry import Geometry
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, Images


def check_arguments(
    q_AHD: Tensor,
    k_AHD: Tensor,
    v_AHD: Tensor,
    inverse_variance_AH: Tensor,
    W_HDK: Tensor | None,
    geometry: Geometry,
    angular: AngularEncoding | None,
) -> None:
    """Refuse arguments whose shapes, types or devices do not fit together; costs microseconds.

    Raises:
        ConfigError: naming the argument, what it is and what it must be.
    """
    if q_AHD.dim() != 3 or 0 in q_AHD.shape[1:] or not q_AHD.is_floating_point():
        raise ConfigError(
            f"q has shape {tuple(q_AHD.shape)} and type {q_AHD.dtype}",
            where="infinite_attention",
            remedy="give floating-point numbers of shape (atoms, heads, width)",
        )
    atoms, heads, width = q_AHD.shape
    geometry.cached(_checked_geometry)
    expected: list[tuple[str, Tensor | None, tuple[int, ...]]] = [
        ("q", q_AHD, (geometry.images.n_atoms, heads, width)),
        ("k", k_AHD, (atoms, heads, width)),
        ("v", v_AHD, (atoms, heads, width)),
        ("inverse_variance", inverse_variance_AH, (atoms, heads)),
        ("W", W_HDK, (heads, width, geometry.basis.count)),
    ]
    if angular is not None:
        expected.append(("the angular weights", angular.W_3HDK, (3, heads, width, angular.basis.count)))
    for name, tensor, shape in expected:
        if tensor is not None:
            _check_tensor(name, tensor, shape, q_AHD)
    if geometry.images.distance.device != q_AHD.device:
        raise ConfigError(
            f"the batch is on {geometry.images.distance.device} and q on {q_AHD.device}",
            where="infinite_attention",
            remedy="move one of them",
        )
    if W_HDK is not None and geometry.basis.count < 1:
        raise ConfigError(
            "W is given, but the radial basis of the geometry has no functions",
            where="infinite_attention",
            remedy="leave W out",
        )


def check_directions(geometry: Geometry) -> None:
    """Refuse images that were built without directions, which frames need.

    Raises:
        ConfigError: with the remedy.
    """
    if geometry.images.vectors is None:
        raise ConfigError(
            "these images were built without directions, which frames need",
            where="infinite_attention",
            remedy="build them with `directions=True`",
        )


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], q_AHD: Tensor) -> None:
    if tuple(tensor.shape) != shape:
        raise ConfigError(
            f"{name} has shape {tuple(tensor.shape)}",
            where="infinite_attention",
            remedy=f"with this geometry and q it must be {shape}",
        )
    if tensor.dtype not in _types_beside(q_AHD, name) or tensor.device != q_AHD.device:
        raise ConfigError(
            f"{name} is {tensor.dtype} on {tensor.device}, q is {q_AHD.dtype} on {q_AHD.device}",
            where="infinite_attention",
            remedy="bring all arguments to one type and device",
        )


def _types_beside(q_AHD: Tensor, name: str) -> tuple[torch.dtype, ...]:
    """Types that an argument may have; features in half precision leave widths and weights in float32 (autocast)."""
    rounded = q_AHD.dtype in (torch.bfloat16, torch.float16)
    return (q_AHD.dtype, torch.float32) if rounded and name not in ("k", "v") else (q_AHD.dtype,)


def _checked_geometry(geometry: Geometry) -> None:
    """Refuse a batch whose images do not fit its atoms; looked at once for all layers.

    Raises:
        ConfigError: naming what does not fit.
    """
    batch, images, basis = geometry.batch, geometry.images, geometry.basis
    if not (basis.count >= 0 and 0 < basis.maximum < math.inf and 0 < basis.width < math.inf):
        raise ConfigError(f"the radial basis {basis} must have positive, finite numbers", where="geometry")
    if torch.compiler.is_compiling() or batch.numbers.device.type == "meta":
        return  # a tracer knows no numbers
    problem = _problem_of_sizes(batch, images) or _problem_of_indices(images)
    if problem:
        raise ConfigError(problem, where="geometry", remedy="build the images of this batch with `with_images`")


def _problem_of_sizes(batch: CrystalBatch, images: Images) -> str | None:
    atoms, count, pairs = batch.n_atoms, len(images.distance), len(images.pair_target)
    shapes = {
        "batch.positions": (batch.positions, (atoms, 3)),
        "batch.lattice": (batch.lattice, (len(batch.ptr) - 1, 3, 3)),
        "images.distance": (images.distance, (count,)),
        "images.pair": (images.pair, (count,)),
        "images.ptr": (images.ptr, (atoms + 1,)),
        "images.pair_source": (images.pair_source, (pairs,)),
        "images.vectors": (images.vectors, (count, 3)),
    }
    for name, (tensor, shape) in shapes.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            return f"{name} has shape {tuple(tensor.shape)}, expected {shape}"
    types = {"pair": torch.int32, "ptr": torch.int64, "pair_target": torch.int64, "pair_source": torch.int64}
    for name, dtype in types.items():
        if getattr(images, name).dtype != dtype:
            return f"images.{name} is {getattr(images, name).dtype}, expected {dtype}"
    if images.vectors is not None and images.vectors.dtype != images.distance.dtype:
        return f"images.vectors are {images.vectors.dtype} and images.distance {images.distance.dtype}"
    return None


def _problem_of_indices(images: Images) -> str | None:
    atoms, count, pairs = images.n_atoms, len(images.distance), len(images.pair_target)
    per_atom = images.ptr.diff()
    facts = {
        "images.ptr ascends": (per_atom >= 0).all(),
        "images.ptr lies within the images": (images.ptr[0] == 0) & (images.ptr[-1] <= count),
        "images.pair names pairs": ((images.pair >= 0) & (images.pair < pairs)).all(),
        "images.pair_target ascends within the atoms": (images.pair_target.diff() >= 0).all()
        & (images.pair_target[:1] >= 0).all()
        & (images.pair_target[-1:] < atoms).all(),
        "images.pair_source names atoms": ((images.pair_source >= 0) & (images.pair_source < atoms)).all(),
    }
    right = torch.stack([fact.reshape(()) for fact in facts.values()]).tolist()  # one wait for the device
    wrong = [name for name, fact in zip(facts, right, strict=True) if not fact]
    if not wrong:
        owner = torch.repeat_interleave(per_atom)
        if not torch.equal(images.target[: len(owner)], owner):
            wrong = ["images are grouped by the atom of their pair"]
    return f"it does not hold that {wrong[0]}" if wrong else None
