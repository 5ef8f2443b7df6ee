"""The equations of the papers, as plainly as they can be written: the law that every backend is tested by.

Infinitely connected attention of Crystalformer (section 3.1) in its pseudo-finite form, grouped by source atom j:

    alpha_ij = log sum_n exp phi_ij(n)
    beta_ij  = sum_n softmax_n(phi_ij(n)) psi_ij(n)
    y_i      = sum_j softmax_j(q_i . k_j / sqrt(d_h) + alpha_ij) (v_j + beta_ij)

with phi_ij(n) = -|r_ij(n)|^2 / 2 sigma_i^2 and psi_ij(n) = W^E b(|r_ij(n)|); CrystalFramer adds the cosines between
r_ij(n) and the axes of a local frame, psi_ij(n) = W_0 b(|r|) + sum_k W_k b_angle(e_k . r / |r|). The lattice sum runs
by brute force over a box of cells, one target atom at a time. Two rules say which images of the box count:

* those within a radius, with the envelope of `images.py`; depends on the crystal alone;
* `published`: the whole box |n_k| <= max(ceil((3.5 sigma_i + 0.01) |b_k| / 2 pi), 2) around the raw difference
  of coordinates, as the authors' code sums it; depends on the cell (see docs/differences.md).

Shapes: A atoms of a batch, N of one crystal, M cells of the box, H heads, D their width, K radial functions.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from crystalformers.attention.backends.reference.frames import angular_psi, fixed_frames, published_window
from crystalformers.attention.frames.encoding import AngularEncoding
from crystalformers.attention.geometry import Geometry
from crystalformers.images import envelope, length


def attention(
    q_AHD: Tensor,
    k_AHD: Tensor,
    v_AHD: Tensor,
    inverse_variance_AH: Tensor,
    W_HDK: Tensor | None,
    geometry: Geometry,
    *,
    angular: AngularEncoding | None = None,
    published: bool = False,
) -> Tensor:
    """Attention over periodic images by brute force, (A, H, D); arguments as in `infinite_attention`."""
    batch = geometry.batch
    rows = []
    for crystal, (first, last) in enumerate(pairwise(batch.ptr.tolist())):
        atoms, lattice = slice(first, last), batch.lattice[crystal]
        fixed = fixed_frames(geometry, crystal, angular, published=published)
        for i in range(first, last):
            delta_N3 = batch.positions[atoms] - batch.positions[i]
            if published:
                r_NM3, log_factor_NMH = _published_box(delta_N3, lattice, inverse_variance_AH[i])
            else:
                r_NM3, log_factor_NMH = _sphere(delta_N3, lattice, geometry.images.radius)
            d_NM = length(r_NM3)
            phi_NMH = -0.5 * d_NM[..., None] ** 2 * inverse_variance_AH[i] + log_factor_NMH
            score_NH = torch.einsum("hd,nhd->nh", q_AHD[i], k_AHD[atoms]) / math.sqrt(q_AHD.shape[-1])

            reached = (phi_NMH > -math.inf).any(1)
            alpha_NH = torch.where(reached, torch.where(reached[:, None], phi_NMH, 0.0).logsumexp(1), -math.inf)
            share_NMH = torch.where(phi_NMH > -math.inf, (phi_NMH - alpha_NH[:, None]).nan_to_num().exp(), 0.0)
            psi_NMHD = torch.zeros_like(share_NMH[..., None])
            if W_HDK is not None:
                b_NMK = geometry.basis(d_NM)
                if published and angular is not None:
                    b_NMK = b_NMK * published_window(d_NM / geometry.basis.spacing - 1, geometry.basis)
                psi_NMHD = psi_NMHD + torch.einsum("nmk,hdk->nmhd", b_NMK, W_HDK)
            if angular is not None:
                log_weight_NMH = (score_NH[:, None] + phi_NMH).detach()
                psi_NMHD = psi_NMHD + angular_psi(r_NM3, d_NM, log_weight_NMH, angular, fixed, published=published)
            beta_NHD = torch.einsum("nmh,nmhd->nhd", share_NMH, psi_NMHD)
            p_NH = torch.softmax(score_NH + alpha_NH, dim=0)
            rows.append(torch.einsum("nh,nhd->hd", p_NH, v_AHD[atoms] + beta_NHD))
    return torch.stack(rows)


def _sphere(delta_N3: Tensor, lattice: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Vectors (N, M, 3) to all images in a box around the sphere; log of the factor on their weight, (N, M, 1)."""
    spacing = 1 / torch.linalg.inv(lattice.detach()).norm(dim=0)
    frac_N3 = torch.linalg.solve(lattice.detach().mT, delta_N3.detach().mT).mT
    r_NM3 = delta_N3[:, None] + _box(torch.ceil(radius / spacing + frac_N3.abs().amax(0))).to(lattice) @ lattice
    factor_NM = envelope(length(r_NM3), radius)
    # The logarithm of a factor 0 is -inf; `where` keeps its infinite slope out of the gradient.
    inside = factor_NM > 0
    return r_NM3, torch.where(inside, torch.where(inside, factor_NM, 1.0).log(), -math.inf)[..., None]


def _published_box(delta_N3: Tensor, lattice: Tensor, inverse_variance_H: Tensor) -> tuple[Tensor, Tensor]:
    """The same for the authors' rule, whose box depends on the head: factors are (1, M, H)."""
    spacing = 1 / torch.linalg.inv(lattice.detach()).norm(dim=0)
    sigma_H = inverse_variance_H.detach().rsqrt()
    reach_H3 = torch.ceil((3.5 * sigma_H[:, None] + 0.01) / spacing).clamp(min=2)
    cells_M3 = _box(reach_H3.amax(0))
    inside_MH = (cells_M3[:, None].abs() <= reach_H3).all(-1)
    log_factor_MH = torch.where(inside_MH, 0.0, -math.inf).to(lattice)
    return delta_N3[:, None] + cells_M3.to(lattice) @ lattice, log_factor_MH[None]


def _box(reach: Tensor) -> Tensor:
    """All cells with |n_k| <= reach_k, (M, 3)."""
    return torch.cartesian_prod(*(torch.arange(-int(r), int(r) + 1, device=reach.device) for r in reach))
