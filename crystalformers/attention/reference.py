"""The equations of the papers, as plainly as they can be written: the law that every backend is tested by.

Infinitely connected attention of Crystalformer (section 3.1) in its pseudo-finite form, grouped by source atom j:

    alpha_ij = log sum_n exp phi_ij(n)
    beta_ij  = sum_n softmax_n(phi_ij(n)) psi_ij(n)
    y_i      = sum_j softmax_j(q_i . k_j / sqrt(d_h) + alpha_ij) (v_j + beta_ij)

with phi_ij(n) = -|r_ij(n)|^2 / 2 sigma_i^2 and psi_ij(n) = W^E b(|r_ij(n)|). The lattice sum runs by brute
force over a box of cells, one target atom at a time. Two rules say which images of the box count:

* `sphere`: those within a radius, with the taper of `images.py`; depends on the crystal alone.
* `published_box`: the whole box |n_k| <= max(ceil((3.5 sigma_i + 0.01) |b_k| / 2 pi), 2) around the raw difference
  of coordinates, as the authors' code sums it; depends on the cell (see docs/differences.md).

Shapes: A atoms of a batch, N of one crystal, M cells of the box, H heads, D their width, K radial functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from crystalformers.attention.geometry import Geometry, RadialBasis
from crystalformers.images import taper

Weight = Callable[[Tensor, Tensor], Tensor]
"""Maps distances (N, M) and cells (M, 3) to the factor on each image's weight, (N, M) or (N, M, H)."""


def attention(
    q_AHD: Tensor,
    k_AHD: Tensor,
    v_AHD: Tensor,
    inverse_variance_AH: Tensor,
    W_HDK: Tensor | None,
    geometry: Geometry,
    *,
    published_box: bool = False,
) -> Tensor:
    """Attention over periodic images by brute force, (A, H, D); arguments as in `infinite_attention`."""
    batch = geometry.batch
    radius = geometry.images.radius
    bounds = batch.ptr.tolist()
    rows = []
    for crystal, (first, last) in enumerate(pairwise(bounds)):
        atoms, lattice = slice(first, last), batch.lattice[crystal]
        positions = batch.positions[atoms]
        spacing = 1 / torch.linalg.inv(lattice.detach()).norm(dim=0)
        for i in range(first, last):
            delta = positions - batch.positions[i]
            if published_box:
                sigma = inverse_variance_AH[i].detach().rsqrt()
                reach = torch.ceil((3.5 * sigma[:, None] + 0.01) / spacing).clamp(min=2)
                cells = _box(reach.amax(0))
                weight: Weight = _in_box(reach)
            else:
                frac = torch.linalg.solve(lattice.detach().mT, delta.detach().mT).mT
                cells = _box(torch.ceil(radius / spacing + frac.abs().amax(0)))
                weight = _in_sphere(radius)
            alpha_NH, beta_NHD = _alpha_beta(
                _distances(delta, cells, lattice),
                cells,
                weight,
                inverse_variance_AH[i],
                W_HDK,
                geometry.basis,
            )
            score_NH = torch.einsum("hd,nhd->nh", q_AHD[i], k_AHD[atoms]) / math.sqrt(q_AHD.shape[-1])
            p_NH = torch.softmax(score_NH + alpha_NH, dim=0)
            rows.append(torch.einsum("nh,nhd->hd", p_NH, v_AHD[atoms] + beta_NHD))
    return torch.stack(rows)


def _alpha_beta(
    distance_NM: Tensor,
    cells_M3: Tensor,
    weight: Weight,
    inverse_variance_H: Tensor,
    W_HDK: Tensor | None,
    basis: RadialBasis,
) -> tuple[Tensor, Tensor]:
    """The alpha (N, H) and beta (N, H, D) of one target atom."""
    phi_NMH = -0.5 * distance_NM[..., None] ** 2 * inverse_variance_H
    factor = weight(distance_NM, cells_M3)
    factor_NMH = (factor if factor.dim() == 3 else factor[..., None]).expand_as(phi_NMH)
    # The logarithm of a factor 0 is -inf; `where` keeps its infinite slope out of the gradient.
    counts = factor_NMH > 0
    phi_NMH = torch.where(counts, phi_NMH + torch.where(counts, factor_NMH, 1.0).log(), -math.inf)
    reached = counts.any(1)
    alpha_NH = torch.where(reached, torch.logsumexp(torch.where(reached[:, None], phi_NMH, 0.0), 1), -math.inf)
    if W_HDK is None:
        return alpha_NH, alpha_NH.new_zeros(())
    p_NMH = torch.where(counts, torch.exp(phi_NMH - torch.where(reached, alpha_NH, 0.0)[:, None]), 0.0)
    b_NMK = basis(distance_NM)
    return alpha_NH, torch.einsum("nhk,hdk->nhd", torch.einsum("nmh,nmk->nhk", p_NMH, b_NMK), W_HDK)


def _distances(delta_N3: Tensor, cells_M3: Tensor, lattice: Tensor) -> Tensor:
    squared = (delta_N3[:, None] + cells_M3.to(lattice.dtype) @ lattice).square().sum(-1)
    self_image = squared == 0
    return torch.where(self_image, 0.0, torch.where(self_image, 1.0, squared).sqrt())


def _box(reach: Tensor) -> Tensor:
    """All cells with |n_k| <= reach_k, (M, 3)."""
    return torch.cartesian_prod(*(torch.arange(-int(r), int(r) + 1, device=reach.device) for r in reach))


def _in_sphere(radius: float) -> Weight:
    return lambda distance_NM, cells_M3: taper(distance_NM, radius)


def _in_box(reach_H3: Tensor) -> Weight:
    def weight(distance_NM: Tensor, cells_M3: Tensor) -> Tensor:
        inside_MH = (cells_M3[:, None].abs() <= reach_H3).all(-1).to(distance_NM.dtype)
        return inside_MH.expand(len(distance_NM), -1, -1)

    return weight
