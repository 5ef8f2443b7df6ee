"""Angular value encoding (CrystalFramer): Gaussians of the cosines between an image's direction and a frame's axes.

    psi_ij(n) = W_0 b(d) + sum_k W_k b_angle(e_k . r),   k = 1, 2, 3

Shapes: R rows (atom and head), M image slots of an atom, F frames, K angular functions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from crystalformers.attention.chebyshev import chebyshev_series
from crystalformers.attention.frames.crystal import lattice_frames, pca_axes
from crystalformers.attention.frames.local import (
    TIE_WIDTH,
    FrameMethod,
    Frames,
    PrincipalAxes,
    max_frames,
    weighted_pca,
)
from crystalformers.attention.geometry import Geometry

CHUNK, CHUNK_CPU = 1 << 24, 1 << 18
"""Values of angular functions held at a time: as many as memory allows, or on a CPU as fit its cache, which makes the
sums four times faster."""


LEAST_DEVIATION = 0.01
"""Smallest standard deviation of an angular function: narrower ones, and what they cost, have no use, and their means
over a plane would be wrong (at this one they are right to 1e-7)."""


@dataclass(frozen=True)
class AngularBasis:
    """Gaussians of a cosine.

    b_k(t) = exp(-(t - mu_k)^2 / 2 s^2),  mu_k = -1 + 2 (k - 1) / (count - 1),  s = width * 2 / (count - 1)

    Attributes:
        count: number of functions K, both ends of [-1, 1] included.
        width: standard deviation in units of the spacing.
    """

    count: int
    width: float

    @property
    def spacing(self) -> float:
        """Distance between two centres."""
        return 2 / (self.count - 1)

    def __call__(self, cosine: Tensor) -> Tensor:
        """Values at cosines (...), shape (..., K)."""
        centres = torch.linspace(-1, 1, self.count, device=cosine.device, dtype=cosine.dtype)
        return torch.exp(-0.5 * ((cosine.unsqueeze(-1) - centres) / (self.width * self.spacing)) ** 2)

    def even(self, cosine: Tensor) -> Tensor:
        """Mean over both signs of an axis, (..., K)."""
        return (self(cosine) + self(-cosine)) / 2

    def circle(self, cosine: Tensor) -> Tensor:
        """Mean over all axes in a plane, for directions with these cosines to its normal, (..., K).

        With s the sine, (1 / 2 pi) int b(s cos phi) dphi is an even polynomial in s to rounding; its Chebyshev series
        is computed once, and T_2k(s) = T_k(2 s^2 - 1) avoids square roots.
        """
        series = _circle_series(self.count, self.width).to(cosine)
        x = 1 - 2 * cosine.square()
        terms = [torch.ones_like(x), x]
        while len(terms) < series.shape[1]:
            terms.append(2 * x * terms[-1] - terms[-2])
        return torch.stack(terms[: series.shape[1]], dim=-1) @ series.mT

    def sphere(self, like: Tensor) -> Tensor:
        """Mean over all axes, (K,): the cosine is uniform in [-1, 1]."""
        centres = torch.linspace(-1, 1, self.count, device=like.device, dtype=like.dtype)
        s = self.width * self.spacing
        upper, lower = ((end - centres) / (s * math.sqrt(2)) for end in (1, -1))
        return s * math.sqrt(math.pi / 2) / 2 * (torch.erf(upper) - torch.erf(lower))


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # what is cached during a prediction must serve a training that follows
def _circle_series(count: int, width: float) -> Tensor:
    """Coefficients of T_0, T_2, T_4, ... of `AngularBasis.circle`, (K, orders), float64."""
    basis = AngularBasis(count, width)
    orders = 512
    phi = (torch.arange(orders, dtype=torch.float64) + 0.5) * math.pi / orders
    series = chebyshev_series(lambda sine: basis(sine[:, None] * torch.cos(phi)).mean(1), orders)[::2]
    significant = int((series.abs().amax(1) > 1e-15).nonzero().max()) + 1
    return series[:significant].mT.contiguous()


@dataclass(frozen=True)
class AngularEncoding:
    """What attention needs for the angular part of psi.

    Attributes:
        W_3HDK: W_1, W_2, W_3 (with any coefficient), shape (3, heads, width, angular functions).
        basis: the angular functions.
        frame: which kind of frame they refer to.
        tie_width: see `frames.local.TIE_WIDTH`.
    """

    W_3HDK: Tensor
    basis: AngularBasis
    frame: FrameMethod
    tie_width: float = TIE_WIDTH


def angular_values(p_AMH: Tensor, log_weight_AMH: Tensor, geometry: Geometry, encoding: AngularEncoding) -> Tensor:
    """The angular part of sum_e p_e psi_e, (A, H, D).

    Args:
        p_AMH: attention weights of the image slots.
        log_weight_AMH: their logarithms up to a constant, -inf where there is none.
        geometry: the batch, its images built with directions.
        encoding: weights, basis and frame.

    No gradient of the weights flows through the choice of the frame (as published); that of the positions does.
    """
    atoms, _, heads = p_AMH.shape
    rows = around(p_AMH, geometry)
    frames = local_frames(*rows, log_weight_AMH, geometry, encoding)
    sums_R3K = angular_sums(*rows, frames, encoding.basis)
    return torch.einsum("ahzk,zhdk->ahd", sums_R3K.unflatten(0, (atoms, heads)), encoding.W_3HDK)


def around(p_AMH: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Weights of the images around each atom, itself left out, (R, M), and their directions, (R, M, 3)."""
    direction_AM3, around_AM = geometry.directions
    p_RM = (p_AMH * around_AM.unsqueeze(-1)).mT.reshape(-1, p_AMH.shape[1])
    return p_RM, direction_AM3.repeat_interleave(p_AMH.shape[2], 0)


def local_frames(
    p_RM: Tensor, direction_RM3: Tensor, log_weight_AMH: Tensor, geometry: Geometry, encoding: AngularEncoding
) -> Frames | PrincipalAxes:
    """The frames of every row, (R,); arguments as `around` and `angular_values` have them."""
    direction_AM3, around_AM = geometry.directions
    slots, heads = log_weight_AMH.shape[1:]
    if not direction_AM3.requires_grad:
        log_weight_AMH = log_weight_AMH.detach()
    match encoding.frame:
        case "max":
            log_weight_RM = log_weight_AMH.masked_fill(~around_AM.unsqueeze(-1), -math.inf).mT.reshape(-1, slots)
            frames: Frames | PrincipalAxes = max_frames(log_weight_RM, direction_RM3, encoding.tie_width)
        case "weighted-pca":
            weight_RM = p_RM if direction_AM3.requires_grad else p_RM.detach()
            frames = weighted_pca(weight_RM, direction_RM3, encoding.tie_width)
        case _:
            frames = geometry.cached(static_frames, encoding.frame, encoding.tie_width).repeated(heads)
    return frames


def static_frames(geometry: Geometry, method: FrameMethod, tie_width: float) -> Frames | PrincipalAxes:
    """Frames of every atom, (A,) rows, by a method that does not follow the attention weights."""
    match method:
        case "static-local":
            return _static_local_frames(geometry, tie_width)
        case "lattice":
            return lattice_frames(geometry.batch, tie_width).of(geometry.batch.crystal_of_atom)
        case "pca":
            return pca_axes(geometry.batch, tie_width).of(geometry.batch.crystal_of_atom)
    raise ValueError(f"'{method}' frames follow the attention weights.")


def _static_local_frames(geometry: Geometry, tie_width: float) -> Frames:
    """Max frames for the fixed weights exp(-d^2), the same for all heads and layers."""
    direction_AM3, around_AM = geometry.directions
    squared_AM = geometry.images.distance.square()[geometry.slots[0]]
    return max_frames((-squared_AM).masked_fill(~around_AM, -math.inf), direction_AM3, tie_width)


def angular_sums(
    weight_RM: Tensor, direction_RM3: Tensor, frames: Frames | PrincipalAxes, basis: AngularBasis
) -> Tensor:
    """Sums over images of the angular functions along each axis, (R, 3, K).

    Args:
        weight_RM: attention weights p; zero for slots that hold no image and for the atom itself.
        direction_RM3: unit vectors.
        frames: of the rows.
        basis: angular functions.
    """
    if isinstance(frames, PrincipalAxes):
        return _principal_sums(weight_RM, direction_RM3, frames, basis)
    axes_X3, owner_X, share_X3, reverse_X3 = frames.distinct_axes()
    out = weight_RM.new_zeros(len(weight_RM), 3, basis.count)
    for piece in _chunks(len(owner_X), weight_RM, basis):
        owner = owner_X[piece]
        cosine_XM = (direction_RM3[owner] @ axes_X3[piece].unsqueeze(-1)).squeeze(-1)
        sums_XK = torch.einsum("xm,xmk->xk", weight_RM[owner], basis(cosine_XM))
        # b_k(-t) is the function from the other end, b_{K+1-k}(t).
        of_axes = share_X3[piece, :, None] * sums_XK[:, None] + reverse_X3[piece, :, None] * sums_XK[:, None].flip(-1)
        out = out.index_add(0, owner, of_axes)
    return out


def _chunks(count: int, weight_RM: Tensor, basis: AngularBasis, axes: int = 1) -> tuple[Tensor, ...]:
    """Indices below `count`, in pieces so small that the angular functions of each fit."""
    values = CHUNK_CPU if weight_RM.device.type == "cpu" else CHUNK
    rows = max(1, values // (weight_RM.shape[1] * axes * basis.count))
    return torch.arange(count, device=weight_RM.device).split(rows)


def _principal_sums(weight_RM: Tensor, direction_RM3: Tensor, frames: PrincipalAxes, basis: AngularBasis) -> Tensor:
    """`angular_sums` averaged over the signs of the axes and over rotations among axes that are not distinct.

    With s and t how distinct e_1 | e_2 and e_2 | e_3 are, b' the even part of b, c its mean over a circle and u over
    the sphere, the features along the axes are

        e_1:  s b'_1 + (1 - s) (t c_3 + (1 - t) u)
        e_2:  s t b'_2 + (1 - s) t c_3 + s (1 - t) c_1 + (1 - s) (1 - t) u
        e_3:  t b'_3 + (1 - t) (s c_1 + (1 - s) u)

    where c_k averages over the plane normal to e_k. Handedness does not matter: the four choices of sign that keep it
    have every axis as often up as down, and psi is a sum over axes.
    """
    out = []
    sphere_K = basis.sphere(weight_RM)
    for piece in _chunks(len(weight_RM), weight_RM, basis, axes=3):
        p_RM = weight_RM[piece]
        cosine_RM3 = direction_RM3[piece] @ frames.axes[piece].mT
        s, t = frames.distinct[piece].unbind(-1)
        s, t = s[:, None], t[:, None]

        def total(values_RMK: Tensor, p_RM: Tensor = p_RM) -> Tensor:
            return torch.einsum("rm,rmk->rk", p_RM, values_RMK)

        b1, b2, b3 = (total(basis.even(cosine_RM3[..., k])) for k in range(3))
        c1, c3 = (total(basis.circle(cosine_RM3[..., k])) for k in (0, 2))
        u = p_RM.sum(1, keepdim=True) * sphere_K
        e1 = s * b1 + (1 - s) * (t * c3 + (1 - t) * u)
        e2 = s * t * b2 + (1 - s) * t * c3 + s * (1 - t) * c1 + (1 - s) * (1 - t) * u
        e3 = t * b3 + (1 - t) * (s * c1 + (1 - s) * u)
        out.append(torch.stack([e1, e2, e3], dim=1))
    return torch.cat(out)
