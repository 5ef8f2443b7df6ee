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

from crystalformers.attention.angles import AngularBasis, AngularEncoding, given_frames
from crystalformers.attention.geometry import Geometry
from crystalformers.frames import FrameMethod
from crystalformers.kernels import in_parallel, row_function

LANES = 8
WINDOW_LANES = 16

ORDER = 8
"""Nodes of the grid of cosines that an image's weight is spread on."""

NODES_PER_DEVIATION = 6
"""Nodes within one standard deviation of the angular functions; interpolation then errs by 1e-7 of their height."""

FRAMES: tuple[FrameMethod, ...] = ("max", "static-local", "lattice")
"""Frames the kernel knows."""

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
    grid = None if angular is None else geometry.kept("fused frames", lambda g: Grid.of(g, angular))
    count = 0 if W_HDK is None else geometry.basis.count
    arguments = (q_ADH, k_ADH, v_ADH, decay_AH, rows, grid, count)
    y_ADH, b_AHK, grid_AHzG = ImageSum.apply(*arguments)  # type: ignore[no-untyped-call]
    y_AHD: Tensor = y_ADH[..., :heads].mT
    if W_HDK is not None:
        y_AHD = y_AHD + torch.einsum("ahk,hdk->ahd", b_AHK[:, :heads], W_HDK)
    if angular is not None and grid is not None:
        W_zHDG = torch.einsum("zhdk,gk->zhdg", angular.W_3HDK, grid.functions)
        y_AHD = y_AHD + torch.einsum("ahzg,zhdg->ahd", grid_AHzG[:, :heads], W_zHDG)
    return y_AHD


@dataclass(frozen=True)
class Grid:
    """Where the weights of images are spread according to their cosines with the axes of frames.

    Attributes:
        direction: unit vectors, (E, 3) float32.
        functions: angular functions at the nodes, (G, K).
        per_node: 1 / distance between two nodes.
        tie_width: see `frames.max_frames`.
        frame_ptr: first frame of each atom and the total where frames are given, (A + 1,).
        frames: axes and share of each, (F, 10) float32.
    """

    direction: Tensor
    functions: Tensor
    per_node: float
    tie_width: float
    frame_ptr: Tensor | None
    frames: Tensor | None

    @classmethod
    def of(cls, geometry: Geometry, angular: AngularEncoding) -> Grid:
        """For the frames and functions of an encoding."""
        images, basis = geometry.images, angular.basis
        assert images.vectors is not None
        distance = images.distance.unsqueeze(-1)
        intervals = math.ceil(2 * NODES_PER_DEVIATION / (basis.width * basis.spacing))
        nodes = torch.arange(intervals + ORDER, dtype=torch.float64) - (ORDER // 2 - 1)
        given = given_frames(geometry, angular)
        if given is None:
            frame_ptr = frames = None
        else:
            order = torch.argsort(given.owner, stable=True)
            frame_ptr = _pointers(given.owner, images.n_atoms)
            frames = torch.cat([given.axes.flatten(1), given.weight[:, None]], dim=1)[order].float().contiguous()
        return cls(
            direction=(images.vectors / torch.where(distance > 0, distance, 1.0)).float().contiguous(),
            functions=_at_nodes(basis, nodes * 2 / intervals - 1),
            per_node=intervals / 2,
            tie_width=angular.tie_width,
            frame_ptr=frame_ptr,
            frames=frames,
        )


def _at_nodes(basis: AngularBasis, cosine: Tensor) -> Tensor:
    return basis(cosine).float()


class CLayout(ctypes.Structure):
    """`Layout` of fused.c, field by field."""

    _fields_ = (
        *[(name, ctypes.c_void_p) for name in ("distance", "taper", "pair", "ptr", "pair_ptr", "pair_source")],
        *[(name, ctypes.c_void_p) for name in ("direction", "frame_ptr", "frames")],
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

    def layout(self, grid: Grid | None, count: int, head_groups: int, head_dim: int) -> CLayout:
        """Pointers into these tensors and those of the grid, valid as long as they live."""
        tensors = (self.distance, self.taper, self.pair, self.ptr, self.pair_ptr, self.pair_source)
        framed = (None, None, None) if grid is None else (grid.direction, grid.frame_ptr, grid.frames)
        per_node, tie_width, nodes = (
            (1.0, 1.0, 0) if grid is None else (grid.per_node, grid.tie_width, len(grid.functions))
        )
        return CLayout(
            *(None if t is None else t.data_ptr() for t in (*tensors, *framed)),
            self.spacing, self.per_width, per_node, tie_width, self.windows, count, nodes, head_groups, head_dim,
        )  # fmt: skip


def _pointers(owner: Tensor, atoms: int) -> Tensor:
    counts = torch.bincount(owner, minlength=atoms)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


class ImageSum(torch.autograd.Function):
    """Weighted sums over images: of values, (A, D, H), of radial functions, (A, H, K), on the grid, (A, H, 3, G)."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rows: Rows, grid: Grid | None, count: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From q, k, v (A, D, H), q scaled, and 1 / 2 sigma^2 (A, H)."""
        atoms, width, heads = q.shape
        y, b, log_z = torch.empty_like(v), v.new_empty(atoms, heads, count), torch.empty_like(decay)
        layout = rows.layout(grid, count, heads // LANES, width)
        angular = v.new_empty(atoms, heads, 3, layout.nodes)
        in_parallel(row_function("image_sum_forward", layout, q, k, v, decay, y, b, log_z, angular), rows.ptr)
        ctx.save_for_backward(q, k, v, decay, y, b, angular, log_z)
        # The layout points into the tensors of rows and grid.
        ctx.rows, ctx.grid, ctx.layout = rows, grid, layout
        return y, b, angular

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and 1 / 2 sigma^2 from those of the sums."""
        q, k, v, decay, y, b, angular, log_z = ctx.saved_tensors
        rows, layout = ctx.rows, ctx.layout
        grad_y, grad_b, grad_angular = (grad.contiguous() for grad in grads)
        mean = (grad_y * y).sum(1) + (grad_b * b).sum(-1) + (grad_angular * angular).sum((-1, -2))
        weight, grad_score = (q.new_empty(len(rows.pair_source), q.shape[-1]) for _ in range(2))
        grad_q, grad_k, grad_v, grad_decay = (torch.empty_like(t) for t in (q, k, v, decay))
        upstream = (grad_y, grad_b, grad_angular, mean)
        by_target = (q, k, v, decay, log_z, *upstream, weight, grad_score, grad_q, grad_decay)
        in_parallel(row_function("image_sum_backward", layout, *by_target), rows.ptr)
        by_source = (rows.pair_target, rows.by_source, rows.source_ptr)
        gathered = (q, grad_y, weight, grad_score, grad_k, grad_v)
        in_parallel(row_function("image_sum_pull", layout, *by_source, *gathered), rows.source_ptr)
        return grad_q, grad_k, grad_v, grad_decay, None, None, None
