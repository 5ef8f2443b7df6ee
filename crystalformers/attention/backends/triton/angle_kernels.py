# mypy: ignore-errors
"""Triton kernels of the sums of angular functions over images and frames; `frames.py` calls them.

One program per row (atom and head) goes through the atom's images in tiles; tiles without weight are skipped.

Shapes: E images (of a tile), K angular functions, padded to a power of two.
"""

import math

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1 / math.log(2))


@triton.jit
def _angular(direction, frame, n_E, there_E, spacing, per_width, Z: tl.constexpr, K: tl.constexpr):
    """Angular functions of the cosines between some images and axis Z of a frame, (E, K)."""
    cosine_E = tl.zeros_like(n_E).to(tl.float32)
    for x in tl.static_range(3):
        axis = tl.load(frame + 3 * Z + x)
        cosine_E += axis * tl.load(direction + 3 * n_E + x, mask=there_E, other=0.0)
    centre_K = tl.arange(0, K).to(tl.float32) * spacing - 1
    t_EK = (cosine_E[:, None] - centre_K[None, :]) * per_width
    return tl.exp2(t_EK * t_EK * (-0.5 * LOG2_E))


@triton.jit
def angular_sum(
    p, direction, ptr, frame_ptr, axes, share,
    sums,
    spacing, per_width,
    HEADS: tl.constexpr, COUNT: tl.constexpr, K: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """Sums of p b(cosine) over the images of one atom and the frames of one of its heads, (3, K)."""
    row = tl.program_id(0)
    i, h = row // HEADS, row % HEADS
    # The first image is the atom itself, which has no direction.
    begin, end = tl.load(ptr + i) + 1, tl.load(ptr + i + 1)
    first_frame, last_frame = tl.load(frame_ptr + row), tl.load(frame_ptr + row + 1)
    k_K = tl.arange(0, K)
    for Z in tl.static_range(3):
        sum_K = tl.zeros((K,), dtype=tl.float32)
        for first in range(begin, end, IMAGES):
            n_E = (first + tl.arange(0, IMAGES)).to(tl.int64)
            p_E = tl.load(p + n_E * HEADS + h, mask=n_E < end, other=0.0)
            if tl.max(p_E, axis=0) > 0:
                # Ties can make hundreds of frames: a sum of sums rounds less than one long sum.
                tile_K = tl.zeros((K,), dtype=tl.float32)
                for f in range(first_frame, last_frame):
                    b_EK = _angular(direction, axes + 9 * f, n_E, n_E < end, spacing, per_width, Z, K)
                    tile_K += tl.sum((p_E * tl.load(share + f))[:, None] * b_EK, axis=0)
                sum_K += tile_K
        tl.store(sums + (row.to(tl.int64) * 3 + Z) * COUNT + k_K, sum_K, mask=k_K < COUNT)


@triton.jit
def angular_sum_backward(
    grad, p, direction, ptr, frame_ptr, axes, share,
    grad_p,
    spacing, per_width,
    HEADS: tl.constexpr, COUNT: tl.constexpr, K: tl.constexpr, IMAGES: tl.constexpr,
):  # fmt: skip
    """Gradient of the weights of the images of one atom for one of its heads, where there is a weight."""
    row = tl.program_id(0)
    i, h = row // HEADS, row % HEADS
    begin, end = tl.load(ptr + i) + 1, tl.load(ptr + i + 1)
    first_frame, last_frame = tl.load(frame_ptr + row), tl.load(frame_ptr + row + 1)
    k_K = tl.arange(0, K)
    for first in range(begin, end, IMAGES):
        n_E = (first + tl.arange(0, IMAGES)).to(tl.int64)
        p_E = tl.load(p + n_E * HEADS + h, mask=n_E < end, other=0.0)
        if tl.max(p_E, axis=0) > 0:
            grad_E = tl.zeros((IMAGES,), dtype=tl.float32)
            for f in range(first_frame, last_frame):
                for Z in tl.static_range(3):
                    grad_K = tl.load(grad + (row.to(tl.int64) * 3 + Z) * COUNT + k_K, mask=k_K < COUNT, other=0.0)
                    b_EK = _angular(direction, axes + 9 * f, n_E, n_E < end, spacing, per_width, Z, K)
                    grad_E += tl.load(share + f) * tl.sum(b_EK * grad_K[None, :], axis=1)
            tl.store(grad_p + n_E * HEADS + h, grad_E, mask=n_E < end)
