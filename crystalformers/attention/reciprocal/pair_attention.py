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

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from crystalformers.attention.reciprocal.lattice_sums import LatticeSums, SumBlock


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
        # Blocks of a crystal too large for a single one are computed again in the backward pass: all of them together
        # would not fit in memory.
        again = block.partial and torch.is_grad_enabled()
        rows.append(checkpoint(_attend, *arguments, use_reentrant=False) if again else _attend(*arguments))
    return torch.cat(rows)[sums.order]


def _attend(
    block: SumBlock, sums: LatticeSums, q_AHD: Tensor, k_AHD: Tensor, v_AHD: Tensor, variance_AH: Tensor
) -> Tensor:
    """The rows of one block, padding left out, (targets, H, D)."""
    p_GIHN = _pair_weights(block, sums, q_AHD, k_AHD, variance_AH)
    return torch.einsum("gihn,gnhd->gihd", p_GIHN, v_AHD[block.source])[block.is_target]


def _pair_weights(block: SumBlock, sums: LatticeSums, q_AHD: Tensor, k_AHD: Tensor, variance_AH: Tensor) -> Tensor:
    """Attention weights of a block, 0 where a source is padding, (G, I, H, N)."""
    q_GIHD, k_GNHD = q_AHD[block.target], k_AHD[block.source]
    score_GIHN = torch.einsum("gihd,gnhd->gihn", q_GIHD, k_GNHD) / math.sqrt(q_AHD.shape[-1])
    logit_GIHN = score_GIHN + sums.alpha(block, variance_AH.double()).to(score_GIHN.dtype)
    return torch.softmax(logit_GIHN.masked_fill(~block.is_source[:, None, None], -math.inf), dim=-1)


def pair_weights(q_AHD: Tensor, k_AHD: Tensor, variance_AH: Tensor, sums: LatticeSums) -> list[Tensor]:
    """Attention weights of each crystal, (targets, heads, sources), to be looked at: memory grows as atoms squared."""
    return by_crystal(sums, lambda block: _pair_weights(block, sums, q_AHD, k_AHD, variance_AH))


def by_crystal(sums: LatticeSums, compute: Callable[[SumBlock], Tensor]) -> list[Tensor]:
    """Values (G, I, H, N) of all blocks, padding left out, crystal by crystal, (targets, heads, sources)."""
    rows: list[list[Tensor]] = [[] for _ in range(len(sums.batch))]
    for block in sums.blocks:
        values = compute(block)
        for slot, crystal in enumerate(block.crystal.tolist()):
            rows[crystal].append(values[slot, block.is_target[slot]][..., block.is_source[slot]])
    return [torch.cat(parts) for parts in rows]
