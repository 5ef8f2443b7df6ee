"""The fused CPU kernel of `fused.c` and `framed.h` as an operation PyTorch can differentiate; float32.

Shapes: A atoms, E images, P pairs, H heads (padded to whole vectors), D their width, K radial or angular functions,
G nodes of the grid of cosines, z the three axes of a frame.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crystalformers.attention.angles import AngularEncoding, given_frames
from crystalformers.attention.geometry import Geometry
from crystalformers.attention.grid import Grid, PackedFrames
from crystalformers.frames import principal_axes
from crystalformers.kernels import in_parallel, row_function

LANES = 8
WINDOW_LANES = 16

REACH = 6.5
"""Standard deviations beyond which a radial function counts as zero (7e-10)."""


def attention(
    q_AHD: Tensor,
    k_AHD: Tensor,
    v_AHD: Tensor,
    inverse_variance_AH: Tensor,
    W_HDK: Tensor | None,
    geometry: Geometry,
    angular: AngularEncoding | None = None,
) -> Tensor:
    """Attention over periodic images, (A, H, D); arguments as in `infinite_attention`, float32 on the CPU."""
    heads = q_AHD.shape[1]
    pad = -heads % LANES
    q_ADH, k_ADH, v_ADH = (
        F.pad(t.mT, (0, pad)).contiguous() for t in (q_AHD / math.sqrt(q_AHD.shape[-1]), k_AHD, v_AHD)
    )
    decay_AH = F.pad(0.5 * inverse_variance_AH, (0, pad), value=1.0).contiguous()
    rows = geometry.kept("fused", Rows.of)
    count = 0 if W_HDK is None else geometry.basis.count
    grid = frames = None
    if angular is not None:
        basis = angular.basis
        grid = geometry.kept("fused grid", lambda g: Grid.of(g.images, basis))
        frames = _frames(q_ADH, k_ADH, decay_AH, rows, grid, geometry, angular, heads)
    layout = Layout(rows, grid, frames, 1.0 if angular is None else angular.tie_width, count)
    y_ADH, b_AHK, grid_AHzG = ImageSum.apply(q_ADH, k_ADH, v_ADH, decay_AH, layout)  # type: ignore[no-untyped-call]
    y_AHD: Tensor = y_ADH[..., :heads].mT
    if W_HDK is not None:
        y_AHD = y_AHD + torch.einsum("ahk,hdk->ahd", b_AHK[:, :heads], W_HDK)
    if angular is not None and grid is not None:
        W_zHDG = torch.einsum("zhdk,gk->zhdg", angular.W_3HDK, grid.functions)
        y_AHD = y_AHD + torch.einsum("ahzg,zhdg->ahd", grid_AHzG[:, :heads], W_zHDG)
    return y_AHD


@torch.no_grad()
def _frames(
    q_ADH: Tensor,
    k_ADH: Tensor,
    decay_AH: Tensor,
    rows: Rows,
    grid: Grid,
    geometry: Geometry,
    angular: AngularEncoding,
    heads: int,
) -> PackedFrames | None:
    """Frames given to the kernel; None for max frames, which it finds itself."""
    atoms, width, padded = q_ADH.shape
    if angular.frame == "max":
        return None
    if angular.frame == "weighted-pca":
        moments = decay_AH.new_empty(atoms, padded, 6)
        layout = Layout(rows, grid, None, 1.0, 0).pointers(padded // LANES, width)
        in_parallel(row_function("image_moments", layout, q_ADH, k_ADH, decay_AH, moments), rows.ptr)
        symmetric = moments[:, :heads, [0, 3, 5, 3, 1, 4, 5, 4, 2]].reshape(-1, 3, 3).double()
        return PackedFrames.of(principal_axes(symmetric), atoms, heads, padded, grid.angles)

    def pack(g: Geometry) -> PackedFrames:
        given = given_frames(g, angular)
        assert given is not None
        return PackedFrames.of(given.repeated(heads), atoms, heads, padded, grid.angles)

    return geometry.kept(f"fused {angular.frame} frames of {heads} heads", pack)


class CLayout(ctypes.Structure):
    """`Layout` of fused.c, field by field."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("distance", "taper", "pair", "ptr", "pair_ptr", "pair_source")],
        *[(name, ctypes.c_void_p) for name in ("direction", "frame_ptr", "frames", "isotropic", "mean")],
        *[(name, ctypes.c_float) for name in ("spacing", "per_width", "per_node", "tie_width")],
        *[(name, ctypes.c_int64) for name in ("windows", "count", "nodes", "head_groups", "head_dim")],
    )


@dataclass(frozen=True)
class Rows:
    """The geometry as the kernel reads it; computed once per batch, shared by all layers."""

    distance: Tensor  # (E,) float32
    taper: Tensor  # (E,) float32
    pair: Tensor  # (E,) int32
    ptr: Tensor  # (A + 1,)
    pair_ptr: Tensor  # (A + 1,)
    pair_source: Tensor  # (P,)
    pair_target: Tensor  # (P,)
    by_source: Tensor  # (P,) pairs in the order of their source atom
    source_ptr: Tensor  # (A + 1,)
    spacing: float
    per_width: float
    windows: int

    @classmethod
    def of(cls, geometry: Geometry) -> Rows:
        """Read off a geometry."""
        images, basis = geometry.images, geometry.basis
        return cls(
            distance=images.distance.contiguous(),
            taper=images.taper.contiguous(),
            pair=images.pair.contiguous(),
            ptr=images.ptr.contiguous(),
            pair_ptr=_pointers(images.pair_target, images.n_atoms),
            pair_source=images.pair_source.contiguous(),
            pair_target=images.pair_target.contiguous(),
            by_source=torch.argsort(images.pair_source, stable=True),
            source_ptr=_pointers(images.pair_source, images.n_atoms),
            spacing=basis.spacing if basis.count else 1.0,
            per_width=1 / (basis.width * basis.spacing) if basis.count else 1.0,
            windows=math.ceil((2 * REACH * basis.width + 1) / WINDOW_LANES),
        )


@dataclass(frozen=True)
class Layout:
    """All that the kernel reads beside the features; keeps alive what the pointers point to."""

    rows: Rows
    grid: Grid | None
    frames: PackedFrames | None
    tie_width: float
    count: int

    def pointers(self, head_groups: int, head_dim: int) -> CLayout:
        """As the kernel takes it."""
        rows, grid, frames = self.rows, self.grid, self.frames
        tensors: list[Tensor | None] = [rows.distance, rows.taper, rows.pair, rows.ptr, rows.pair_ptr, rows.pair_source]
        tensors += [None if grid is None else grid.direction]
        tensors += (
            [None] * 4 if grid is None or frames is None else [frames.ptr, frames.frames, frames.isotropic, grid.mean]
        )
        per_node, nodes = (1.0, 0) if grid is None else (grid.per_node, len(grid.functions))
        return CLayout(
            *(None if t is None else t.data_ptr() for t in tensors),
            rows.spacing, rows.per_width, per_node, self.tie_width,
            rows.windows, self.count, nodes, head_groups, head_dim,
        )  # fmt: skip


def _pointers(owner: Tensor, atoms: int) -> Tensor:
    counts = torch.bincount(owner, minlength=atoms)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


class ImageSum(torch.autograd.Function):
    """Weighted sums over images: of values, (A, D, H), of radial functions, (A, H, K), on the grid, (A, H, 3, G)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, layout: Layout
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From q, k, v (A, D, H), q scaled, and 1 / 2 sigma^2 (A, H)."""
        atoms, width, heads = q.shape
        y, b, log_z = torch.empty_like(v), v.new_empty(atoms, heads, layout.count), torch.empty_like(decay)
        pointers = layout.pointers(heads // LANES, width)
        angular = v.new_empty(atoms, heads, 3, pointers.nodes)
        rows = layout.rows
        in_parallel(row_function("image_sum_forward", pointers, q, k, v, decay, y, b, log_z, angular), rows.ptr)
        ctx.save_for_backward(q, k, v, decay, y, b, angular, log_z)
        ctx.layout, ctx.pointers = layout, pointers
        return y, b, angular

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and 1 / 2 sigma^2 from those of the sums."""
        q, k, v, decay, y, b, angular, log_z = ctx.saved_tensors
        rows, pointers = ctx.layout.rows, ctx.pointers
        grad_y, grad_b, grad_angular = (grad.contiguous() for grad in grads)
        mean = (grad_y * y).sum(1) + (grad_b * b).sum(-1) + (grad_angular * angular).sum((-1, -2))
        weight, grad_score = (q.new_empty(len(rows.pair_source), q.shape[-1]) for _ in range(2))
        grad_q, grad_k, grad_v, grad_decay = (torch.empty_like(t) for t in (q, k, v, decay))
        upstream = (grad_y, grad_b, grad_angular, mean)
        by_target = (q, k, v, decay, log_z, *upstream, weight, grad_score, grad_q, grad_decay)
        in_parallel(row_function("image_sum_backward", pointers, *by_target), rows.ptr)
        by_source = (rows.pair_target, rows.by_source, rows.source_ptr)
        gathered = (q, grad_y, weight, grad_score, grad_k, grad_v)
        in_parallel(row_function("image_sum_pull", pointers, *by_source, *gathered), rows.source_ptr)
        return grad_q, grad_k, grad_v, grad_decay, None
