"""Attention as the authors' code computes it, for comparison with that code only.

It is not the function that the backends compute, because it sums over other images; docs/differences.md tells what
follows from this. The equations are those of the reference, with

* a box of cells, |n_k| <= max(ceil((3.5 sigma_i + 0.01) |b_k| / 2 pi), 2), around the raw difference of coordinates
  in place of the sphere of images: it depends on how the cell is drawn;
* in models with frames, Gaussians evaluated in a window of about four standard deviations, those of the cosines with
  a standard deviation rounded to float32;
* static local frames whose second axis points to the farthest image of the box (a slip of a sign);
* lattice and PCA frames of the cell as it is given;
* reciprocal sums over |m_k| <= 2, clamped at 1e-6.

Shapes: A atoms of a batch, N of one crystal, M cells of the box or frequencies, H heads, D their width, K functions.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from crystalformers.attention.arguments import Arguments
from crystalformers.attention.backends.reference import frames as reference
from crystalformers.attention.backends.reference.backend import attend, cell_box
from crystalformers.attention.backends.reference.frames import WeightedFrames, angular_psi
from crystalformers.attention.frames.crystal import shortest_vector_frames
from crystalformers.attention.frames.encoding import AngularBasis, AngularEncoding
from crystalformers.attention.frames.local import Frames, PrincipalAxes, principal_axes
from crystalformers.attention.geometry import RadialBasis
from crystalformers.attention.reciprocal.lattice_sums import dual_lattice, log_factor
from crystalformers.images import CrystalBatch, length

ImageRule = Literal["sphere", "published"]
"""`sphere`: all images within a radius, which every backend sums; `published`: the rules of this module."""


def attention(arguments: Arguments) -> Tensor:
    """Attention over the authors' box of images, (A, H, D)."""
    q_AHD, k_AHD, v_AHD, inverse_variance_AH, W_HDK, geometry, angular, _ = arguments
    batch, basis = geometry.batch, geometry.basis
    if angular is not None:
        angular = replace(angular, basis=WindowedAngularBasis.of(angular.basis))
    rows = []
    for crystal, (first, last) in enumerate(pairwise(batch.ptr.tolist())):
        atoms = slice(first, last)
        fixed = cell_frames(batch.positions[atoms], batch.lattice[crystal], angular)
        for i in range(first, last):
            delta_N3 = batch.positions[atoms] - batch.positions[i]
            r_NM3, log_factor_1MH = image_box(delta_N3, batch.lattice[crystal], inverse_variance_AH[i])
            d_NM = length(r_NM3)
            phi_NMH = -0.5 * d_NM[..., None] ** 2 * inverse_variance_AH[i] + log_factor_1MH
            score_NH = torch.einsum("hd,nhd->nh", q_AHD[i], k_AHD[atoms]) / math.sqrt(q_AHD.shape[-1])
            psi_NMHD = phi_NMH.new_zeros(*phi_NMH.shape, v_AHD.shape[-1])
            if W_HDK is not None:
                b_NMK = basis(d_NM) if angular is None else basis(d_NM) * window(d_NM / basis.spacing - 1, basis)
                psi_NMHD = psi_NMHD + torch.einsum("nmk,hdk->nmhd", b_NMK, W_HDK)
            if angular is not None:
                log_weight_NMH = (score_NH[:, None] + phi_NMH).detach()
                psi_NMHD = psi_NMHD + angular_psi(r_NM3, d_NM, log_weight_NMH, angular, fixed, frames_of_head)
            rows.append(attend(score_NH, phi_NMH, psi_NMHD, v_AHD[atoms]))
    return torch.stack(rows)


def image_box(delta_N3: Tensor, lattice: Tensor, inverse_variance_H: Tensor) -> tuple[Tensor, Tensor]:
    """Vectors (N, M, 3) to the images in the box of the widest head; log of the factor on their weight, (1, M, H)."""
    spacing = 1 / torch.linalg.inv(lattice.detach()).norm(dim=0)
    sigma_H = inverse_variance_H.detach().rsqrt()
    reach_H3 = torch.ceil((3.5 * sigma_H[:, None] + 0.01) / spacing).clamp(min=2)
    cells_M3 = cell_box(reach_H3.amax(0))
    inside_MH = (cells_M3[:, None].abs() <= reach_H3).all(-1)
    log_factor_MH = torch.where(inside_MH, 0.0, -math.inf).to(lattice)
    return delta_N3[:, None] + cells_M3.to(lattice) @ lattice, log_factor_MH[None]


def frames_of_head(
    log_weight_NM: Tensor,
    unit_NM3: Tensor,
    d_NM: Tensor,
    angular: AngularEncoding,
    fixed: Frames | PrincipalAxes | None,
) -> WeightedFrames | PrincipalAxes:
    """The frames of the reference, but static local ones point e_1 to the nearest image and e_2 to the farthest.

    This is because the authors take +d^2 as logarithm of the weight when they look for e_2.
    """
    if angular.frame != "static-local":
        return reference.frames_of_head(log_weight_NM, unit_NM3, d_NM, angular, fixed)
    summed_NM = (d_NM > 0) & (log_weight_NM > -math.inf)
    nearest, farthest = (torch.where(summed_NM, sign * d_NM.detach() ** 2, -math.inf).flatten() for sign in (-1, 1))
    unit = unit_NM3.flatten(0, 1)
    return [
        (share * of_second, axes)
        for first, share in reference.contenders(nearest, angular.tie_width)
        for of_second, axes in reference.frames_about(unit[first], farthest, unit, angular.tie_width)
    ]


def cell_frames(
    positions_N3: Tensor, lattice: Tensor, angular: AngularEncoding | None
) -> Frames | PrincipalAxes | None:
    """Frames of the cell as it is given, the same for all its atoms, if the encoding uses such."""
    if angular is not None and angular.frame == "lattice":
        return shortest_vector_frames([lattice.double().cpu()], positions_N3, angular.tie_width)
    if angular is not None and angular.frame == "pca":
        centred_N3 = positions_N3.double() - positions_N3.double().mean(0)
        found = principal_axes(centred_N3.mT @ centred_N3 / len(centred_N3), angular.tie_width)
        return PrincipalAxes(found.axes.to(positions_N3), found.distinct.to(positions_N3))
    return None


class WindowedAngularBasis(AngularBasis):
    """The angular functions as the authors' kernels have them: cut, and their standard deviation a float32."""

    @classmethod
    def of(cls, basis: AngularBasis) -> WindowedAngularBasis:
        """The same functions, rounded and cut."""
        deviation = float(torch.tensor(basis.width * basis.spacing, dtype=torch.float32))
        return cls(basis.count, deviation / basis.spacing)

    def __call__(self, cosine: Tensor) -> Tensor:
        """Values at cosines (...), shape (..., K)."""
        return super().__call__(cosine) * window((cosine + 1) / self.spacing, self)


def window(position: Tensor, basis: RadialBasis | AngularBasis) -> Tensor:
    """Which of the K functions the authors' kernels for models with frames evaluate, (..., K).

    Args:
        position: argument of the functions in units of their spacing, counted from the first centre.
        basis: the functions; a set of 16 is evaluated whole.
    """
    size = basis.count if basis.count == 16 else math.ceil(8 * basis.width - 1e-5) + 1  # the width may be rounded up
    first = torch.floor(position - 4 * basis.width).clamp(0, basis.count - size)[..., None]
    index = torch.arange(basis.count, device=position.device)
    return (index >= first) & (index < first + size)


def reciprocal_attention(
    q_AHD: Tensor, k_AHD: Tensor, v_AHD: Tensor, variance_AH: Tensor, batch: CrystalBatch
) -> Tensor:
    """Attention of reciprocal heads, (A, H, D); arguments as in `reciprocal.attention`.

    It depends on the cell, and has no gradient where the clamp holds. The authors' volume carries the sign of the
    cell's handedness, so that left-handed cells give NaN; here it is positive.
    """
    rows = []
    for (first, last), lattice in zip(pairwise(batch.ptr.tolist()), batch.lattice, strict=True):
        atoms = slice(first, last)
        score_NHN = torch.einsum("ihd,jhd->ihj", q_AHD[atoms], k_AHD[atoms]) / math.sqrt(q_AHD.shape[-1])
        p_NHN = torch.softmax(score_NHN + reciprocal_alpha(variance_AH[atoms], batch.positions[atoms], lattice), dim=-1)
        rows.append(torch.einsum("ihj,jhd->ihd", p_NHN, v_AHD[atoms]))
    return torch.cat(rows)


def reciprocal_alpha(variance_NH: Tensor, positions: Tensor, lattice: Tensor) -> Tensor:
    """The authors' alpha_ij of one crystal, (targets, heads, sources): all |m_k| <= 2, and the sum clamped at 1e-6."""
    m = torch.arange(-2, 3, device=lattice.device, dtype=lattice.dtype)
    m_M3 = torch.cartesian_prod(m[2:], m, m)
    w_M3 = m_M3 @ dual_lattice(lattice)
    weight_NHM = torch.exp(-0.5 * variance_NH.unsqueeze(-1) * w_M3.square().sum(-1)) * (1 + m_M3[:, 0].sign())
    cosine_NNM = torch.cos((positions - positions[:, None]) @ w_M3.mT)
    sum_NHN = torch.einsum("ihm,ijm->ihj", weight_NHM, cosine_NNM)
    return torch.log((log_factor(variance_NH, lattice).exp().unsqueeze(-1) * sum_NHN).clamp(min=1e-6))
