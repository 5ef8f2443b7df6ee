# mypy: ignore-errors
"""Triton kernels of attention over periodic images: three launches, no atomics; `operators.py` calls them.

One program per atom handles all its heads. It goes through the atom's images in tiles, nearest first, with running sums
in registers; the radial functions of a tile are evaluated once, shared by the heads, and multiplied with the weights
by a small matrix product. Exponentials are powers of two: queries and decays carry a factor log2(e).

The gradients of keys and values belong to the source of an image, so a third kernel has one program per source atom
that goes through the transposed list. It reads one number per image and head that the second kernel has written, the
gradient of the logit: it contains what costs most, the product of the radial functions with the gradient of their sums.

Shapes: A atoms, E images (in kernels: those of a tile), P pairs (of a tile), H heads, D their width, K radial
functions; H, D and K are padded to powers of two inside the kernels.
"""

import math

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1 / math.log(2))
LN_2 = tl.constexpr(math.log(2))


@triton.jit
def _heads(HEADS: tl.constexpr, WIDTH: tl.constexpr, H: tl.constexpr, D: tl.constexpr):
    """Head numbers, offsets of the elements of one atom's (H, D) block, and which are real."""
    head_H = tl.arange(0, H)
    width_D = tl.arange(0, D)
    offset_HD = head_H[:, None] * WIDTH + width_D[None, :]
    real_HD = (head_H < HEADS)[:, None] & (width_D < WIDTH)[None, :]
    return head_H, offset_HD, real_HD


@triton.jit
def _rows(pointer, atom_E, there_E, offset_HD, real_HD, STRIDE: tl.constexpr):
    """The (H, D) blocks of some atoms, (E, H, D) float32."""
    offset_EHD = atom_E.to(tl.int64)[:, None, None] * STRIDE + offset_HD[None, :, :]
    mask_EHD = there_E[:, None, None] & real_HD[None, :, :]
    return tl.load(pointer + offset_EHD, mask=mask_EHD, other=0.0).to(tl.float32)


@triton.jit
def _target(q, inverse_variance, i, head_H, offset_HD, real_HD, scale, HEADS: tl.constexpr, STRIDE: tl.constexpr):
    """Query of atom i, scaled, (H, D), and half its 1/sigma^2, (H,); both for powers of two."""
    q_HD = tl.load(q + i.to(tl.int64) * STRIDE + offset_HD, mask=real_HD, other=0.0).to(tl.float32) * scale
    decay_H = tl.load(inverse_variance + i * HEADS + head_H, mask=head_H < HEADS, other=1e30) * (0.5 * LOG2_E)
    return q_HD, decay_H


@triton.jit
def _images(distance, envelope, source, first, end, IMAGES: tl.constexpr):
    """Some images of an atom, (E,) each: number, whether it is there, distance, envelope and source."""
    e_E = first + tl.arange(0, IMAGES)
    there_E = e_E < end
    d_E = tl.load(distance + e_E, mask=there_E, other=0.0)
    envelope_E = tl.load(envelope + e_E, mask=there_E, other=0.0)
    return e_E, there_E, d_E, envelope_E, tl.load(source + e_E, mask=there_E, other=0)


@triton.jit
def _logits(q_HD, decay_H, k_EHD, d_E, envelope_E):
    """Logits of some images of an atom, (E, H)."""
    logit_EH = tl.sum(q_HD[None, :, :] * k_EHD, axis=2) - decay_H[None, :] * (d_E * d_E)[:, None]
    # An image at the radius itself weighs nothing, and must not set the maximum either.
    return tl.where((envelope_E > 0)[:, None], logit_EH, float("-inf"))


@triton.jit
def _radial(d_E, spacing, per_width, K: tl.constexpr):
    """Radial functions k = 1..K of some distances, (E, K)."""
    centre_K = (tl.arange(0, K) + 1).to(tl.float32) * spacing
    t_EK = (d_E[:, None] - centre_K[None, :]) * per_width
    return tl.exp2(t_EK * t_EK * (-0.5 * LOG2_E))


@triton.jit
def _reach(
    q_HD, decay_H, k, i, distance, ptr, pair_ptr, pair_source, offset_HD, real_HD, negligible,
    STRIDE: tl.constexpr, PAIRS: tl.constexpr, SCAN: tl.constexpr,
):  # fmt: skip
    """First and last (exclusive) image of atom i that may count.

    No logit exceeds the largest score of any pair minus decay d^2, and none of the largest is below the atom's own
    score, which is the logit of its image at distance 0.
    """
    begin, end = tl.load(ptr + i), tl.load(ptr + i + 1)
    own_HD = tl.load(k + i.to(tl.int64) * STRIDE + offset_HD, mask=real_HD, other=0.0).to(tl.float32)
    own_H = tl.sum(q_HD * own_HD, axis=1)
    best_H = own_H
    last_pair = tl.load(pair_ptr + i + 1)
    for first in range(tl.load(pair_ptr + i), last_pair, PAIRS):
        p_P = first + tl.arange(0, PAIRS)
        there_P = p_P < last_pair
        source_P = tl.load(pair_source + p_P, mask=there_P, other=0)
        k_PHD = _rows(k, source_P, there_P, offset_HD, real_HD, STRIDE)
        score_PH = tl.sum(q_HD[None, :, :] * k_PHD, axis=2)
        best_H = tl.maximum(best_H, tl.max(tl.where(there_P[:, None], score_PH, float("-inf")), axis=0))
    farthest = tl.max((best_H - own_H + negligible) / decay_H, axis=0)
    count_S = tl.zeros((SCAN,), dtype=tl.int32)
    for first in range(begin, end, SCAN):
        e_S = first + tl.arange(0, SCAN)
        d_S = tl.load(distance + e_S, mask=e_S < end, other=float("inf"))
        count_S += (d_S * d_S <= farthest).to(tl.int32)
    return begin, begin + tl.sum(count_S, axis=0)


@triton.jit
def image_sum(
    q, k, v, inverse_variance, distance, envelope, source, ptr, pair_ptr, pair_source,
    y, b, weight, log_z, stop,
    scale, spacing, per_width, negligible,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, COUNT: tl.constexpr,
    H: tl.constexpr, D: tl.constexpr, K: tl.constexpr,
    IMAGES: tl.constexpr, PAIRS: tl.constexpr, SCAN: tl.constexpr,
    WEIGHTED: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """y_i = sum_e p_e v_j(e), b_i = sum_e p_e b(d_e), log2 Z_i, and the first image not summed, of one atom.

    With WEIGHTED also the weights p of its images, (E, H).
    """
    i = tl.program_id(0)
    STRIDE: tl.constexpr = HEADS * WIDTH
    head_H, offset_HD, real_HD = _heads(HEADS, WIDTH, H, D)
    atom, real_H = i.to(tl.int64) * STRIDE, head_H < HEADS
    q_HD, decay_H = _target(q, inverse_variance, i, head_H, offset_HD, real_HD, scale, HEADS, STRIDE)
    begin, end = _reach(
        q_HD, decay_H, k, i, distance, ptr, pair_ptr, pair_source, offset_HD, real_HD, negligible, STRIDE, PAIRS, SCAN
    )
    top_H = tl.full((H,), float("-inf"), dtype=tl.float32)
    z_H = tl.zeros((H,), dtype=tl.float32)
    y_HD = tl.zeros((H, D), dtype=tl.float32)
    b_KH = tl.zeros((K, H), dtype=tl.float32)
    for first in range(begin, end, IMAGES):
        _, there_E, d_E, envelope_E, j_E = _images(distance, envelope, source, first, end, IMAGES)
        k_EHD = _rows(k, j_E, there_E, offset_HD, real_HD, STRIDE)
        v_EHD = _rows(v, j_E, there_E, offset_HD, real_HD, STRIDE)
        logit_EH = _logits(q_HD, decay_H, k_EHD, d_E, envelope_E)
        new_H = tl.maximum(top_H, tl.max(logit_EH, axis=0))
        shrink_H = tl.exp2(top_H - new_H)
        w_EH = tl.exp2(logit_EH - new_H[None, :]) * envelope_E[:, None]
        z_H = z_H * shrink_H + tl.sum(w_EH, axis=0)
        y_HD = y_HD * shrink_H[:, None] + tl.sum(w_EH[:, :, None] * v_EHD, axis=0)
        if COUNT > 0:
            b_EK = _radial(d_E, spacing, per_width, K)
            b_KH = b_KH * shrink_H[None, :]
            b_KH = tl.dot(tl.trans(b_EK).to(OPERAND), w_EH.to(OPERAND), b_KH, input_precision=PRECISION)
        top_H = new_H
    # An atom without images, as padding has, sums to zero.
    z_H = tl.where(z_H > 0, z_H, 1.0)
    per_z_H = 1 / z_H
    tl.store(y + atom + offset_HD, y_HD * per_z_H[:, None], mask=real_HD)
    log_z_H = top_H + tl.log2(z_H)
    tl.store(log_z + i * HEADS + head_H, log_z_H, mask=real_H)
    tl.store(stop + i, end)
    if COUNT > 0:
        k_K = tl.arange(0, K)
        offset_KH = i.to(tl.int64) * HEADS * COUNT + head_H[None, :] * COUNT + k_K[:, None]
        tl.store(b + offset_KH, b_KH * per_z_H[None, :], mask=(k_K < COUNT)[:, None] & real_H[None, :])
    if WEIGHTED:
        for first in range(begin, end, IMAGES):
            e_E, there_E, d_E, envelope_E, j_E = _images(distance, envelope, source, first, end, IMAGES)
            k_EHD = _rows(k, j_E, there_E, offset_HD, real_HD, STRIDE)
            logit_EH = _logits(q_HD, decay_H, k_EHD, d_E, envelope_E)
            p_EH = tl.exp2(logit_EH - log_z_H[None, :]) * envelope_E[:, None]
            offset_EH = e_E.to(tl.int64)[:, None] * HEADS + head_H[None, :]
            tl.store(weight + offset_EH, p_EH, mask=there_E[:, None] & real_H[None, :])


@triton.jit
def image_sum_backward(
    q, k, v, inverse_variance, distance, envelope, source, ptr,
    y, b, log_z, stop, grad_y, grad_b, weight, grad_weight,
    grad_logit, excess, grad_q, grad_inverse_variance,
    scale, spacing, per_width,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, COUNT: tl.constexpr,
    H: tl.constexpr, D: tl.constexpr, K: tl.constexpr,
    IMAGES: tl.constexpr, WEIGHTED: tl.constexpr, OPERAND: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of q and 1 / sigma^2 of one atom, and of the logits of its images, (E, H); natural logarithms."""
    i = tl.program_id(0)
    STRIDE: tl.constexpr = HEADS * WIDTH
    head_H, offset_HD, real_HD = _heads(HEADS, WIDTH, H, D)
    atom, real_H = i.to(tl.int64) * STRIDE, head_H < HEADS
    q_HD, decay_H = _target(q, inverse_variance, i, head_H, offset_HD, real_HD, scale, HEADS, STRIDE)
    grad_y_HD = tl.load(grad_y + atom + offset_HD, mask=real_HD, other=0.0)
    log_z_H = tl.load(log_z + i * HEADS + head_H, mask=real_H, other=0.0)
    mean_H = tl.sum(grad_y_HD * tl.load(y + atom + offset_HD, mask=real_HD, other=0.0), axis=1)
    if COUNT > 0:
        k_K = tl.arange(0, K)
        offset_KH = i.to(tl.int64) * HEADS * COUNT + head_H[None, :] * COUNT + k_K[:, None]
        real_KH = (k_K < COUNT)[:, None] & real_H[None, :]
        grad_b_KH = tl.load(grad_b + offset_KH, mask=real_KH, other=0.0)
        mean_H += tl.sum(grad_b_KH * tl.load(b + offset_KH, mask=real_KH, other=0.0), axis=0)
    total_H = tl.zeros((H,), dtype=tl.float32)
    excess_H = tl.zeros((H,), dtype=tl.float32)
    squares_H = tl.zeros((H,), dtype=tl.float32)
    slope_H = tl.zeros((H,), dtype=tl.float32)
    grad_q_HD = tl.zeros((H, D), dtype=tl.float32)
    mean_k_HD = tl.zeros((H, D), dtype=tl.float32)
    begin, end = tl.load(ptr + i), tl.load(stop + i)
    if WEIGHTED:
        for first in range(begin, end, IMAGES):
            e_E = (first + tl.arange(0, IMAGES)).to(tl.int64)
            offset_EH = e_E[:, None] * HEADS + head_H[None, :]
            there_EH = (e_E < end)[:, None] & real_H[None, :]
            p_EH = tl.load(weight + offset_EH, mask=there_EH, other=0.0)
            mean_H += tl.sum(p_EH * tl.load(grad_weight + offset_EH, mask=there_EH, other=0.0), axis=0)
    for first in range(begin, end, IMAGES):
        e_E, there_E, d_E, envelope_E, j_E = _images(distance, envelope, source, first, end, IMAGES)
        k_EHD = _rows(k, j_E, there_E, offset_HD, real_HD, STRIDE)
        v_EHD = _rows(v, j_E, there_E, offset_HD, real_HD, STRIDE)
        logit_EH = _logits(q_HD, decay_H, k_EHD, d_E, envelope_E)
        squared_E = d_E * d_E
        p_EH = tl.exp2(logit_EH - log_z_H[None, :]) * envelope_E[:, None]
        value_EH = tl.sum(grad_y_HD[None, :, :] * v_EHD, axis=2) - mean_H[None, :]
        if COUNT > 0:
            b_EK = _radial(d_E, spacing, per_width, K)
            value_EH = tl.dot(b_EK.to(OPERAND), grad_b_KH.to(OPERAND), value_EH, input_precision=PRECISION)
        offset_EH = e_E.to(tl.int64)[:, None] * HEADS + head_H[None, :]
        there_EH = there_E[:, None] & real_H[None, :]
        if WEIGHTED:
            value_EH += tl.load(grad_weight + offset_EH, mask=there_EH, other=0.0)
        g_EH = p_EH * value_EH
        tl.store(grad_logit + offset_EH, g_EH, mask=there_EH)
        total_H += tl.sum(p_EH, axis=0)
        excess_H += tl.sum(g_EH, axis=0)
        squares_H += tl.sum(p_EH * squared_E[:, None], axis=0)
        slope_H += tl.sum(g_EH * squared_E[:, None], axis=0)
        grad_q_HD += tl.sum(g_EH[:, :, None] * k_EHD, axis=0)
        mean_k_HD += tl.sum(p_EH[:, :, None] * k_EHD, axis=0)
    # The gradients of the logits sum to zero; what rounding left of `mean` is taken back here and in the next kernel.
    excess_H = excess_H / tl.where(total_H > 0, total_H, 1.0)
    grad_q_HD -= excess_H[:, None] * mean_k_HD
    tl.store(grad_q + atom + offset_HD, grad_q_HD * (scale * LN_2), mask=real_HD)
    tl.store(grad_inverse_variance + i * HEADS + head_H, 0.5 * (excess_H * squares_H - slope_H), mask=real_H)
    tl.store(excess + i * HEADS + head_H, excess_H, mask=real_H)


@triton.jit
def image_sum_pull(
    q, k, inverse_variance, distance, envelope, log_z, stop, grad_y, grad_logit, excess,
    by_source, target, source_ptr,
    grad_k, grad_v,
    scale,
    HEADS: tl.constexpr, WIDTH: tl.constexpr,
    H: tl.constexpr, D: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of k and v of one source atom, from all images of it, nearest first."""
    j = tl.program_id(0)
    STRIDE: tl.constexpr = HEADS * WIDTH
    head_H, offset_HD, real_HD = _heads(HEADS, WIDTH, H, D)
    atom, real_H = j.to(tl.int64) * STRIDE, head_H < HEADS
    k_HD = tl.load(k + atom + offset_HD, mask=real_HD, other=0.0).to(tl.float32) * scale
    grad_k_HD = tl.zeros((H, D), dtype=tl.float32)
    grad_v_HD = tl.zeros((H, D), dtype=tl.float32)
    end = tl.load(source_ptr + j + 1)
    for first in range(tl.load(source_ptr + j), end, IMAGES):
        n_E = first + tl.arange(0, IMAGES)
        e_E = tl.load(by_source + n_E, mask=n_E < end, other=0)
        i_E = tl.load(target + n_E, mask=n_E < end, other=0)
        there_E = (n_E < end) & (e_E < tl.load(stop + i_E, mask=n_E < end, other=0))
        # Far tiles hold nothing that any of the targets summed.
        if tl.max(there_E.to(tl.int32), axis=0) > 0:
            d_E = tl.load(distance + e_E, mask=there_E, other=0.0)
            envelope_E = tl.load(envelope + e_E, mask=there_E, other=0.0)
            there_EH = there_E[:, None] & real_H[None, :]
            row_EH = i_E[:, None] * HEADS + head_H[None, :]
            decay_EH = tl.load(inverse_variance + row_EH, mask=there_EH, other=0.0) * (0.5 * LOG2_E)
            log_z_EH = tl.load(log_z + row_EH, mask=there_EH, other=0.0)
            excess_EH = tl.load(excess + row_EH, mask=there_EH, other=0.0)
            g_EH = tl.load(grad_logit + e_E.to(tl.int64)[:, None] * HEADS + head_H[None, :], mask=there_EH, other=0.0)
            q_EHD = _rows(q, i_E, there_E, offset_HD, real_HD, STRIDE)
            grad_y_EHD = _rows(grad_y, i_E, there_E, offset_HD, real_HD, STRIDE)
            logit_EH = tl.sum(q_EHD * k_HD[None, :, :], axis=2) - decay_EH * (d_E * d_E)[:, None]
            logit_EH = tl.where((envelope_E > 0)[:, None], logit_EH, float("-inf"))
            p_EH = tl.exp2(logit_EH - log_z_EH) * envelope_E[:, None]
            g_EH -= excess_EH * p_EH
            grad_k_HD += tl.sum(g_EH[:, :, None] * q_EHD, axis=0)
            grad_v_HD += tl.sum(p_EH[:, :, None] * grad_y_EHD, axis=0)
    tl.store(grad_k + atom + offset_HD, grad_k_HD * (scale * LN_2), mask=real_HD)
    tl.store(grad_v + atom + offset_HD, grad_v_HD, mask=real_HD)
