"""Local frames (CrystalFramer, ICLR 2025): axes on which the directions of an atom's images are projected.

A frame is orthonormal and right-handed and follows the crystal. Where symmetry or accident makes several equally
right, none is chosen: their features are averaged, with weights that fall smoothly to zero as a frame falls behind the
best. So nothing depends on the order of atoms, the choice of cell or chance, and the result is continuous in the
positions (after Dym, Lawrence and Siegel 2024). A site with one clear frame costs no more than without averaging.

Shapes: R rows (an atom, or an atom and head), M image slots of an atom, F frames of all rows together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crystalformers.images import smooth_step
from crystalformers.images.enumeration import ranges

FrameMethod = Literal["max", "weighted-pca", "static-local", "pca", "lattice"]
"""`max` and `weighted-pca` follow the attention weights of each head; the others are fixed for the crystal."""

TIE_WIDTH = 0.01
"""How far a candidate may lie behind the best and still share in the frame, unless a model sets it. The unit is that of
what is compared: logarithm of the weight (max), Å² (static-local), eigenvalue over the sum of all (weighted-pca, pca),
Å and cosine (lattice)."""

DEGENERATE = 1e-8
"""Gap between two eigenvalues, relative to their sum, below which their plane alone has a gradient."""

VANISHING = 1e-9
"""Sum of eigenvalues (weight, or Å²) below which a second moment says nothing about directions."""

COLLINEAR = 0.9999
"""|cos| beyond which a direction is the second axis only where there is no other (published)."""

PENALTY_FLOOR = 1e-5
"""Least value of 1 - |cos| in the score of the second axis (published)."""

EXACTLY_COLLINEAR = 1e-6
"""1 - |cos| below which a direction says nothing about the second axis."""

AXIS_DECIMALS = 9
"""To how many decimals two axes must agree to be one."""


@dataclass(frozen=True)
class Frames:
    """Weighted frames; the features of a row are the weighted mean over its frames.

    Attributes:
        axes: e_1, e_2, e_3 as rows, (F, 3, 3).
        owner: row each frame belongs to, (F,). A row without any image has none.
        weight: share of each frame, (F,); adds up to 1 for every row that has one.
    """

    axes: Tensor
    owner: Tensor
    weight: Tensor

    def of(self, rows: Tensor) -> Frames:
        """Frames for new rows, each of which takes those of an old one: row r those of `rows[r]`."""
        order = torch.argsort(self.owner, stable=True)
        count = torch.bincount(self.owner, minlength=int(rows.max()) + 1)
        first = count.cumsum(0) - count
        owner, within = ranges(count[rows])
        chosen = order[first[rows][owner] + within]
        return Frames(self.axes[chosen], owner, self.weight[chosen])

    def distinct_axes(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The lines that frames share, for features that are sums over axes: twenty-four frames of a cube have three.

        Returns:
            X unit vectors, (X, 3); their rows, (X,); the share of frames of the row whose e_1, e_2, e_3 is the
            vector, (X, 3), and the same for its negative. Axes that carry a gradient are left as they are.
        """
        axes, owner = self.axes.flatten(0, 1), self.owner.repeat_interleave(3)
        share = (self.weight[:, None, None] * torch.eye(3).to(self.weight)).flatten(0, 1)
        if axes.requires_grad:
            return axes, owner, share, torch.zeros_like(share)
        sign = torch.where(_points_up(axes), 1.0, -1.0).to(axes)[:, None]
        found = torch.cat([owner[:, None].to(axes), (sign * axes).round(decimals=AXIS_DECIMALS) + 0.0], dim=1)
        distinct, same = torch.unique(found, dim=0, return_inverse=True)
        members = axes.new_zeros(len(distinct), 1).index_add(0, same, torch.ones_like(sign))
        empty = share.new_zeros(len(distinct), 3)
        return (
            torch.zeros_like(distinct[:, 1:]).index_add(0, same, sign * axes) / members,
            distinct[:, 0].to(owner),
            empty.index_add(0, same, share * (sign > 0)),
            empty.index_add(0, same, share * (sign < 0)),
        )

    def repeated(self, times: int) -> Frames:
        """The frames of `times` rows for each row here: row r becomes r * times, ..., r * times + times - 1."""
        copies = torch.arange(times, device=self.owner.device)
        return Frames(
            self.axes.repeat_interleave(times, 0),
            (self.owner[:, None] * times + copies).flatten(),
            self.weight.repeat_interleave(times),
        )


@dataclass(frozen=True)
class PrincipalAxes:
    """Eigenvectors of a second moment, ascending, with how distinct they are.

    The sign of an eigenvector means nothing, and two of nearly equal eigenvalue mean nothing but the plane they span;
    features are averaged over both (see `frames.encoding`).

    Attributes:
        axes: e_1, e_2, e_3 as rows, (R, 3, 3).
        distinct: how distinct e_1 is from e_2 and e_2 from e_3, 0 to 1, (R, 2).
    """

    axes: Tensor
    distinct: Tensor

    def of(self, rows: Tensor) -> PrincipalAxes:
        """Axes for new rows, each of which takes those of an old one: row r those of `rows[r]`."""
        return PrincipalAxes(self.axes[rows], self.distinct[rows])

    def repeated(self, times: int) -> PrincipalAxes:
        """The axes of `times` rows for each row here."""
        return PrincipalAxes(self.axes.repeat_interleave(times, 0), self.distinct.repeat_interleave(times, 0))


def _points_up(axes_X3: Tensor) -> Tensor:
    """One of each pair of opposite vectors: the sign of the first component that is not zero to `AXIS_DECIMALS`."""
    rounded = axes_X3.round(decimals=AXIS_DECIMALS)
    first = (rounded != 0).to(torch.uint8).argmax(1, keepdim=True)
    return rounded.gather(1, first).squeeze(1) > 0


def max_frames(log_weight_RM: Tensor, direction_RM3: Tensor, tie_width: float) -> Frames:
    """The max frame: e_1 towards the image of largest weight, e_2 towards the largest that is not along e_1.

        e_1 = argmax w,   e_2 ~ argmax w (1 - |e_1 . r|) made orthogonal to e_1,   e_3 = e_1 x e_2

    Args:
        log_weight_RM: log w of every image; -inf for slots that hold none and for the atom itself.
        direction_RM3: unit vectors r.
        tie_width: candidates less than this behind the best share the frame, with weight 1 at the best falling
            smoothly to 0; near 0 only exact ties do.

    Returns:
        No frame for a row without images. Where all images lie on one line any second axis serves: they have no
        component along it.
    """
    row, first, share = _near_best(log_weight_RM, tie_width)
    e1_F3 = direction_RM3[row, first]
    directions_FM3 = direction_RM3[row]
    away_FM = 1 - (directions_FM3 @ e1_F3.unsqueeze(-1)).squeeze(-1).abs()
    score_FM = log_weight_RM[row] + away_FM.clamp(min=PENALTY_FLOOR).log()
    usable_FM = (score_FM > -torch.inf) & (away_FM > 1 - COLLINEAR)
    last_resort_FM = (score_FM > -torch.inf) & (away_FM > EXACTLY_COLLINEAR)
    usable_FM = torch.where(usable_FM.any(1, keepdim=True), usable_FM, last_resort_FM)
    line = ~usable_FM.any(1)
    candidate, second, share_2 = _near_best(score_FM.masked_fill(~usable_FM, -torch.inf), tie_width)
    e1 = torch.cat([e1_F3[candidate], e1_F3[line]])
    towards = torch.cat([directions_FM3[candidate, second], _least_aligned_axis(e1_F3[line])])
    owner = torch.cat([row[candidate], row[line]])
    weight = torch.cat([share[candidate] * share_2, share[line]])
    return Frames(_orthonormal(e1, towards), owner, weight)


def _near_best(score_RM: Tensor, width: float) -> tuple[Tensor, Tensor, Tensor]:
    """Row, slot and share of the best entry of each row and of those less than `width` behind it."""
    best_R1 = score_RM.amax(1, keepdim=True) if score_RM.shape[1] else score_RM.new_zeros(len(score_RM), 1)
    finite = score_RM > -torch.inf
    behind_RM = torch.where(finite, best_R1 - score_RM, torch.inf)
    share_RM = torch.where(finite, smooth_step(1 - behind_RM.clamp(max=2 * width) / width), 0.0)
    share_RM = share_RM / share_RM.sum(1, keepdim=True).clamp(min=1)
    row, slot = torch.nonzero(share_RM, as_tuple=True)
    return row, slot, share_RM[row, slot]


def _least_aligned_axis(direction_F3: Tensor) -> Tensor:
    return torch.eye(3, dtype=direction_F3.dtype, device=direction_F3.device)[direction_F3.abs().argmin(1)]


def _orthonormal(e1_F3: Tensor, towards_F3: Tensor) -> Tensor:
    """Right-handed frames from a unit vector and a direction that is not along it, (F, 3, 3)."""
    rest = towards_F3 - (towards_F3 * e1_F3).sum(-1, keepdim=True) * e1_F3
    e2 = rest / rest.norm(dim=-1, keepdim=True)
    return torch.stack([e1_F3, e2, torch.linalg.cross(e1_F3, e2)], dim=1)


def principal_axes(second_moment_R33: Tensor, tie_width: float) -> PrincipalAxes:
    """Eigenvectors of a symmetric matrix, smallest eigenvalue first; of a vanishing one none is distinct.

    Two are wholly distinct where their eigenvalues differ by `tie_width` times the sum of all three, or more.

    Gradients are those of first-order perturbation theory, V dV = V^T dM V / (lambda_j - lambda_i), without the terms
    of degenerate pairs: what mixes them weighs nothing (see `distinct`).
    """
    finite_R11 = second_moment_R33.detach().isfinite().all(-1).all(-1)[..., None, None]
    second_moment_R33 = torch.where(finite_R11, second_moment_R33, 0.0)  # of others the axes are NaN
    values_R3, vectors_R33 = torch.linalg.eigh(second_moment_R33.detach())
    vectors_R33 = torch.where(finite_R11, vectors_R33, math.nan)
    change_R33 = vectors_R33.mT @ (second_moment_R33 - second_moment_R33.detach()) @ vectors_R33
    difference_R33 = values_R3.unsqueeze(-2) - values_R3.unsqueeze(-1)
    total_R1 = values_R3.sum(-1, keepdim=True).clamp(min=VANISHING)
    apart_R33 = difference_R33.abs() > DEGENERATE * total_R1.unsqueeze(-1)
    mixing_R33 = torch.where(apart_R33, change_R33 / torch.where(apart_R33, difference_R33, 1.0), 0.0)
    vectors_R33 = vectors_R33 + vectors_R33 @ mixing_R33
    values_R3 = values_R3 + change_R33.diagonal(dim1=-2, dim2=-1)
    gap_R2 = values_R3.diff(dim=-1) / values_R3.sum(-1, keepdim=True).clamp(min=VANISHING)
    return PrincipalAxes(vectors_R33.mT, smooth_step(gap_R2 / tie_width))


def weighted_pca(weight_RM: Tensor, direction_RM3: Tensor, tie_width: float) -> PrincipalAxes:
    """The weighted PCA frame: principal axes of sum w r r^T over the images (unit vectors, as the paper has it)."""
    return principal_axes(torch.einsum("rm,rmx,rmy->rxy", weight_RM, direction_RM3, direction_RM3), tie_width)
