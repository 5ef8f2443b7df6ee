"""What the fused kernel needs of angular functions and frames: Chebyshev series, and frames packed by atom and head.

Shapes: A atoms, E images, H heads padded to whole vectors, R rows (atom and head), F frames, K functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from crystalformers.attention.chebyshev import chebyshev_series, orders_for
from crystalformers.attention.frames.encoding import AngularBasis
from crystalformers.attention.frames.local import Frames, PrincipalAxes
from crystalformers.attention.geometry import Geometry
from crystalformers.images import pointers

READ_AHEAD = 16
"""Directions that the kernel may read beyond the last image: the largest BLOCK of cosines.h."""


@dataclass(frozen=True)
class CosineSeries:
    """Angular functions as series of Chebyshev polynomials: b_k(t) = sum_l C_lk T_l(t); one per batch.

    Attributes:
        direction: unit vectors of the images, then zeros, (E + READ_AHEAD, 3) float32.
        coefficients: C with an even number of orders, then a row of means over all axes, (orders + 1, K) float32.
        tail: what the orders l, l + 1, ... add to a function at most, in units of the series' error, (orders,) float32.
    """

    direction: Tensor
    coefficients: Tensor
    tail: Tensor

    @classmethod
    def of(cls, geometry: Geometry, basis: AngularBasis, error: float) -> CosineSeries:
        """For images with directions and the functions of a model, right to `error`."""
        return cls(geometry.cached(_directions), *_coefficients(basis, error))

    @property
    def orders(self) -> int:
        """Polynomials in the series; as many directions, evenly spread in a plane, have the mean of all in it."""
        return len(self.coefficients) - 1


def _directions(geometry: Geometry) -> Tensor:
    """`CosineSeries.direction`."""
    images = geometry.images
    assert images.vectors is not None
    distance = images.distance.clamp_min(torch.finfo(images.distance.dtype).tiny)
    direction = F.pad(images.vectors.float(), (0, 0, 0, READ_AHEAD))
    direction[: len(distance)].div_(distance.unsqueeze(-1))  # in place: the largest tensor of all
    return direction


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is cached during a prediction must serve a training that follows
def _coefficients(basis: AngularBasis, error: float) -> tuple[Tensor, Tensor]:
    """`CosineSeries.coefficients` and `CosineSeries.tail`."""
    series = chebyshev_series(basis, orders_for(basis.width * basis.spacing, error))
    tail = series.abs().flip(0).cumsum(0).flip(0).amax(1) / error
    return torch.cat([series, basis.sphere(series)[None]]).float(), tail.float()


@dataclass(frozen=True)
class PackedFrames:
    """Frames of every atom and head as the kernel reads them.

    Attributes:
        ptr: first frame of each row and the total, (A H + 1,).
        frames: three axes and the share of each, (F, 12) float32.
        isotropic: share of the mean over all axes, (A, H) float32.
    """

    ptr: Tensor
    frames: Tensor
    isotropic: Tensor

    @classmethod
    def of(cls, frames: Frames | PrincipalAxes, atoms: int, heads: int, padded: int, angles: int) -> PackedFrames:
        """Pack the frames of atoms x heads rows; `padded` counts the heads of whole vectors."""
        isotropic = torch.zeros(atoms, padded)
        if isinstance(frames, PrincipalAxes):
            axes, owner, share = _frames_of(frames, angles)
            isotropic[:, :heads] = (1 - frames.distinct).prod(-1).view(atoms, heads)
        else:
            axes, owner, share = frames.axes, frames.owner, frames.weight[:, None].expand(-1, 3)
        row = owner // heads * padded + owner % heads
        order = torch.argsort(row, stable=True)
        return cls(
            ptr=pointers(torch.bincount(row, minlength=atoms * padded)),
            frames=torch.cat([axes.flatten(1), share], dim=1)[order].float().contiguous(),
            isotropic=isotropic,
        )


def _frames_of(principal: PrincipalAxes, angles: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal axes as frames with a share for each axis: axes (F, 3, 3), owner (F,), share (F, 3).

    Both signs of distinct axes, and `angles` directions in the plane of two that are not; see `frames.encoding`.
    """
    s, t = principal.distinct.unbind(-1)
    none = torch.zeros_like(s)
    axes, owner, share = [], [], []

    def add(rows_axes: Tensor, rows_share: Tensor, count: int) -> None:
        rows = rows_share.gt(0).any(-1).nonzero().squeeze(-1)
        axes.append(rows_axes[rows])
        owner.append(rows)
        share.append(rows_share[rows] / count)

    for sign in (1, -1):
        add(sign * principal.axes, torch.stack([s, s * t, t], -1), 2)
    for phi in torch.arange(angles) * 2 * math.pi / angles:
        turned = phi.cos() * principal.axes + phi.sin() * principal.axes.roll(-1, 1)
        about_third = torch.stack([turned[:, 0], turned[:, 0], principal.axes[:, 2]], 1)
        add(about_third, torch.stack([(1 - s) * t, (1 - s) * t, none], -1), angles)
        about_first = torch.stack([principal.axes[:, 0], turned[:, 1], turned[:, 1]], 1)
        add(about_first, torch.stack([none, s * (1 - t), s * (1 - t)], -1), angles)
    return torch.cat(axes), torch.cat(owner), torch.cat(share)
