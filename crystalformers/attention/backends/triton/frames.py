"""CrystalFramer by Triton kernels: max frames from the weights of images, and sums of angular functions over images.

The weights are those that `operators.py` leaves, one number per image and head. One kernel counts the frames of every
row, ties included, and writes them into a list of fixed capacity, so that the host never waits to learn how many there
are. Others evaluate the angular functions tile by tile, forward and again backward; nothing of size images x heads x K
is stored.

Shapes: A atoms, E images, H heads, R rows (atom and head), F frames (the capacity of a list), K angular functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crystalformers.attention.backends.triton import operators
from crystalformers.attention.frames.encoding import AngularEncoding, static_frames
from crystalformers.attention.frames.local import FrameMethod, Frames
from crystalformers.attention.geometry import Geometry

FRAMES = ("max", "static-local", "lattice")
"""Frames that are a weighted set of axes; principal axes are not."""


FRAMES_PER_ROW = 64
"""Frames that a list can hold, on average over the rows of a batch; ties of high symmetry make a few dozen."""

LEAST_FRAMES = 4096
"""Frames that a list can hold beyond these, for small batches."""

WARPS = 1
"""Of a program that finds frames."""


def angular_values(p_EH: Tensor, geometry: Geometry, angular: AngularEncoding) -> Tensor:
    """The angular part of sum_e p_e psi_e, (A, H, D); no gradient flows through the choice of frames.

    If there are more frames than the list can hold (`FRAMES_PER_ROW`), all values are NaN.
    """
    directions = geometry.cached(_directions)
    p_EH = p_EH * geometry.cached(_at_a_distance)
    ptr, heads, basis = geometry.images.ptr, p_EH.shape[1], angular.basis
    if angular.frame == "max":
        frames = torch.ops.crystalformers.triton_max_frames(p_EH.detach(), directions, ptr, angular.tie_width)
    else:
        frames = geometry.cached(_static_frames, angular.frame, angular.tie_width, heads)
    sums_AHzK = torch.ops.crystalformers.triton_angular_sum(
        p_EH, [directions, ptr, *frames], basis.spacing, 1 / (basis.width * basis.spacing), basis.count
    )
    return torch.einsum("ahzk,zhdk->ahd", sums_AHzK.to(angular.W_3HDK.dtype), angular.W_3HDK)


def _directions(geometry: Geometry) -> Tensor:
    """Unit vectors to the images, (E, 3) float32; zero for an atom itself."""
    images = geometry.images
    assert images.vectors is not None  # `check_directions` has seen to it
    distance = images.distance.unsqueeze(-1)
    return (images.vectors / torch.where(distance > 0, distance, 1.0)).float().contiguous()


def _at_a_distance(geometry: Geometry) -> Tensor:
    """1 for images at a distance, 0 for the atom itself and others on the same spot, (E, 1) float32."""
    return (geometry.images.distance > 0).float().unsqueeze(-1)


def _static_frames(geometry: Geometry, method: FrameMethod, tie_width: float, heads: int) -> list[Tensor]:
    """Frames that do not follow the weights, as the kernels read them: first of each row, axes and shares."""
    of_atoms = geometry.cached(static_frames, method, tie_width)
    assert isinstance(of_atoms, Frames)
    frames = of_atoms.repeated(heads)
    order = torch.argsort(frames.owner, stable=True)
    rows = torch.arange(geometry.images.n_atoms * heads + 1, device=order.device)
    first = torch.searchsorted(frames.owner[order], rows)
    return [first, frames.axes[order].flatten(1).float().contiguous(), frames.weight[order].float().contiguous()]


torch.library.define(
    "crystalformers::triton_max_frames",
    "(Tensor p, Tensor direction, Tensor ptr, float tie_width) -> (Tensor first, Tensor axes, Tensor share)",
)
torch.library.define(
    "crystalformers::triton_angular_sum",
    "(Tensor p, Tensor[] lists, float spacing, float per_width, int count) -> Tensor",
)
torch.library.define(
    "crystalformers::triton_angular_sum_backward",
    "(Tensor grad, Tensor p, Tensor[] lists, float spacing, float per_width, int count) -> Tensor",
)


def _constants(heads: int, count: int) -> dict[str, Any]:
    tiling = operators.TILING
    return {
        "HEADS": heads, "COUNT": count, "K": max(operators.power_of_two(count), 16),
        "IMAGES": tiling.images, "num_warps": tiling.warps,
    }  # fmt: skip


def _capacity(p: Tensor, ptr: Tensor) -> tuple[int, int]:
    """Rows, and frames that a list of them can hold."""
    rows = (ptr.shape[0] - 1) * p.shape[1]
    return rows, rows * FRAMES_PER_ROW + LEAST_FRAMES


def _max_frames(p: Tensor, direction: Tensor, ptr: Tensor, tie_width: float) -> tuple[Tensor, Tensor, Tensor]:
    """First frame of each row and their number, (R + 1,), axes, (F, 9), and shares, (F,), from weights (E, H)."""
    rows, capacity = _capacity(p, ptr)
    p, first = p.contiguous(), ptr.new_zeros(rows + 1)
    axes, share = p.new_zeros(capacity, 9), p.new_zeros(capacity)
    find = operators.kernels("frame_kernels").max_frames[(rows,)]
    constants = {"HEADS": p.shape[1], "IMAGES": operators.TILING.images, "num_warps": WARPS}
    with torch.cuda.device_of(p):
        find(p, direction, ptr, first[1:], first, axes, share, 1 / tie_width, capacity, WRITE=False, **constants)
        first = first.cumsum(0)
        find(p, direction, ptr, first, first, axes, share, 1 / tie_width, capacity, WRITE=True, **constants)
    return first.clamp(max=capacity), axes, share.masked_fill(first[-1] > capacity, torch.nan)


def _fake_max_frames(p: Tensor, direction: Tensor, ptr: Tensor, tie_width: float) -> tuple[Tensor, Tensor, Tensor]:
    rows, capacity = _capacity(p, ptr)
    return ptr.new_empty(rows + 1), p.new_empty(capacity, 9), p.new_empty(capacity)


def _angular_sum(p: Tensor, lists: list[Tensor], spacing: float, per_width: float, count: int) -> Tensor:
    """Sums of p b(cosine) over images and frames, (A, H, 3, K), from weights (E, H)."""
    atoms, heads = lists[1].shape[0] - 1, p.shape[1]
    sums = p.new_empty(atoms, heads, 3, count)
    with torch.cuda.device_of(p):
        operators.kernels("angle_kernels").angular_sum[(atoms * heads,)](
            p.contiguous(), *lists, sums, spacing, per_width, **_constants(heads, count)
        )
    return sums


def _fake_angular_sum(p: Tensor, lists: list[Tensor], spacing: float, per_width: float, count: int) -> Tensor:
    return p.new_empty(lists[1].shape[0] - 1, p.shape[1], 3, count)


def _angular_sum_backward(
    grad: Tensor, p: Tensor, lists: list[Tensor], spacing: float, per_width: float, count: int
) -> Tensor:
    """Gradient of the weights, (E, H)."""
    atoms, heads = lists[1].shape[0] - 1, p.shape[1]
    grad_p = torch.zeros_like(p)
    with torch.cuda.device_of(p):
        operators.kernels("angle_kernels").angular_sum_backward[(atoms * heads,)](
            grad.contiguous(), p.contiguous(), *lists, grad_p, spacing, per_width, **_constants(heads, count)
        )
    return grad_p


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    p, lists, *ctx.constants = inputs
    ctx.save_for_backward(p, *lists)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    p, *lists = ctx.saved_tensors
    grad_p = torch.ops.crystalformers.triton_angular_sum_backward(grad, p, lists, *ctx.constants)
    return grad_p, [None] * len(lists), None, None, None


torch.library.impl("crystalformers::triton_max_frames", ("cpu", "cuda"), _max_frames)
torch.library.impl("crystalformers::triton_angular_sum", ("cpu", "cuda"), _angular_sum)
torch.library.impl("crystalformers::triton_angular_sum_backward", ("cpu", "cuda"), _angular_sum_backward)
torch.library.register_fake("crystalformers::triton_max_frames", _fake_max_frames)
torch.library.register_fake("crystalformers::triton_angular_sum", _fake_angular_sum)
torch.library.register_fake("crystalformers::triton_angular_sum_backward", lambda grad, p, *others: torch.empty_like(p))
torch.library.register_autograd("crystalformers::triton_angular_sum", _differentiate, setup_context=_remember)
