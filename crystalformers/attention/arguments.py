"""The arguments of `infinite_attention`, checked once before any backend: what ends in C or Triton must fit together.

Shapes: A atoms, E images, P pairs, H heads, D their width, K radial functions.
"""

from __future__ import annotations

import math
from typing import NamedTuple, get_args

import torch
from torch import Tensor

from crystalformers.attention.frames.encoding import LEAST_DEVIATION, AngularEncoding
from crystalformers.attention.frames.local import FrameMethod
from crystalformers.attention.geometry import Geometry
from crystalformers.errors import ConfigError
from crystalformers.images.checks import problem_of


class Arguments(NamedTuple):
    """What every backend is given; `infinite_attention` says what each is."""

    q_AHD: Tensor
    k_AHD: Tensor
    v_AHD: Tensor
    inverse_variance_AH: Tensor
    W_HDK: Tensor | None
    geometry: Geometry
    angular: AngularEncoding | None
    rounded: bool = False


def check_arguments(arguments: Arguments) -> None:
    """Refuse arguments whose shapes, types or devices do not fit together; costs microseconds.

    Raises:
        ConfigError: naming the argument, what it is and what it must be.
    """
    q_AHD, k_AHD, v_AHD, inverse_variance_AH, W_HDK, geometry, angular, _ = arguments
    kinds: list[tuple[object, type]] = [(q_AHD, Tensor), (geometry, Geometry)]
    if not all(isinstance(value, kind) for value, kind in kinds):
        problem = f"q is a {type(q_AHD).__name__} and the geometry a {type(geometry).__name__}"
        raise _refusal(problem, "give a tensor and a `Geometry`")
    if q_AHD.dim() != 3 or 0 in q_AHD.shape[1:] or not q_AHD.is_floating_point():
        problem = f"q has shape {tuple(q_AHD.shape)} and type {q_AHD.dtype}"
        raise _refusal(problem, "give floating-point numbers of shape (atoms, heads, width)")
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
        _check_angular(angular)
        expected.append(("the angular weights", angular.W_3HDK, (3, heads, width, angular.basis.count)))
    for name, tensor, shape in expected:
        if tensor is not None:
            _check_tensor(name, tensor, shape, q_AHD)
    if geometry.images.distance.device != q_AHD.device:
        problem = f"the batch is on {geometry.images.distance.device} and q on {q_AHD.device}"
        raise _refusal(problem, "move one of them")
    if q_AHD.device.type == "cpu" and not torch.compiler.is_compiling() and bool((inverse_variance_AH < 0).any()):
        raise _refusal("inverse_variance holds negative numbers", "pass squares")
    if W_HDK is not None and geometry.basis.count < 1:
        raise _refusal("W is given, but the radial basis of the geometry has no functions", "leave W out")


def check_directions(geometry: Geometry) -> None:
    """Refuse images that were built without directions, which frames need.

    Raises:
        ConfigError: with the remedy.
    """
    if geometry.images.vectors is None:
        problem = "these images were built without directions, which frames need"
        raise _refusal(problem, "build them with `directions=True`")


def _refusal(problem: str, remedy: str) -> ConfigError:
    return ConfigError(problem, where="infinite_attention", remedy=remedy)


def different_types(q_AHD: Tensor, geometry: Geometry) -> str | None:
    """Why PyTorch's operations cannot compute with q and the images, to follow "Attention backend 'name' "."""
    lengths = geometry.images.distance.dtype
    return None if q_AHD.dtype == lengths else f"needs one type, and q is {q_AHD.dtype}, the images {lengths}"


def _check_angular(angular: AngularEncoding) -> None:
    """Refuse an angular encoding that no backend can compute, or none rightly."""
    basis = angular.basis
    problem = ""
    if basis.count < 2 or not LEAST_DEVIATION <= basis.width * basis.spacing < math.inf:
        problem = f"{basis} must have two functions or more, with a standard deviation of {LEAST_DEVIATION} or more"
    elif angular.frame not in get_args(FrameMethod):
        problem = f"'{angular.frame}' frames are not one of {', '.join(get_args(FrameMethod))}"
    elif not 0 < angular.tie_width < math.inf:
        problem = f"tie_width = {angular.tie_width} must be positive and finite"
    if problem:
        raise ConfigError(problem, where="the angular encoding")


def _check_tensor(name: str, tensor: Tensor, shape: tuple[int, ...], q_AHD: Tensor) -> None:
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        raise ConfigError(f"{name} is not a dense tensor", where="infinite_attention")
    if tuple(tensor.shape) != shape:
        raise _refusal(f"{name} has shape {tuple(tensor.shape)}", f"with this geometry and q it must be {shape}")
    if tensor.dtype not in _types_beside(q_AHD, name) or tensor.device != q_AHD.device:
        problem = f"{name} is {tensor.dtype} on {tensor.device}, q is {q_AHD.dtype} on {q_AHD.device}"
        raise _refusal(problem, "bring all arguments to one type and device")


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
    capturing = batch.numbers.is_cuda and torch.cuda.is_current_stream_capturing()
    if torch.compiler.is_compiling() or capturing or batch.numbers.device.type == "meta":
        return  # there are no numbers to look at
    problem = problem_of(batch, images)
    if problem:
        raise ConfigError(problem, where="geometry", remedy="build the images of this batch with `with_images`")
