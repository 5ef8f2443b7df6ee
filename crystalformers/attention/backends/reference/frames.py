"""CrystalFramer's frames and angular encoding as plainly as they can be written: one atom and one head at a time.

The law for `frames.py` and `angles.py`; see there for what a frame is and why tied ones are averaged.

Shapes: N atoms of one crystal, M cells of the box, H heads, D their width, K angular functions.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from crystalformers.attention.frames.encoding import AngularBasis, AngularEncoding
from crystalformers.attention.frames.local import (
    COLLINEAR,
    EXACTLY_COLLINEAR,
    GAP_WIDTH,
    PENALTY_FLOOR,
    VANISHING,
    Frames,
    PrincipalAxes,
    lattice_frames,
    pca_axes,
)
from crystalformers.attention.geometry import Geometry, RadialBasis

PLANE_ANGLES = 720
"""Directions in a plane over which an axis that could point anywhere in it is averaged."""

WeightedFrames = list[tuple[float, Tensor]]
"""Share and axes (3, 3) of the frames of one atom and head."""


def angular_psi(
    r_NM3: Tensor,
    d_NM: Tensor,
    log_weight_NMH: Tensor,
    angular: AngularEncoding,
    fixed: Frames | PrincipalAxes | None,
    *,
    published: bool,
) -> Tensor:
    """The angular part of psi for one target atom, (N, M, H, D); zero for the atom itself."""
    around_NM = d_NM > 0
    unit_NM3 = r_NM3 / torch.where(around_NM, d_NM, 1.0)[..., None]
    heads = []
    for head in range(log_weight_NMH.shape[-1]):
        log_weight = torch.where(around_NM, log_weight_NMH[..., head], -math.inf)
        b_NMzK = unit_NM3.new_zeros(*d_NM.shape, 3, angular.basis.count)
        match angular.frame:
            case "max":
                frames: WeightedFrames | PrincipalAxes = max_frames(log_weight, unit_NM3, angular.tie_width)
            case "static-local":
                summed_NM = log_weight > -math.inf
                nearest = torch.where(summed_NM, -(d_NM.detach() ** 2), -math.inf)
                # The authors' slip of a sign: their second axis points to the farthest image of the box.
                second = torch.where(summed_NM, d_NM.detach() ** 2, -math.inf) if published else nearest
                frames = max_frames(nearest, unit_NM3, angular.tie_width, second)
            case "weighted-pca":
                weight = torch.softmax(log_weight_NMH[..., head].flatten(), 0).view_as(d_NM) * around_NM
                moment = torch.einsum("nm,nmx,nmy->xy", weight, unit_NM3, unit_NM3)
                frames = principal(moment)
            case "lattice":
                assert isinstance(fixed, Frames)
                frames = [(float(w), axes) for w, axes in zip(fixed.weight, fixed.axes, strict=True)]
            case "pca":
                assert isinstance(fixed, PrincipalAxes)
                frames = fixed
        if isinstance(frames, PrincipalAxes):
            b_NMzK = b_NMzK + principal_features(unit_NM3, frames, angular.basis)
        else:
            for share, axes in frames:
                cosine_NMz = unit_NM3 @ axes.mT
                b = published_angular(cosine_NMz, angular.basis) if published else angular.basis(cosine_NMz)
                b_NMzK = b_NMzK + share * b
        b_NMzK = torch.where(around_NM[..., None, None], b_NMzK, 0.0)
        heads.append(torch.einsum("nmzk,zdk->nmd", b_NMzK, angular.W_3HDK[:, head]))
    return torch.stack(heads, dim=2)


def fixed_frames(
    geometry: Geometry, crystal: int, angular: AngularEncoding | None, *, published: bool
) -> Frames | PrincipalAxes | None:
    """Frames that are the same for all atoms of a crystal, if the encoding uses such."""
    row = torch.tensor([crystal], device=geometry.batch.ptr.device)
    if angular is not None and angular.frame == "lattice":
        return lattice_frames(geometry.batch, given_cell=published).of(row)
    if angular is not None and angular.frame == "pca":
        return pca_axes(geometry.batch, given_cell=published).of(row)
    return None


def published_angular(cosine_NMz: Tensor, basis: AngularBasis) -> Tensor:
    """The angular functions as the authors' kernels have them: cut, and their standard deviation a float32."""
    deviation = float(torch.tensor(basis.width * basis.spacing, dtype=torch.float32))
    rounded = replace(basis, width=deviation / basis.spacing)
    return rounded(cosine_NMz) * published_window((cosine_NMz + 1) / rounded.spacing, rounded)


def published_window(position: Tensor, basis: RadialBasis | AngularBasis) -> Tensor:
    """Which of the K functions the authors' framed kernels evaluate, (..., K): a window of four standard deviations.

    Args:
        position: argument of the functions in units of their spacing, counted from the first centre.
        basis: the functions; a set of 16 is evaluated whole.
    """
    size = basis.count if basis.count == 16 else math.ceil(8 * basis.width - 1e-5) + 1  # the width may be rounded up
    first = torch.floor(position - 4 * basis.width).clamp(0, basis.count - size)[..., None]
    index = torch.arange(basis.count, device=position.device)
    return (index >= first) & (index < first + size)


def max_frames(
    log_weight_NM: Tensor, unit_NM3: Tensor, tie_width: float, second_NM: Tensor | None = None
) -> WeightedFrames:
    """Every frame that ties, by two nested loops; `second_NM` takes the place of the weights for the second axis."""
    score, unit = log_weight_NM.detach().flatten(), unit_NM3.flatten(0, 1)
    base = score if second_NM is None else second_NM.flatten()
    frames: WeightedFrames = []
    for first, share in _contenders(score, tie_width):
        e1 = unit[first]
        away = 1 - (unit @ e1).abs()
        second_score = base + away.clamp(min=PENALTY_FLOOR).log()
        for least in (1 - COLLINEAR, EXACTLY_COLLINEAR):
            eligible = torch.where(away > least, second_score, -math.inf)
            if (eligible > -math.inf).any():
                break
        contenders = _contenders(eligible, tie_width)
        for second, second_share in contenders:
            frames.append((share * second_share, gram_schmidt(e1, unit[second])))
        if not contenders:
            anything = torch.eye(3, dtype=e1.dtype)[int(e1.abs().argmin())]
            frames.append((share, gram_schmidt(e1, anything)))
    return frames


def _contenders(score: Tensor, width: float) -> list[tuple[int, float]]:
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


def principal(moment: Tensor) -> PrincipalAxes:
    """Eigenvectors and how distinct they are, by the definition."""
    values, vectors = torch.linalg.eigh(moment)
    gaps = (values[1:] - values[:-1]) / values.sum().clamp(min=VANISHING)
    x = (gaps / GAP_WIDTH).clamp(0, 1)
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
