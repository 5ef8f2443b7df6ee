"""What the fused CPU kernel reads besides the features: as C takes it, and as the operators do.

Shapes: A atoms, E images, P pairs, H heads (padded to whole vectors).
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from crystalformers.attention.backends.cpu.accuracy import Accuracy
from crystalformers.attention.backends.cpu.cosines import CosineSeries, PackedFrames
from crystalformers.attention.chebyshev import chebyshev_series, orders_for, power_series
from crystalformers.attention.geometry import Geometry
from crystalformers.csrc.kernels import BoundKernel
from crystalformers.images import envelope
from crystalformers.images.enumeration import CImageLists

LANES = 8
"""Heads of a vector; as in heads.h."""

WINDOW_LANES = 16
"""Radial functions come in multiples of this; as in heads.h."""

REACH = 6.5
"""Standard deviations beyond which a radial function counts as zero (7e-10)."""

POLYNOMIAL = 1e-7
"""Bound on the error of the polynomials between two centres."""


WIDTHS = (0.15, 64.0)
"""Standard deviations of radial functions, in units of their spacing, whose polynomials are right to 1e-6 and short."""

MOST_SPACINGS = 1e6
"""Spacings of radial functions in the radius of the images at most; they are counted in integers."""


class CKernelInput(ctypes.Structure):
    """`KernelInput` of heads.h, field by field."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("distance", "envelope", "pair", "ptr", "pair_ptr", "pair_source")],
        *[(name, ctypes.c_void_p) for name in ("direction", "tail", "frame_ptr", "frames", "isotropic", "radial")],
        *[(name, ctypes.c_float) for name in ("spacing", "tie_width", "negligible", "negligible_backward")],
        *[
            (name, ctypes.c_int64)
            for name in ("windows", "terms", "count", "orders", "atoms", "head_groups", "head_dim")
        ],
    )


@dataclass(frozen=True)
class CpuImages:
    """The geometry as the kernel reads it; computed once per batch, shared by all layers."""

    distance: Tensor  # (E,) float32
    envelope: Tensor  # (E,) float32
    pair: Tensor  # (E,) int32
    ptr: Tensor  # (A + 1,)
    pair_ptr: Tensor  # (A + 1,)
    pair_source: Tensor  # (P,)
    pair_target: Tensor  # (P,)
    by_source: Tensor  # (P,) pairs in the order of their source atom; empty without gradients
    source_ptr: Tensor  # (A + 1,), or empty
    radial: Tensor  # (terms, windows * WINDOW_LANES) float32, see `radial_polynomials`
    spacing: float

    @classmethod
    def of(cls, geometry: Geometry, backward: bool) -> CpuImages:
        """The images of a geometry; with `backward` also what only a backward pass reads."""
        images, basis = geometry.images, geometry.basis
        atoms = torch.arange(images.n_atoms + 1, device=images.pair_source.device)
        by_source = source_ptr = images.pair_source.new_empty(0)
        if backward:
            by_source = torch.argsort(images.pair_source, stable=True)
            source_ptr = torch.searchsorted(images.pair_source[by_source], atoms)
        return cls(
            distance=images.distance.float().contiguous(),
            envelope=envelope(images.distance, images.radius).float(),
            pair=images.pair.contiguous(),
            ptr=images.ptr.contiguous(),
            pair_ptr=torch.searchsorted(images.pair_target, atoms),
            pair_source=images.pair_source.contiguous(),
            pair_target=images.pair_target.contiguous(),
            by_source=by_source,
            source_ptr=source_ptr,
            radial=radial_polynomials(basis.width),
            spacing=basis.spacing if basis.count else 1.0,
        )


def unsupported_images(geometry: Geometry) -> str | None:
    """Why the kernel cannot compute these images with these radial functions; None where it can."""
    images, basis = geometry.images, geometry.basis
    if basis.count and not WIDTHS[0] <= basis.width <= WIDTHS[1]:
        return "computes radial functions {} to {} spacings wide, not {:g}; use 'torch'".format(*WIDTHS, basis.width)
    if basis.count and images.radius > MOST_SPACINGS * basis.spacing:
        return f"computes at most {MOST_SPACINGS:g} spacings of radial functions; use 'torch'"
    if torch.compiler.is_compiling():
        return None  # a tracer knows no numbers
    distance, ptr = images.distance.float().contiguous(), images.ptr.contiguous()
    ordered = torch.zeros(1, dtype=torch.int32)
    reach = torch.tensor([images.radius * (1 + 1e-6)], dtype=torch.float32)
    BoundKernel("images_ordered", CImageLists(ptr=ptr.data_ptr()), distance, reach, ordered)(0, images.n_atoms)
    return None if ordered else "needs the images of each atom in order, from the atom itself outwards; use 'torch'"


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is cached during a prediction must serve a training that follows
def radial_polynomials(width: float) -> Tensor:
    """The radial functions that are not zero between two neighbouring centres, as powers of the position between them.

    Between the centres of functions n and n + 1, function k depends on n - k alone. With position u, -1 at one centre
    and 1 at the other, b = sum_t c_t u^t.

    Args:
        width: standard deviation in units of the spacing.

    Returns:
        c for the functions k = n - half + 1, ..., n + half, shape (an even number of terms, 2 half) float32.
    """
    half = math.ceil((2 * REACH * width + 1) / WINDOW_LANES) * WINDOW_LANES // 2
    centres = torch.arange(1 - half, half + 1, dtype=torch.float64)
    series = chebyshev_series(
        lambda u: torch.exp(-0.5 * (((u[:, None] + 1) / 2 - centres) / width) ** 2), orders_for(2 * width, POLYNOMIAL)
    )
    return power_series(series).float().contiguous()


PTR = 3
"""Index of `CpuImages.ptr` in `KernelInput.tensors`."""


class KernelInput(NamedTuple):
    """All that the kernel reads besides the features, as the operators take it, in the order of `CKernelInput`.

    Attributes:
        tensors: of `CKernelInput`, empty where there is none; then those of `CpuImages` that only the last pass reads.
        numbers: the floats of `CKernelInput`.
        counts: its integers, except the last, which follow from the shape of the features.
    """

    tensors: list[Tensor]
    numbers: list[float]
    counts: list[int]

    @classmethod
    def of(
        cls,
        images: CpuImages,
        series: CosineSeries | None,
        frames: PackedFrames | None,
        tie_width: float,
        count: int,
        accuracy: Accuracy,
    ) -> KernelInput:
        """From a batch, its frames and the settings of a model."""
        none = torch.empty(0)
        tensors = [images.distance, images.envelope, images.pair, images.ptr, images.pair_ptr, images.pair_source]
        tensors += [none] * 2 if series is None else [series.direction, series.tail]
        if series is not None and frames is not None:
            tensors += [frames.ptr, frames.frames, frames.isotropic]
        else:
            tensors += [none] * 3
        tensors += [images.radial]
        tensors += [images.pair_target, images.by_source, images.source_ptr]
        terms, lanes = images.radial.shape
        orders = 0 if series is None else series.orders
        numbers = [images.spacing, tie_width, accuracy.negligible, accuracy.negligible_backward]
        return cls(tensors, numbers, [lanes // WINDOW_LANES, terms, count, orders])

    def pointers(self, q_ADH: Tensor) -> CKernelInput:
        """As the kernel takes it; the tensors must outlive it."""
        pointers = (tensor.data_ptr() for tensor in self.tensors[:-3])  # 0 for an empty one
        atoms, width, heads = q_ADH.shape
        return CKernelInput(*pointers, *self.numbers, *self.counts, atoms, heads // LANES, width)
