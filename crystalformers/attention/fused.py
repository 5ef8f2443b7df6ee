"""The fused CPU kernel of `fused.c` as an operation PyTorch can differentiate; float32.

Shapes: A atoms, E images, P pairs, H heads (padded to whole vectors), D their width, K radial functions.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crystalformers.attention.geometry import Geometry
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
) -> Tensor:
    """Attention over periodic images, (A, H, D); arguments as in `infinite_attention`, float32 on the CPU."""
    heads = q_AHD.shape[1]
    pad = -heads % LANES
    q_ADH, k_ADH, v_ADH = (
        F.pad(t.mT, (0, pad)).contiguous() for t in (q_AHD / math.sqrt(q_AHD.shape[-1]), k_AHD, v_AHD)
    )
    decay_AH = F.pad(0.5 * inverse_variance_AH, (0, pad), value=1.0).contiguous()
    rows = geometry.kept("fused", Rows.of)
    y_ADH, b_AHK = ImageSum.apply(  # type: ignore[no-untyped-call]
        q_ADH, k_ADH, v_ADH, decay_AH, rows, 0 if W_HDK is None else geometry.basis.count
    )
    y_AHD: Tensor = y_ADH[..., :heads].mT
    return y_AHD if W_HDK is None else y_AHD + torch.einsum("ahk,hdk->ahd", b_AHK[:, :heads], W_HDK)


class CLayout(ctypes.Structure):
    """`Layout` of fused.c, field by field."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("distance", "taper", "pair", "ptr", "pair_ptr", "pair_source")],
        *[(name, ctypes.c_float) for name in ("per_spacing", "per_width")],
        *[(name, ctypes.c_int64) for name in ("windows", "count", "head_groups", "head_dim")],
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
    per_spacing: float
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
            per_spacing=1 / basis.spacing if basis.count else 1.0,
            per_width=1 / basis.width,
            windows=math.ceil((2 * REACH * basis.width + 1) / WINDOW_LANES),
        )

    def layout(self, count: int, head_groups: int, head_dim: int) -> CLayout:
        """Pointers into these tensors, valid as long as they live."""
        tensors = (self.distance, self.taper, self.pair, self.ptr, self.pair_ptr, self.pair_source)
        return CLayout(
            *(t.data_ptr() for t in tensors),
            self.per_spacing, self.per_width, self.windows, count, head_groups, head_dim,
        )  # fmt: skip


def _pointers(owner: Tensor, atoms: int) -> Tensor:
    counts = torch.bincount(owner, minlength=atoms)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


class ImageSum(torch.autograd.Function):
    """Weighted sums over images: of the values, (A, D, H), and of the radial functions, (A, H, K)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rows: Rows, count: int
    ) -> tuple[Tensor, Tensor]:
        """From q, k, v (A, D, H), q scaled, and 1 / 2 sigma^2 (A, H)."""
        atoms, width, heads = q.shape
        y, b, log_z = torch.empty_like(v), v.new_empty(atoms, heads, count), torch.empty_like(decay)
        layout = rows.layout(count, heads // LANES, width)
        in_parallel(row_function("image_sum_forward", layout, q, k, v, decay, y, b, log_z), rows.ptr)
        ctx.save_for_backward(q, k, v, decay, y, b, log_z)
        ctx.rows, ctx.layout = rows, layout
        return y, b

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and 1 / 2 sigma^2 from those of both sums."""
        q, k, v, decay, y, b, log_z = ctx.saved_tensors
        rows, layout = ctx.rows, ctx.layout
        grad_y, grad_b = (grad.contiguous() for grad in grads)
        mean = (grad_y * y).sum(1) + (grad_b * b).sum(-1)
        weight, grad_score = (q.new_empty(len(rows.pair_source), q.shape[-1]) for _ in range(2))
        grad_q, grad_k, grad_v, grad_decay = (torch.empty_like(t) for t in (q, k, v, decay))
        by_target = (q, k, v, decay, log_z, grad_y, grad_b, mean, weight, grad_score, grad_q, grad_decay)
        in_parallel(row_function("image_sum_backward", layout, *by_target), rows.ptr)
        by_source = (rows.pair_target, rows.by_source, rows.source_ptr)
        gathered = (q, grad_y, weight, grad_score, grad_k, grad_v)
        in_parallel(row_function("image_sum_pull", layout, *by_source, *gathered), rows.source_ptr)
        return grad_q, grad_k, grad_v, grad_decay, None, None
