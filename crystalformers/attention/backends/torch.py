"""Attention over images in vectorised PyTorch: any device, any floating-point type, every gradient.

It follows the algebra of the sum rather than its pair form: distances and radial functions are shared by
heads and layers; the weights of an atom's images accumulate the K radial functions first, and W^E is applied
once per atom and head.

Shapes: A atoms, M most images of one atom, P pairs, H heads, D their width, K radial functions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crystalformers.attention.arguments import Arguments, different_types
from crystalformers.attention.frames.encoding import AngularEncoding, angular_values
from crystalformers.attention.geometry import Geometry


def unsupported_reason(q_AHD: Tensor, geometry: Geometry, angular: AngularEncoding | None) -> str | None:
    """See `BackendModule`."""
    return different_types(q_AHD, geometry)


def attention(arguments: Arguments) -> Tensor:
    """Attention over periodic images, (A, H, D)."""
    q_AHD, k_AHD, v_AHD, inverse_variance_AH, W_HDK, geometry, angular, _ = arguments
    images = geometry.images
    slot_AM, real_AM = geometry.slots
    pair_AM = images.pair[slot_AM]
    p_AMH, logit_AMH = image_weights(q_AHD, k_AHD, inverse_variance_AH, geometry)
    p_PH = p_AMH.new_zeros(len(images.pair_target), p_AMH.shape[2]).index_add(0, pair_AM[real_AM], p_AMH[real_AM])
    y_AHD = torch.zeros_like(v_AHD).index_add(0, images.pair_target, p_PH.unsqueeze(-1) * v_AHD[images.pair_source])
    if W_HDK is not None:
        b_AHK = p_AMH.mT @ geometry.basis_AMK
        y_AHD = y_AHD + torch.einsum("ahk,hdk->ahd", b_AHK, W_HDK)
    if angular is not None:
        y_AHD = y_AHD + angular_values(p_AMH, log_weights(logit_AMH, geometry), geometry, angular)
    return y_AHD


def image_weights(
    q_AHD: Tensor, k_AHD: Tensor, inverse_variance_AH: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The attention weight of every image slot, 0 where it holds none, and its logit without the envelope, (A, M, H).

    Arguments as in `infinite_attention`.
    """
    images = geometry.images
    slot_AM, real_AM = geometry.slots
    # An image at the radius itself weighs nothing, but if its score were the largest, all others would underflow.
    real_AM = real_AM & (images.envelope[slot_AM] > 0)
    pair_AM = images.pair[slot_AM]
    score_PH = (q_AHD[images.pair_target] * k_AHD[images.pair_source]).sum(-1) / math.sqrt(q_AHD.shape[-1])
    squared_AM1 = images.distance.square()[slot_AM].unsqueeze(-1)
    logit_AMH = score_PH[pair_AM] - 0.5 * squared_AM1 * inverse_variance_AH.unsqueeze(1)
    p_AMH = torch.softmax(logit_AMH.masked_fill(~real_AM.unsqueeze(-1), -math.inf), dim=1)
    p_AMH = p_AMH * images.envelope[slot_AM].unsqueeze(-1)
    return p_AMH / p_AMH.sum(1, keepdim=True), logit_AMH


def log_weights(logit_AMH: Tensor, geometry: Geometry) -> Tensor:
    """Logarithms of the weights of `image_weights` up to a constant, by which frames choose, (A, M, H)."""
    envelope_AM = geometry.images.envelope[geometry.slots[0]]
    # `where` keeps the infinite slope of log 0 out of the gradient.
    inside_AM = envelope_AM > 0
    log_envelope_AM = torch.where(inside_AM, torch.where(inside_AM, envelope_AM, 1.0).log(), -math.inf)
    return logit_AMH + log_envelope_AM.unsqueeze(-1)
