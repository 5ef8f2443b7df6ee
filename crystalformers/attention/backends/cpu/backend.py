"""The fused CPU kernel of `attention.c` as an operator that PyTorch can differentiate and compile; float32.

Shapes: A atoms, E images, P pairs, H heads (padded to whole vectors), D their width, K radial or angular functions,
L orders of the series in cosines, N sums that represent the encodings, z the three axes of a frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crystalformers.attention.arguments import Arguments
from crystalformers.attention.backends.cpu.accuracy import BFLOAT16, FLOAT32, Accuracy
from crystalformers.attention.backends.cpu.cosines import CosineSeries, PackedFrames
from crystalformers.attention.backends.cpu.images import LANES, PTR, CpuImages, KernelInput, unsupported_images
from crystalformers.attention.frames.encoding import AngularEncoding, static_frames
from crystalformers.attention.frames.local import FrameMethod, principal_axes
from crystalformers.attention.geometry import Geometry
from crystalformers.csrc.kernels import NOT_INSTALLED, VARIABLE, BoundKernel, in_parallel, library, switched_off


def unsupported_reason(q_AHD: Tensor, geometry: Geometry, angular: AngularEncoding | None) -> str | None:
    """See `BackendModule`."""
    # Code that a compiler traces must not look for files; without the library the operator fails when it runs.
    if not torch.compiler.is_compiling() and library() is None:
        if switched_off():
            return f"needs the compiled kernels, which {VARIABLE}=none switches off; unset it"
        return NOT_INSTALLED
    if q_AHD.dtype != torch.float32 or q_AHD.device.type != "cpu":
        return f"computes float32 on the CPU, not {q_AHD.dtype} on {q_AHD.device}"
    if geometry.images.distance.requires_grad:
        return "has no gradients of positions; use 'torch' for them"
    return geometry.cached(unsupported_images)


def attention(arguments: Arguments) -> Tensor:
    """Attention over periodic images, (A, H, D), float32 on the CPU."""
    q_AHD, k_AHD, v_AHD, inverse_variance_AH, W_HDK, geometry, angular, rounded = arguments
    heads = q_AHD.shape[1]
    pad = -heads % LANES

    def padded(t: Tensor, value: float = 0.0) -> Tensor:
        return (F.pad(t, (0, pad), value=value) if pad else t).contiguous()

    q_ADH, k_ADH, v_ADH = (padded(t.mT) for t in (q_AHD / math.sqrt(q_AHD.shape[-1]), k_AHD, v_AHD))
    decay_AH = padded(0.5 * inverse_variance_AH, 1.0)
    images = geometry.cached(CpuImages.of, torch.is_grad_enabled())
    accuracy = BFLOAT16 if rounded else FLOAT32
    count = 0 if W_HDK is None else geometry.basis.count
    series = frames = None
    if angular is not None:
        series = geometry.cached(CosineSeries.of, angular.basis, accuracy.series)
        frames = _frames(q_ADH, k_ADH, decay_AH, images, series, geometry, angular, heads, accuracy)
    tie_width = 1.0 if angular is None else angular.tie_width
    kernel_input = KernelInput.of(images, series, frames, tie_width, count, accuracy)
    image_sum = torch.ops.crystalformers.cpu_image_sum if torch.compiler.is_compiling() else ImageSum.apply
    y_ADH, sums_HAN, _ = image_sum(q_ADH, k_ADH, v_ADH, decay_AH, *kernel_input)  # type: ignore[no-untyped-call]
    if pad:  # not free even where nothing is cut off: the gradient of a slice is copied
        y_ADH, sums_HAN = y_ADH[..., :heads], sums_HAN[:heads]
    y_AHD: Tensor = y_ADH.mT
    W_HDN = [] if W_HDK is None else [W_HDK]
    if angular is not None and series is not None:
        W_HDN += [torch.einsum("zhdk,lk->hdzl", angular.W_3HDK, series.coefficients).flatten(2)]
    if not W_HDN:
        return y_AHD
    return y_AHD + torch.bmm(sums_HAN, torch.cat(W_HDN, dim=2).mT).transpose(0, 1)


@torch.no_grad()
def _frames(
    q_ADH: Tensor,
    k_ADH: Tensor,
    decay_AH: Tensor,
    images: CpuImages,
    series: CosineSeries,
    geometry: Geometry,
    angular: AngularEncoding,
    heads: int,
    accuracy: Accuracy,
) -> PackedFrames | None:
    """Frames given to the kernel; None for max frames, which it finds itself."""
    atoms, _, padded = q_ADH.shape
    if angular.frame == "max":
        return None
    if angular.frame == "weighted-pca":
        moments = decay_AH.new_empty(atoms, padded, 6)
        kernel_input = KernelInput.of(images, series, None, 1.0, 0, accuracy).pointers(q_ADH)
        in_parallel(BoundKernel("image_moments", kernel_input, q_ADH, k_ADH, decay_AH, moments), images.ptr)
        symmetric = moments[:, :heads, [0, 3, 5, 3, 1, 4, 5, 4, 2]].reshape(-1, 3, 3).double()
        return PackedFrames.of(principal_axes(symmetric, angular.tie_width), atoms, heads, padded, series.orders)
    return geometry.cached(_static_frames, angular.frame, angular.tie_width, heads, padded, series.orders)


def _static_frames(
    geometry: Geometry, method: FrameMethod, tie_width: float, heads: int, padded: int, orders: int
) -> PackedFrames:
    """Frames that do not follow the weights, packed; `padded` counts the heads of whole vectors."""
    frames = geometry.cached(static_frames, method, tie_width).repeated(heads)
    return PackedFrames.of(frames, geometry.images.n_atoms, heads, padded, orders)


torch.library.define(
    "crystalformers::cpu_image_sum",
    "(Tensor q, Tensor k, Tensor v, Tensor decay, Tensor[] tensors, float[] numbers, int[] counts)"
    " -> (Tensor y, Tensor sums, Tensor share)",
)
torch.library.define(
    "crystalformers::cpu_image_sum_backward",
    "(Tensor grad_y, Tensor grad_sums, Tensor q, Tensor k, Tensor v, Tensor decay, Tensor share, Tensor[] tensors,"
    " float[] numbers, int[] counts)"
    " -> (Tensor q, Tensor k, Tensor v, Tensor decay)",
)


def _image_sum(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    tensors: list[Tensor],
    numbers: list[float],
    counts: list[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over images of values, (A, D, H), and of radial functions and polynomials of cosines, (H, A, K + 3 (L + 1)).

    From q, k, v (A, D, H), q scaled, and 1 / 2 sigma^2 (A, H); also 1 / Z, (A, H), for the backward pass.
    """
    y, sums, share = _outputs(q, decay, counts)
    pointers = KernelInput(tensors, numbers, counts).pointers(q)
    in_parallel(BoundKernel("image_sum_forward", pointers, q, k, v, decay, y, sums, share), tensors[PTR])
    return y, sums, share


def _outputs(q: Tensor, decay: Tensor, counts: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    *_, count, orders = counts
    atoms, _, heads = q.shape
    sums = q.new_empty(heads, atoms, count + (3 * (orders + 1) if orders else 0))
    return torch.empty_like(q), sums, torch.empty_like(decay)


def _image_sum_backward(grad_y: Tensor, grad_sums: Tensor, *saved: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and 1 / 2 sigma^2 from those of the sums."""
    q, k, v, decay, share, tensors, numbers, counts = saved
    grad_y, grad_sums = grad_y.contiguous(), grad_sums.contiguous()
    pair_target, by_source, source_ptr = tensors[-3:]
    weight, grad_score = (q.new_empty(len(pair_target), q.shape[-1]) for _ in range(2))
    grad_q, grad_k, grad_v, grad_decay = (torch.empty_like(t) for t in (q, k, v, decay))
    pointers = KernelInput(tensors, numbers, counts).pointers(q)
    by_target = (q, k, v, decay, share, grad_y, grad_sums, weight, grad_score, grad_q, grad_decay)
    in_parallel(BoundKernel("image_sum_backward", pointers, *by_target), tensors[PTR])
    gathered = (pair_target, by_source, source_ptr, q, grad_y, weight, grad_score, grad_k, grad_v)
    in_parallel(BoundKernel("image_sum_pull", pointers, *gathered), source_ptr)
    return grad_q, grad_k, grad_v, grad_decay


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *features, tensors, ctx.numbers, ctx.counts = inputs
    ctx.save_for_backward(*features, output[-1], *tensors)
    ctx.mark_non_differentiable(output[-1])


def _differentiate(
    ctx: Any, *grads: Tensor, backward: Callable[..., Any] = torch.ops.crystalformers.cpu_image_sum_backward
) -> tuple[Any, ...]:
    features, tensors = ctx.saved_tensors[:5], list(ctx.saved_tensors[5:])
    return *backward(*grads[:2], *features, tensors, ctx.numbers, ctx.counts), [None] * len(tensors), None, None


torch.library.impl("crystalformers::cpu_image_sum", "cpu", _image_sum)
torch.library.impl("crystalformers::cpu_image_sum_backward", "cpu", _image_sum_backward)
torch.library.register_fake("crystalformers::cpu_image_sum", lambda q, k, v, *rest: _outputs(q, rest[0], rest[-1]))
torch.library.register_fake(
    "crystalformers::cpu_image_sum_backward", lambda grad_y, grad_sums, *saved: tuple(map(torch.empty_like, saved[:4]))
)
torch.library.register_autograd("crystalformers::cpu_image_sum", _differentiate, setup_context=_remember)


class ImageSum(torch.autograd.Function):
    """The operator for eager code: the same functions without the dispatcher, which costs 0.2 ms per call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, ...]:
        """The operator; saves what its backward pass needs."""
        output = _image_sum(*inputs)
        _remember(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        """Gradients of q, k, v and 1 / 2 sigma^2."""
        *features, _, _, _ = _differentiate(ctx, *grads, backward=_image_sum_backward)
        return *features, None, None, None
