# mypy: ignore-errors
"""Triton kernel that finds max frames (CrystalFramer) from the weights of images; `frames.py` calls it.

One program per row (atom and head) goes through the atom's images in tiles, once to count the row's frames and once to
write them; `attention.frames.local` has the definition. Candidates are few: most tiles hold none and are skipped.

Shapes: E images (of a tile).
"""

import triton
import triton.language as tl

from crystalformers.attention.frames import local as frames

COLLINEAR = tl.constexpr(1 - frames.COLLINEAR)
PENALTY_FLOOR = tl.constexpr(frames.PENALTY_FLOOR)
EXACTLY_COLLINEAR = tl.constexpr(frames.EXACTLY_COLLINEAR)
ANY_DIRECTION = tl.constexpr(-1.0)


@triton.jit
def _images(p, direction, first, end, h, HEADS: tl.constexpr, IMAGES: tl.constexpr):
    """Weights and directions of a tile of images, (E,) each."""
    n_E = (first + tl.arange(0, IMAGES)).to(tl.int64)
    there_E = n_E < end
    p_E = tl.load(p + n_E * HEADS + h, mask=there_E, other=0.0)
    x_E = tl.load(direction + 3 * n_E, mask=there_E, other=0.0)
    y_E = tl.load(direction + 3 * n_E + 1, mask=there_E, other=0.0)
    z_E = tl.load(direction + 3 * n_E + 2, mask=there_E, other=0.0)
    return p_E, x_E, y_E, z_E


@triton.jit
def _score(p_E, x_E, y_E, z_E, ex, ey, ez, least):
    """W (1 - |e_1 . r|) where that is above `least`, else 0; w itself for e_1 = 0."""
    away_E = 1 - tl.abs(ex * x_E + ey * y_E + ez * z_E)
    return tl.where(away_E > least, p_E * tl.maximum(away_E, PENALTY_FLOOR), 0.0)


@triton.jit
def _share(score_E, best, per_tie_width):
    """Smooth step of how far a score lies behind the best, not yet divided by the sum."""
    t_E = 1 - tl.log(best / tl.maximum(score_E, 1e-37)) * per_tie_width
    t_E = tl.minimum(tl.maximum(t_E, 0.0), 1.0)
    return tl.where(score_E > 0, t_E * t_E * t_E * (10 + t_E * (6 * t_E - 15)), 0.0)


@triton.jit
def _best_score(
    p, direction, begin, end, h, ex, ey, ez, least, per_tie_width, HEADS: tl.constexpr, IMAGES: tl.constexpr
):
    """The best score, and the sum of the shares of all that are near it."""
    best = 0.0
    for first in range(begin, end, IMAGES):
        p_E, x_E, y_E, z_E = _images(p, direction, first, end, h, HEADS, IMAGES)
        best = tl.maximum(best, tl.max(_score(p_E, x_E, y_E, z_E, ex, ey, ez, least), axis=0))
    total = 0.0
    for first in range(begin, end, IMAGES):
        p_E, x_E, y_E, z_E = _images(p, direction, first, end, h, HEADS, IMAGES)
        total += tl.sum(_share(_score(p_E, x_E, y_E, z_E, ex, ey, ez, least), best, per_tie_width), axis=0)
    return best, total


@triton.jit
def _write(axes, share, place, capacity, ex, ey, ez, rx, ry, rz, weight):
    """The right-handed frame of e_1 and a direction that is not along it."""
    along = ex * rx + ey * ry + ez * rz
    ux, uy, uz = rx - along * ex, ry - along * ey, rz - along * ez
    norm = tl.sqrt(ux * ux + uy * uy + uz * uz)
    ux, uy, uz = ux / norm, uy / norm, uz / norm
    fits = place < capacity
    tl.store(axes + 9 * place, ex, mask=fits)
    tl.store(axes + 9 * place + 1, ey, mask=fits)
    tl.store(axes + 9 * place + 2, ez, mask=fits)
    tl.store(axes + 9 * place + 3, ux, mask=fits)
    tl.store(axes + 9 * place + 4, uy, mask=fits)
    tl.store(axes + 9 * place + 5, uz, mask=fits)
    tl.store(axes + 9 * place + 6, ey * uz - ez * uy, mask=fits)
    tl.store(axes + 9 * place + 7, ez * ux - ex * uz, mask=fits)
    tl.store(axes + 9 * place + 8, ex * uy - ey * ux, mask=fits)
    tl.store(share + place, weight, mask=fits)


@triton.jit
def _second_axes(
    p, direction, begin, end, h, ex, ey, ez, least, best, total,
    axes, share, place, capacity, weight, per_tie_width,
    HEADS: tl.constexpr, IMAGES: tl.constexpr, WRITE: tl.constexpr,
):  # fmt: skip
    """Count the candidates for e_2, or write their frames from `place` on; returns the place after the last."""
    lane_E = tl.arange(0, IMAGES)
    for first in range(begin, end, IMAGES):
        p_E, x_E, y_E, z_E = _images(p, direction, first, end, h, HEADS, IMAGES)
        score_E = _score(p_E, x_E, y_E, z_E, ex, ey, ez, least)
        share_E = _share(score_E, best, per_tie_width) / tl.maximum(total, 1e-37)
        if tl.max(share_E, axis=0) > 0:
            if WRITE:
                for j in range(IMAGES):
                    mine = tl.sum(tl.where(lane_E == j, share_E, 0.0), axis=0)
                    if mine > 0:
                        rx = tl.sum(tl.where(lane_E == j, x_E, 0.0), axis=0)
                        ry = tl.sum(tl.where(lane_E == j, y_E, 0.0), axis=0)
                        rz = tl.sum(tl.where(lane_E == j, z_E, 0.0), axis=0)
                        _write(axes, share, place, capacity, ex, ey, ez, rx, ry, rz, weight * mine)
                        place += 1
            else:
                place += tl.sum((share_E > 0).to(tl.int64), axis=0)
    return place


@triton.jit
def max_frames(
    p, direction, ptr,
    count, frame_ptr, axes, share,
    per_tie_width, capacity,
    HEADS: tl.constexpr, IMAGES: tl.constexpr, WRITE: tl.constexpr,
):  # fmt: skip
    """Count the frames of one head of an atom, or write them where those of its row begin."""
    row = tl.program_id(0)
    i, h = row // HEADS, row % HEADS
    # The first image is the atom itself, which has no direction.
    begin, end = tl.load(ptr + i) + 1, tl.load(ptr + i + 1)
    place = tl.load(frame_ptr + row) if WRITE else begin * 0
    lane_E = tl.arange(0, IMAGES)
    best, total = _best_score(p, direction, begin, end, h, 0.0, 0.0, 0.0, ANY_DIRECTION, per_tie_width, HEADS, IMAGES)
    for first in range(begin, end, IMAGES):
        p_E, x_E, y_E, z_E = _images(p, direction, first, end, h, HEADS, IMAGES)
        share_E = _share(p_E, best, per_tie_width) / tl.maximum(total, 1e-37)
        if tl.max(share_E, axis=0) > 0:
            for j in range(IMAGES):
                mine = tl.sum(tl.where(lane_E == j, share_E, 0.0), axis=0)
                if mine > 0:
                    ex = tl.sum(tl.where(lane_E == j, x_E, 0.0), axis=0)
                    ey = tl.sum(tl.where(lane_E == j, y_E, 0.0), axis=0)
                    ez = tl.sum(tl.where(lane_E == j, z_E, 0.0), axis=0)
                    best2, total2 = _best_score(
                        p, direction, begin, end, h, ex, ey, ez, COLLINEAR, per_tie_width, HEADS, IMAGES
                    )
                    least = tl.where(best2 > 0, COLLINEAR, EXACTLY_COLLINEAR)
                    if best2 == 0:
                        best2, total2 = _best_score(
                            p, direction, begin, end, h, ex, ey, ez, least, per_tie_width, HEADS, IMAGES
                        )
                    if best2 == 0:
                        # All images lie on one line: any second axis serves.
                        if WRITE:
                            ax, ay, az = tl.abs(ex), tl.abs(ey), tl.abs(ez)
                            rx = tl.where((ax <= ay) & (ax <= az), 1.0, 0.0)
                            ry = tl.where((rx == 0) & (ay <= az), 1.0, 0.0)
                            _write(axes, share, place, capacity, ex, ey, ez, rx, ry, 1 - rx - ry, mine)
                        place += 1
                    else:
                        place = _second_axes(
                            p, direction, begin, end, h, ex, ey, ez, least, best2, total2,
                            axes, share, place, capacity, mine, per_tie_width, HEADS, IMAGES, WRITE,
                        )  # fmt: skip
    if not WRITE:
        tl.store(count + row, place)
