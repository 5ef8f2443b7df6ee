"""Attention with Gaussian lattice sums that converge in reciprocal space: widths bounded from below.

    y_i    = sum_j softmax_j(q_i . k_j / sqrt(d_h) + alpha_ij) v_j,   alpha_ij = log S_ij,
    S_ij   = sum_n exp(-|p_j + n L - p_i|^2 / 2 s_i^2)
           = (2 pi s_i^2)^(3/2) / V sum_m exp(-s_i^2 |w_m|^2 / 2) cos(w_m . (p_j - p_i))
                                                            (Crystalformer, section 3 and appendix)

the same attention over periodic images as in real space, without a value encoding. `lattice_sums.py` tells how the
sums run.

Shapes: A atoms of a batch, H heads, D their width, N atoms of one crystal, M frequencies. Within a block: G crystals
side by side, I target atoms, N source atoms.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from crystalformers.attention.reciprocal.lattice_sums import Block, LatticeSums, dual_lattice, log_factor
from crystalformers.images import CrystalBatch


def attention(q_AHD: Tensor, k_AHD: Tensor, v_AHD: Tensor, variance_AH: Tensor, sums: LatticeSums) -> Tensor:
    """Attend from every atom to all atoms of its crystal with all their periodic images.

    Args:
        q_AHD: queries, with their bias and before the factor 1/sqrt(d_h), shape (atoms, heads, width).
        k_AHD: keys, same shape.
        v_AHD: values, same shape.
        variance_AH: s^2 of the Gaussian decay, Å², shape (atoms, heads), nowhere below the plan's `sigma_min` squared.
        sums: the lattice sums of the batch, planned once for all layers.

    Returns:
        y, shape (atoms, heads, width), with gradients to every tensor, to positions and to the lattice.
    """
    rows = []
    for block in sums.blocks:
        arguments = (block, sums, q_AHD, k_AHD, v_AHD, variance_AH)
        # Blocks of a crystal too large for one are computed again in the backward pass, or all would be kept.
        again = block.partial and torch.is_grad_enabled()
        rows.append(checkpoint(_attend, *arguments, use_reentrant=False) if again else _attend(*arguments))
    return torch.cat(rows)[sums.order]


def _attend(
    block: Block, sums: LatticeSums, q_AHD: Tensor, k_AHD: Tensor, v_AHD: Tensor, variance_AH: Tensor
) -> Tensor:
    """The rows of one block, padding left out, (targets, H, D)."""
    p_GIHN = _pair_weights(block, sums, q_AHD, k_AHD, variance_AH)
    return torch.einsum("gihn,gnhd->gihd", p_GIHN, v_AHD[block.source])[block.is_target]


def _pair_weights(block: Block, sums: LatticeSums, q_AHD: Tensor, k_AHD: Tensor, variance_AH: Tensor) -> Tensor:
    """Attention weights of a block, 0 where a source is padding, (G, I, H, N)."""
    q_GIHD, k_GNHD = q_AHD[block.target], k_AHD[block.source]
    score_GIHN = torch.einsum("gihd,gnhd->gihn", q_GIHD, k_GNHD) / math.sqrt(q_AHD.shape[-1])
    logit_GIHN = score_GIHN + sums.alpha(block, variance_AH.double()).to(score_GIHN.dtype)
    return torch.softmax(logit_GIHN.masked_fill(~block.is_source[:, None, None], -math.inf), dim=-1)


def pair_weights(q_AHD: Tensor, k_AHD: Tensor, variance_AH: Tensor, sums: LatticeSums) -> list[Tensor]:
    """Attention weights of each crystal, (targets, heads, sources); to look at, memory grows as atoms squared."""
    return _by_crystal(sums, lambda block: _pair_weights(block, sums, q_AHD, k_AHD, variance_AH))


def alpha(variance_AH: Tensor, sums: LatticeSums) -> list[Tensor]:
    """alpha_ij of each crystal, (targets, heads, sources), float64; to look at, memory grows as atoms squared."""
    return _by_crystal(sums, lambda block: sums.alpha(block, variance_AH.double()))


def _by_crystal(sums: LatticeSums, compute: Callable[[Block], Tensor]) -> list[Tensor]:
    """Values (G, I, H, N) of all blocks, padding left out, crystal by crystal, (targets, heads, sources)."""
    rows: list[list[Tensor]] = [[] for _ in range(len(sums.batch))]
    for block in sums.blocks:
        values = compute(block)
        for slot, crystal in enumerate(block.crystal.tolist()):
            rows[crystal].append(values[slot, block.is_target[slot]][..., block.is_source[slot]])
    return [torch.cat(parts) for parts in rows]


def published_attention(
    q_AHD: Tensor, k_AHD: Tensor, v_AHD: Tensor, variance_AH: Tensor, batch: CrystalBatch
) -> Tensor:
    """Attention as the authors' code sums it, for comparison: all |m_k| <= 2, and S_ij clamped at 1e-6, (A, H, D).

    It depends on the cell, and has no gradient where the clamp holds. Their volume carries the sign of the cell's
    handedness, so that left-handed cells give NaN; here it is positive.
    """
    rows = []
    for (first, last), lattice in zip(pairwise(batch.ptr.tolist()), batch.lattice, strict=True):
        atoms = slice(first, last)
        score_NHN = torch.einsum("ihd,jhd->ihj", q_AHD[atoms], k_AHD[atoms]) / math.sqrt(q_AHD.shape[-1])
        p_NHN = torch.softmax(score_NHN + published_alpha(variance_AH[atoms], batch.positions[atoms], lattice), dim=-1)
        rows.append(torch.einsum("ihj,jhd->ihd", p_NHN, v_AHD[atoms]))
    return torch.cat(rows)


def published_alpha(variance_NH: Tensor, positions: Tensor, lattice: Tensor) -> Tensor:
    """The authors' alpha_ij of one crystal, (targets, heads, sources); see `published_attention`."""
    m = torch.arange(-2, 3, device=lattice.device, dtype=lattice.dtype)
    m_M3 = torch.cartesian_prod(m[2:], m, m)
    w_M3 = m_M3 @ dual_lattice(lattice)
    weight_NHM = torch.exp(-0.5 * variance_NH.unsqueeze(-1) * w_M3.square().sum(-1)) * (1 + m_M3[:, 0].sign())
    cosine_NNM = torch.cos((positions - positions[:, None]) @ w_M3.mT)
    sum_NHN = torch.einsum("ihm,ijm->ihj", weight_NHM, cosine_NNM)
    return torch.log((log_factor(variance_NH, lattice).exp().unsqueeze(-1) * sum_NHN).clamp(min=1e-6))
