"""Attention over periodic images by the Triton kernels of `kernels.py`, as operators PyTorch knows.

What is stored and what is recomputed: the forward pass stores the two sums, the logarithm of the softmax's denominator
and the first image that was not summed; the backward pass recomputes weights and radial functions, and holds one number
per image and head (the gradient of its logit) during the call. Nothing of size images x heads x K exists. Every launch
has one program per atom of any batch, and nothing waits for the device: a CUDA graph can capture all of it.
docs/kernels.md has a figure, the count of bytes and operations, and the reasons.

Shapes: A atoms, E images, P pairs, H heads, D their width, K radial functions.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from crystalformers.attention.geometry import Geometry
from crystalformers.images import envelope

NEGLIGIBLE = 20.5
"""Images whose weight is below exp(-NEGLIGIBLE) of the largest are not summed: a fiftieth of an ulp of float32, for the
gradient of the width counts images by their squared distance."""


@dataclass(frozen=True)
class Tiling:
    """How work is cut: powers of two, and at least 16 images, as matrix units want.

    Attributes:
        images: of a tile.
        pairs: whose scores are computed together to bound the reach of an atom.
        scan: distances that are compared with this bound together.
        warps: of a program.
        stages: of the loads ahead of their use.
        precision: of products of float32 numbers: "ieee", or "tf32x3" on matrix units, nearly as exact.
    """

    images: int = 16
    pairs: int = 16
    scan: int = 256
    warps: int = 4
    stages: int = 2
    precision: str = "ieee"


TILING = Tiling()


@lru_cache(maxsize=1)
def installed() -> bool:
    """Whether Triton is installed; PyTorch for CUDA brings it along."""
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Whether the kernels run in Triton's interpreter: TRITON_INTERPRET=1 was set before the first use."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class TritonImages:
    """The images as the kernels read them, once per batch; in order of their targets and, transposed, of their sources.

    Built by sorting and searching alone, so that nothing waits for the device.
    """

    distance: Tensor  # (E,) float32
    envelope: Tensor  # (E,) float32
    source: Tensor  # (E,) int32
    ptr: Tensor  # (A + 1,)
    pair_ptr: Tensor  # (A + 1,)
    pair_source: Tensor  # (P,)
    by_source: Tensor  # (E,) int32, images in the order of their source, nearest first
    target: Tensor  # (E,) int32, targets in that order
    source_ptr: Tensor  # (A + 1,)

    @classmethod
    def of(cls, geometry: Geometry) -> TritonImages:
        """The images of a geometry."""
        images = geometry.images
        distance = images.distance.float().contiguous()
        source = images.pair_source[images.pair]
        # Floats that are not negative are ordered like their bits.
        by_source = torch.argsort((source << 32) | distance.view(torch.int32), stable=True)
        atoms = torch.arange(images.n_atoms + 1, device=source.device)
        return cls(
            distance=distance,
            envelope=envelope(distance, images.radius),
            source=source.int(),
            ptr=images.ptr.contiguous(),
            pair_ptr=torch.searchsorted(images.pair_target, atoms),
            pair_source=images.pair_source.contiguous(),
            by_source=by_source.int(),
            target=images.pair_target[images.pair[by_source]].int(),
            source_ptr=torch.searchsorted(source[by_source], atoms),
        )

    def tensors(self) -> list[Tensor]:
        """As the operators take them."""
        return list(vars(self).values())


def kernels(name: str) -> ModuleType:
    """A module of kernels in this folder; imported when it is used, for Triton may not be installed."""
    return import_module(f"{__package__}.{name}")


def _sizes(q: Tensor) -> dict[str, int]:
    """Sizes that are constants of the kernels, and how these are launched."""
    _, heads, width = q.shape
    return {
        "HEADS": heads, "WIDTH": width, "H": max(power_of_two(heads), 2), "D": max(power_of_two(width), 2),
        "IMAGES": TILING.images, "num_warps": TILING.warps, "num_stages": TILING.stages,
    }  # fmt: skip


def power_of_two(number: int) -> int:
    """The least power of two that is not below a number."""
    return 1 << max(number - 1, 0).bit_length()


def _encoding(q: Tensor, count: int) -> dict[str, Any]:
    """Number of radial functions, type of the operands of their matrix products, and precision of float32 products."""
    import triton.language as tl

    # The interpreter would multiply the bits of bfloat16 numbers as integers.
    rounded = q.dtype == torch.bfloat16 and not interpreted()
    operand = tl.bfloat16 if rounded else tl.float32
    return {"COUNT": count, "K": max(power_of_two(count), 16), "OPERAND": operand, "PRECISION": TILING.precision}


def _scale(q: Tensor) -> float:
    """Factor on the queries, with log2(e): the kernels compute powers of two."""
    return 1 / (math.log(2) * math.sqrt(q.shape[-1]))


torch.library.define(
    "crystalformers::triton_image_sum",
    "(Tensor q, Tensor k, Tensor v, Tensor inverse_variance, Tensor[] lists, float spacing, float per_width, int count,"
    " bool weighted) -> (Tensor y, Tensor b, Tensor p, Tensor log_z, Tensor stop)",
)
torch.library.define(
    "crystalformers::triton_image_sum_backward",
    "(Tensor grad_y, Tensor grad_b, Tensor grad_p, Tensor q, Tensor k, Tensor v, Tensor inverse_variance, Tensor y,"
    " Tensor b, Tensor p, Tensor log_z, Tensor stop, Tensor[] lists, float spacing, float per_width, int count)"
    " -> (Tensor q, Tensor k, Tensor v, Tensor inverse_variance)",
)


def _image_sum(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    inverse_variance: Tensor,
    lists: list[Tensor],
    spacing: float,
    per_width: float,
    count: int,
    weighted: bool,
) -> tuple[Tensor, ...]:
    """Weighted sums over images: of values, (A, H, D), of radial functions, (A, H, K); and what backward needs.

    With `weighted` also the weights themselves, (E, H), 0 for images that are not summed.
    """
    images = TritonImages(*lists)
    q, k, v = (t.contiguous() for t in (q, k, v))
    inverse_variance = inverse_variance.float().contiguous()
    y, b, p, log_z, stop = outputs = _outputs(q, lists, count, weighted)
    with torch.cuda.device_of(q):
        kernels("kernels").image_sum[(len(q),)](
            q, k, v, inverse_variance, images.distance, images.envelope, images.source,
            images.ptr, images.pair_ptr, images.pair_source,
            y, b, p.zero_(), log_z, stop,
            _scale(q), spacing, per_width, NEGLIGIBLE / math.log(2),
            **_sizes(q), **_encoding(q, count), PAIRS=TILING.pairs, SCAN=TILING.scan, WEIGHTED=weighted,
        )  # fmt: skip
    return outputs


def _outputs(q: Tensor, lists: list[Tensor], count: int, weighted: bool) -> tuple[Tensor, ...]:
    atoms, heads, width = q.shape
    y = q.new_empty(atoms, heads, width, dtype=torch.float32)
    b = q.new_empty(atoms, heads, count, dtype=torch.float32)
    log_z = q.new_empty(atoms, heads, dtype=torch.float32)
    p = q.new_empty(lists[0].shape[0] if weighted else 0, heads, dtype=torch.float32)
    return y, b, p, log_z, q.new_empty(atoms, dtype=torch.int64)


def _image_sum_backward(
    grad_y: Tensor, grad_b: Tensor, grad_p: Tensor, *saved: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and 1 / sigma^2 from those of the sums."""
    q, k, v, inverse_variance, y, b, p, log_z, stop, lists, spacing, per_width, count = saved
    images = TritonImages(*lists)
    inputs = [t.contiguous() for t in (q, k, v)]
    variance, grad_y, grad_b, grad_p = (t.float().contiguous() for t in (inverse_variance, grad_y, grad_b, grad_p))
    grads = [torch.empty_like(t) for t in inputs]
    grad_variance, excess = torch.empty_like(variance), torch.empty_like(variance)
    # Entries of images that are not summed are never written, and never read.
    grad_logit = variance.new_empty(len(images.source), variance.shape[1])
    sizes, geometry = _sizes(q), (images.distance, images.envelope)
    with torch.cuda.device_of(q):
        kernels("kernels").image_sum_backward[(len(q),)](
            *inputs, variance, *geometry, images.source, images.ptr, y, b, log_z, stop, grad_y, grad_b,
            p, grad_p, grad_logit, excess, grads[0], grad_variance, _scale(q), spacing, per_width,
            **sizes, **_encoding(q, count), WEIGHTED=len(grad_p) > 0,
        )  # fmt: skip
        kernels("kernels").image_sum_pull[(len(q),)](
            *inputs[:2], variance, *geometry, log_z, stop, grad_y, grad_logit, excess,
            images.by_source, images.target, images.source_ptr, grads[1], grads[2], _scale(q), **sizes,
        )  # fmt: skip
    return grads[0], grads[1], grads[2], grad_variance.to(inverse_variance.dtype)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *features, lists, ctx.spacing, ctx.per_width, ctx.count, _ = inputs
    ctx.save_for_backward(*features, *output, *lists)
    ctx.mark_non_differentiable(*output[3:])


def _differentiate(ctx: Any, grad_y: Tensor, grad_b: Tensor, grad_p: Tensor, *_: Any) -> tuple[Any, ...]:
    features, lists = ctx.saved_tensors[:9], list(ctx.saved_tensors[9:])
    grads = torch.ops.crystalformers.triton_image_sum_backward(
        grad_y, grad_b, grad_p, *features, lists, ctx.spacing, ctx.per_width, ctx.count
    )
    return *grads, [None] * len(lists), None, None, None, None


torch.library.impl("crystalformers::triton_image_sum", ("cpu", "cuda"), _image_sum)
torch.library.impl("crystalformers::triton_image_sum_backward", ("cpu", "cuda"), _image_sum_backward)
torch.library.register_fake(
    "crystalformers::triton_image_sum",
    lambda q, k, v, inverse_variance, lists, *constants: _outputs(q, lists, *constants[-2:]),
)
torch.library.register_fake(
    "crystalformers::triton_image_sum_backward",
    lambda grad_y, grad_b, grad_p, *saved: tuple(t.new_empty(t.shape) for t in saved[:4]),
)
torch.library.register_autograd("crystalformers::triton_image_sum", _differentiate, setup_context=_remember)
