"""Sums of angular functions over images (CrystalFramer) by Triton kernels: from weights, directions and frames.

Frames are found by PyTorch (`frames.py`) from the weights that `triton_ops.py` leaves, one number per image and head;
how many there are depends on ties, so the host waits for the device here, once per layer. The kernels evaluate the
angular functions tile by tile, forward and again backward; nothing of size images x heads x K is stored.

Shapes: A atoms, E images, H heads, R rows (atom and head), F frames, M image slots of an atom, K angular functions.
"""

from __future__ import annotations

from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from crystalformers.attention import triton_ops
from crystalformers.attention.angles import AngularEncoding, given_frames
from crystalformers.attention.geometry import Geometry
from crystalformers.frames import Frames, max_frames

FRAMES = ("max", "static-local", "lattice")
"""Frames that are a weighted set of axes; principal axes are not."""


def angular_values(p_EH: Tensor, geometry: Geometry, angular: AngularEncoding) -> Tensor:
    """The angular part of sum_e p_e psi_e, (A, H, D); no gradient flows through the choice of frames."""
    heads = p_EH.shape[1]
    frames = _frames(p_EH.detach(), geometry, angular)
    order = torch.argsort(frames.owner, stable=True)
    rows = torch.arange(geometry.images.n_atoms * heads + 1, device=p_EH.device)
    lists = [
        geometry.kept("triton directions", _directions),
        geometry.images.ptr,
        torch.searchsorted(frames.owner[order], rows),
        frames.axes[order].flatten(1).float().contiguous(),
        frames.weight[order].float().contiguous(),
    ]
    basis = angular.basis
    sums_AHzK = torch.ops.crystalformers.triton_angular_sum(
        p_EH, lists, basis.spacing, 1 / (basis.width * basis.spacing), basis.count
    )
    return torch.einsum("ahzk,zhdk->ahd", sums_AHzK.to(angular.W_3HDK.dtype), angular.W_3HDK)


def _directions(geometry: Geometry) -> Tensor:
    """Unit vectors to the images, (E, 3) float32; zero for an atom itself."""
    images = geometry.images
    if images.vectors is None:
        raise ValueError("These images were built without directions; build them with `directions=True`.")
    distance = images.distance.unsqueeze(-1)
    return (images.vectors / torch.where(distance > 0, distance, 1.0)).float().contiguous()


def _frames(p_EH: Tensor, geometry: Geometry, angular: AngularEncoding) -> Frames:
    """Frames of every row."""
    heads = p_EH.shape[1]
    if angular.frame == "max":
        direction_AM3, around_AM = geometry.directions
        log_p_AMH = p_EH.log()[geometry.slots[0]].masked_fill(~around_AM.unsqueeze(-1), -torch.inf)
        log_p_RM = log_p_AMH.mT.reshape(-1, log_p_AMH.shape[1])
        return max_frames(log_p_RM, direction_AM3.repeat_interleave(heads, 0), angular.tie_width)
    given = given_frames(geometry, angular)
    assert isinstance(given, Frames)
    return given.repeated(heads)


torch.library.define(
    "crystalformers::triton_angular_sum",
    "(Tensor p, Tensor[] lists, float spacing, float per_width, int count) -> Tensor",
)
torch.library.define(
    "crystalformers::triton_angular_sum_backward",
    "(Tensor grad, Tensor p, Tensor[] lists, float spacing, float per_width, int count) -> Tensor",
)


@lru_cache(maxsize=1)
def _kernels() -> ModuleType:
    """The compiled kernels; imported late, for Triton is not everywhere."""
    from crystalformers.attention import triton_angle_kernels

    return triton_angle_kernels


def _constants(heads: int, count: int) -> dict[str, Any]:
    tiling = triton_ops.TILING
    return {
        "HEADS": heads, "COUNT": count, "K": max(triton_ops.power_of_two(count), 16),
        "IMAGES": tiling.images, "num_warps": tiling.warps,
    }  # fmt: skip


def _angular_sum(p: Tensor, lists: list[Tensor], spacing: float, per_width: float, count: int) -> Tensor:
    """Sums of p b(cosine) over images and frames, (A, H, 3, K), from weights (E, H)."""
    atoms, heads = lists[1].shape[0] - 1, p.shape[1]
    sums = p.new_empty(atoms, heads, 3, count)
    with torch.cuda.device_of(p):
        _kernels().angular_sum[(atoms * heads,)](
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
        _kernels().angular_sum_backward[(atoms * heads,)](
            grad.contiguous(), p.contiguous(), *lists, grad_p, spacing, per_width, **_constants(heads, count)
        )
    return grad_p


def _fake_angular_sum_backward(grad: Tensor, p: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(p)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    p, lists, *ctx.constants = inputs
    ctx.save_for_backward(p, *lists)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    p, *lists = ctx.saved_tensors
    grad_p = torch.ops.crystalformers.triton_angular_sum_backward(grad, p, lists, *ctx.constants)
    return grad_p, [None] * len(lists), None, None, None


torch.library.impl("crystalformers::triton_angular_sum", ("cpu", "cuda"), _angular_sum)
torch.library.impl("crystalformers::triton_angular_sum_backward", ("cpu", "cuda"), _angular_sum_backward)
torch.library.register_fake("crystalformers::triton_angular_sum", _fake_angular_sum)
torch.library.register_fake("crystalformers::triton_angular_sum_backward", _fake_angular_sum_backward)
torch.library.register_autograd("crystalformers::triton_angular_sum", _differentiate, setup_context=_remember)
