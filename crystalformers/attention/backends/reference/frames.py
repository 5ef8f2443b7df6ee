"""CrystalFramer's frames and angular encoding as plainly as they can be written: one atom and one head at a time.

The reference for `attention.frames`, which tells what a frame is and why tied ones are averaged. The smooth step
x^3 (10 - 15 x + 6 x^2) is written out where it is used, so that it too is compared.

Shapes: N atoms of one crystal, M cells of the box, H heads, D their width, K angular functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from crystalformers.attention.frames.crystal import lattice_frames, pca_axes
from crystalformers.attention.frames.encoding import AngularBasis, AngularEncoding
from crystalformers.attention.frames.local import (
    COLLINEAR,
    EXACTLY_COLLINEAR,
    PENALTY_FLOOR,
    VANISHING,
    Frames,
    PrincipalAxes,
)
from crystalformers.attention.geometry import Geometry

PLANE_ANGLES = 720
"""Directions in a plane over which an axis that could point anywhere in it is averaged."""

WeightedFrames = list[tuple[float, Tensor]]
"""Share and axes (3, 3) of the frames of one atom and head."""


def frames_of_head(
    log_weight_NM: Tensor,
    unit_NM3: Tensor,
    d_NM: Tensor,
    angular: AngularEncoding,
    fixed: Frames | PrincipalAxes | None,
) -> WeightedFrames | PrincipalAxes:
    """The frames of one atom and head, by the method of the encoding."""
    around_NM = d_NM > 0
    match angular.frame:
        case "max":
            return max_frames(torch.where(around_NM, log_weight_NM, -math.inf), unit_NM3, angular.tie_width)
        case "static-local":
            summed_NM = around_NM & (log_weight_NM > -math.inf)
            nearest_NM = torch.where(summed_NM, -(d_NM.detach() ** 2), -math.inf)
            return max_frames(nearest_NM, unit_NM3, angular.tie_width)
        case "weighted-pca":
            weight_NM = torch.softmax(log_weight_NM.flatten(), 0).view_as(d_NM) * around_NM
            moment = torch.einsum("nm,nmx,nmy->xy", weight_NM, unit_NM3, unit_NM3)
            return principal(moment, angular.tie_width)
        case "lattice":
            assert isinstance(fixed, Frames)
            return [(float(w), axes) for w, axes in zip(fixed.weight, fixed.axes, strict=True)]
        case "pca":
            assert isinstance(fixed, PrincipalAxes)
            return fixed


def angular_psi(
    r_NM3: Tensor,
    d_NM: Tensor,
    log_weight_NMH: Tensor,
    angular: AngularEncoding,
    fixed: Frames | PrincipalAxes | None,
    frames_of_head: Callable[..., WeightedFrames | PrincipalAxes] = frames_of_head,
) -> Tensor:
    """sum_k W_k b_angle(e_k . r) for one target atom, (N, M, H, D); zero for the atom itself.

    Args:
        r_NM3: vectors to the images, Angstrom.
        d_NM: their lengths.
        log_weight_NMH: logarithms of the attention weights up to a constant, -inf for an image that does not count.
        angular: weights, basis and method.
        fixed: frames of the crystal, see `fixed_frames`.
        frames_of_head: finds the frames of each head, over which psi is averaged.
    """
    unit_NM3 = r_NM3 / torch.where(d_NM > 0, d_NM, 1.0)[..., None]
    around_NM11 = (unit_NM3 != 0).any(-1)[..., None, None]
    heads = []
    for head, log_weight_NM in enumerate(log_weight_NMH.unbind(-1)):
        frames = frames_of_head(log_weight_NM, unit_NM3, d_NM, angular, fixed)
        b_NMzK = torch.where(around_NM11, features(unit_NM3, frames, angular.basis), 0.0)
        heads.append(torch.einsum("nmzk,zdk->nmd", b_NMzK, angular.W_3HDK[:, head]))
    return torch.stack(heads, dim=2)


def fixed_frames(geometry: Geometry, crystal: int, angular: AngularEncoding | None) -> Frames | PrincipalAxes | None:
    """Frames that are the same for all atoms of a crystal, if the encoding uses such."""
    row = torch.tensor([crystal], device=geometry.batch.ptr.device)
    if angular is not None and angular.frame == "lattice":
        return lattice_frames(geometry.batch, angular.tie_width).of(row)
    if angular is not None and angular.frame == "pca":
        return pca_axes(geometry.batch, angular.tie_width).of(row)
    return None


def features(unit_NM3: Tensor, frames: WeightedFrames | PrincipalAxes, basis: AngularBasis) -> Tensor:
    """Angular functions of the cosines to each axis, averaged over the frames, (N, M, 3, K)."""
    if isinstance(frames, PrincipalAxes):
        return principal_features(unit_NM3, frames, basis)
    b_NMzK = unit_NM3.new_zeros(*unit_NM3.shape, basis.count)
    for share, axes in frames:
        b_NMzK = b_NMzK + share * basis(unit_NM3 @ axes.mT)
    return b_NMzK


def max_frames(log_weight_NM: Tensor, unit_NM3: Tensor, tie_width: float) -> WeightedFrames:
    """Every frame that ties, by two nested loops: here over e_1, the direction of largest weight."""
    score, unit = log_weight_NM.detach().flatten(), unit_NM3.flatten(0, 1)
    frames: WeightedFrames = []
    for first, share in contenders(score, tie_width):
        frames += [(share * of_second, axes) for of_second, axes in frames_about(unit[first], score, unit, tie_width)]
    return frames


def frames_about(e1: Tensor, score: Tensor, unit: Tensor, tie_width: float) -> WeightedFrames:
    """The frames of a given e_1, by a loop over e_2, the direction of largest score + log(1 - |e_1 . r|)."""
    away = 1 - (unit @ e1).abs()
    second_score = score + away.clamp(min=PENALTY_FLOOR).log()
    for least in (1 - COLLINEAR, EXACTLY_COLLINEAR):
        eligible = torch.where(away > least, second_score, -math.inf)
        if (eligible > -math.inf).any():
            break
    frames = [(share, gram_schmidt(e1, unit[second])) for second, share in contenders(eligible, tie_width)]
    anything = torch.eye(3, dtype=e1.dtype)[int(e1.abs().argmin())]
    return frames or [(1.0, gram_schmidt(e1, anything))]


def contenders(score: Tensor, width: float) -> list[tuple[int, float]]:
    """Index and share of the best and of those less than `width` behind it."""
    best = float(score.max())
    if best == -math.inf:
        return []
    near = [(index, (best - value) / width) for index, value in enumerate(score.tolist()) if best - value < width]
    shares = [1 - x**3 * (10 - 15 * x + 6 * x**2) for _, x in near]
    return [(index, share / sum(shares)) for (index, _), share in zip(near, shares, strict=True)]


def gram_schmidt(e1: Tensor, towards: Tensor) -> Tensor:
    """Right-handed frame with axes as rows."""
    e2 = towards - (towards @ e1) * e1
    e2 = e2 / e2.norm()
    return torch.stack([e1, e2, torch.linalg.cross(e1, e2)])


def principal(moment: Tensor, tie_width: float) -> PrincipalAxes:
    """Eigenvectors and how distinct they are, by the definition."""
    values, vectors = torch.linalg.eigh(moment)
    gaps = (values[1:] - values[:-1]) / values.sum().clamp(min=VANISHING)
    x = (gaps / tie_width).clamp(0, 1)
    return PrincipalAxes(vectors.mT, x**3 * (10 - 15 * x + 6 * x**2))


def principal_features(unit_NM3: Tensor, frames: PrincipalAxes, basis: AngularBasis) -> Tensor:
    """Angular functions averaged over both signs and over directions among axes that are not distinct, (N, M, 3, K)."""
    e1, e2, e3 = frames.axes.reshape(3, 3)
    s, t = frames.distinct.flatten()

    def even(axis: Tensor) -> Tensor:
        return (basis(unit_NM3 @ axis) + basis(-(unit_NM3 @ axis))) / 2

    def circle(u: Tensor, v: Tensor) -> Tensor:
        angles = torch.arange(PLANE_ANGLES) * 2 * math.pi / PLANE_ANGLES
        return torch.stack([basis(unit_NM3 @ (math.cos(a) * u + math.sin(a) * v)) for a in angles]).mean(0)

    nodes = torch.linspace(-1, 1, 20001, dtype=unit_NM3.dtype)
    sphere = torch.trapezoid(basis(nodes), nodes, dim=0) / 2
    around_e1, around_e3 = circle(e2, e3), circle(e1, e2)
    first = s * even(e1) + (1 - s) * (t * around_e3 + (1 - t) * sphere)
    second = s * t * even(e2) + (1 - s) * t * around_e3 + s * (1 - t) * around_e1 + (1 - s) * (1 - t) * sphere
    third = t * even(e3) + (1 - t) * (s * around_e1 + (1 - s) * sphere)
    return torch.stack([first, second, third], dim=2)
