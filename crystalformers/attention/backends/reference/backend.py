"""The equations of the papers as plainly as they can be written: the reference that every backend is tested against.

Infinitely connected attention of Crystalformer (section 3.1) in its pseudo-finite form, grouped by source atom j:

    alpha_ij = log sum_n exp phi_ij(n)
    beta_ij  = sum_n softmax_n(phi_ij(n)) psi_ij(n)
    y_i      = sum_j softmax_j(q_i . k_j / sqrt(d_h) + alpha_ij) (v_j + beta_ij)

with phi_ij(n) = -|r_ij(n)|^2 / 2 sigma_i^2 and psi_ij(n) = W^E b(|r_ij(n)|); CrystalFramer adds the cosines between
r_ij(n) and the axes of a local frame, psi_ij(n) = W_0 b(|r|) + sum_k W_k b_angle(e_k . r / |r|). The lattice sum runs
by brute force over a box of cells around the sphere of images, one target atom at a time; the cutoff envelope of an
image is a factor on exp phi.

Shapes: A atoms of a batch, N of one crystal, M cells of the box, H heads, D their width, K radial functions.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

from crystalformers.attention.arguments import Arguments, different_types
from crystalformers.attention.backends.reference.frames import angular_psi, fixed_frames
from crystalformers.attention.frames.encoding import AngularEncoding
from crystalformers.attention.geometry import Geometry
from crystalformers.images import envelope, length
from crystalformers.images.batch import without_noise


def unsupported_reason(q_AHD: Tensor, geometry: Geometry, angular: AngularEncoding | None) -> str | None:
    """See `BackendModule`."""
    return different_types(q_AHD, geometry)


def attention(arguments: Arguments) -> Tensor:
    """Attention over periodic images by brute force, (A, H, D)."""
    q_AHD, k_AHD, v_AHD, inverse_variance_AH, W_HDK, geometry, angular, _ = arguments
    batch, exact = geometry.batch, geometry.batch.in_float64()
    rows = []
    for crystal, (first, last) in enumerate(pairwise(batch.ptr.tolist())):
        atoms = slice(first, last)
        fixed = fixed_frames(geometry, crystal, angular)
        for i in range(first, last):
            delta_N3 = exact.positions[atoms] - exact.positions[i]
            sphere = image_sphere(delta_N3, exact.lattice[crystal], geometry.images.radius)
            r_NM3, log_factor_NM1 = (t.to(batch.positions.dtype) for t in sphere)
            d_NM = length(r_NM3)
            phi_NMH = -0.5 * d_NM[..., None] ** 2 * inverse_variance_AH[i] + log_factor_NM1
            score_NH = torch.einsum("hd,nhd->nh", q_AHD[i], k_AHD[atoms]) / math.sqrt(q_AHD.shape[-1])
            psi_NMHD = phi_NMH.new_zeros(*phi_NMH.shape, v_AHD.shape[-1])
            if W_HDK is not None:
                psi_NMHD = psi_NMHD + torch.einsum("nmk,hdk->nmhd", geometry.basis(d_NM), W_HDK)
            if angular is not None:
                log_weight_NMH = (score_NH[:, None] + phi_NMH).detach()
                psi_NMHD = psi_NMHD + angular_psi(r_NM3, d_NM, log_weight_NMH, angular, fixed)
            rows.append(attend(score_NH, phi_NMH, psi_NMHD, v_AHD[atoms]))
    return torch.stack(rows)


def attend(score_NH: Tensor, phi_NMH: Tensor, psi_NMHD: Tensor, v_NHD: Tensor) -> Tensor:
    """The three equations above for one target atom, (H, D).

    Args:
        score_NH: q_i . k_j / sqrt(d_h).
        phi_NMH: logarithms of the weights of the images, -inf for one that does not count.
        psi_NMHD: value encoding of the images.
        v_NHD: values of the atoms.
    """
    reached = (phi_NMH > -math.inf).any(1)
    alpha_NH = torch.where(reached, torch.where(reached[:, None], phi_NMH, 0.0).logsumexp(1), -math.inf)
    share_NMH = torch.where(phi_NMH > -math.inf, (phi_NMH - alpha_NH[:, None]).nan_to_num().exp(), 0.0)
    beta_NHD = torch.einsum("nmh,nmhd->nhd", share_NMH, psi_NMHD)
    p_NH = torch.softmax(score_NH + alpha_NH, dim=0)
    return torch.einsum("nh,nhd->hd", p_NH, v_NHD + beta_NHD)


def image_sphere(delta_N3: Tensor, lattice: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Vectors (N, M, 3) to all images in a box around the sphere; log of the factor on their weight, (N, M, 1)."""
    spacing = 1 / torch.linalg.inv(lattice.detach()).norm(dim=0)
    nearest_N3 = torch.linalg.solve(lattice.detach().mT, delta_N3.detach().mT).mT.round()
    cells_M3 = cell_box(torch.ceil(radius / spacing + 0.5))
    r_NM3 = without_noise((delta_N3 - nearest_N3 @ lattice)[:, None] + cells_M3.to(lattice) @ lattice)
    factor_NM = envelope(length(r_NM3), radius)
    # The logarithm of a factor 0 is -inf; the inner `where` keeps its infinite slope out of the gradient.
    inside = factor_NM > 0
    return r_NM3, torch.where(inside, torch.where(inside, factor_NM, 1.0).log(), -math.inf)[..., None]


def cell_box(reach: Tensor) -> Tensor:
    """All cells with |n_k| <= reach_k, (M, 3)."""
    return torch.cartesian_prod(*(torch.arange(-int(r), int(r) + 1, device=reach.device) for r in reach))
