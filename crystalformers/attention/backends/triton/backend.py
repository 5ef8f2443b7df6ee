"""The backend `triton`: what it cannot compute, and attention from the operators of `operators.py`.

Shapes: A atoms, E images, H heads, D their width, K radial functions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crystalformers.attention.arguments import Arguments
from crystalformers.attention.backends.triton import operators
from crystalformers.attention.backends.triton.frames import FRAMES, angular_values
from crystalformers.attention.frames.encoding import AngularEncoding
from crystalformers.attention.geometry import Geometry

DTYPES = (torch.float32, torch.bfloat16)
"""Types of the features; distances, weights and every sum are float32."""


def unsupported_reason(q_AHD: Tensor, geometry: Geometry, angular: AngularEncoding | None) -> str | None:
    """See `BackendModule`."""
    compiling = torch.compiler.is_compiling()  # code that a compiler traces must not look at the environment
    if not compiling and not operators.installed():
        return 'needs Triton; install it with: pip install "crystalformers[gpu]"'
    if q_AHD.device.type != "cuda" and not (compiling or operators.interpreted()):
        return (
            f"runs on CUDA devices, and the tensors are on {q_AHD.device}; move model and batch there (to test without "
            "a GPU, set TRITON_INTERPRET=1 before Python starts)"
        )
    if q_AHD.dtype not in DTYPES:
        return f"computes float32 and bfloat16, not {q_AHD.dtype}; use 'torch'"
    if angular is not None and angular.frame not in FRAMES:
        return f"has no '{angular.frame}' frames, only {', '.join(FRAMES)}; use 'torch'"
    if geometry.images.distance.requires_grad:
        return "has no gradients of positions; use 'torch' for them"
    return None


def attention(arguments: Arguments) -> Tensor:
    """Attention over periodic images, (A, H, D), see `unsupported_reason`."""
    q_AHD, k_AHD, v_AHD, inverse_variance_AH, W_HDK, geometry, angular, _ = arguments
    basis, dtype = geometry.basis, v_AHD.dtype
    count = 0 if W_HDK is None else basis.count
    spacing, per_width = (basis.spacing, 1 / (basis.width * basis.spacing)) if count else (1.0, 1.0)
    lists = geometry.cached(operators.TritonImages.of).tensors()
    y_AHD, b_AHK, p_EH, _, _ = torch.ops.crystalformers.triton_image_sum(
        q_AHD, k_AHD, v_AHD, inverse_variance_AH, lists, spacing, per_width, count, angular is not None
    )
    y_AHD = y_AHD.to(dtype)
    if W_HDK is not None:
        y_AHD = y_AHD + torch.einsum("ahk,hdk->ahd", b_AHK.to(dtype), W_HDK.to(dtype))
    if angular is not None:
        y_AHD = y_AHD + angular_values(p_EH, geometry, angular).to(dtype)
    return y_AHD
