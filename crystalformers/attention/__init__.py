"""Infinitely connected attention: softmax attention whose keys are the periodic images of the atoms.

    y_i = sum_e p_e (v_j(e) + psi_e),   p = softmax_e(q_i . k_j(e) / sqrt(d_h) - d_e^2 / (2 sigma_i^2)),
    psi_e = W^E b(d_e)                                                          (Crystalformer, section 3)

One public function, `infinite_attention`; `attention.backends` has its implementations.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TypeAlias

import torch
from torch import Tensor

from crystalformers.attention.arguments import Arguments, check_arguments, check_directions
from crystalformers.attention.backends import load_backend
from crystalformers.attention.frames.encoding import AngularBasis, AngularEncoding
from crystalformers.attention.geometry import Geometry, RadialBasis
from crystalformers.csrc.kernels import NOT_INSTALLED
from crystalformers.errors import ConfigError

__all__ = ["AngularBasis", "AngularEncoding", "Backend", "Geometry", "RadialBasis", "infinite_attention"]

Backend: TypeAlias = str
"""`auto`, the fastest that gives what the arguments ask for, or a name in `attention.backends.BACKENDS`: `reference`,
brute force; `torch`, vectorised PyTorch; `cpu` and `triton`, fused kernels for a CPU and for CUDA devices. The same
weights serve all."""


def infinite_attention(
    q_AHD: Tensor,
    k_AHD: Tensor,
    v_AHD: Tensor,
    inverse_variance_AH: Tensor,
    W_HDK: Tensor | None,
    geometry: Geometry,
    backend: Backend = "auto",
    *,
    angular: AngularEncoding | None = None,
    rounded: bool = False,
) -> Tensor:
    """Attend from every atom to all periodic images around it.

    Args:
        q_AHD: queries, with their bias and before the factor 1/sqrt(d_h), shape (atoms, heads, width).
        k_AHD: keys, same shape; the features of an image are those of its atom.
        v_AHD: values, same shape.
        inverse_variance_AH: 1/sigma_i^2 of the Gaussian decay, 1/Å², shape (atoms, heads).
        W_HDK: W^E of the value position encoding, shape (heads, width, radial functions), or None to leave
            the encoding out (the simplified model).
        geometry: the batch with its images, and the radial basis.
        backend: which implementation computes it.
        angular: the angular part of the value encoding (CrystalFramer), or None to leave it out.
        rounded: whether q, k and v come from dense layers in bfloat16. A backend may then leave out what is small
            beside that rounding; `cpu` does (`backends.cpu.accuracy`).

    Returns:
        y, shape (atoms, heads, width). Gradients flow to every tensor argument, and to positions and lattice
        where the images carry them (backends `reference` and `torch`).

    Raises:
        ConfigError: if shapes, types or devices of the arguments do not fit together, or if the backend is unknown
            or cannot compute what is asked.
    """
    arguments = Arguments(q_AHD, k_AHD, v_AHD, inverse_variance_AH, W_HDK, geometry, angular, rounded)
    check_arguments(arguments)
    name = choose_backend(q_AHD, geometry, angular) if backend == "auto" else backend
    module = load_backend(name)
    reason = module.unsupported_reason(q_AHD, geometry, angular)
    if reason is not None:
        raise ConfigError(f"Attention backend '{name}' {reason}.")
    if angular is not None:
        check_directions(geometry)
    return module.attention(arguments)


def choose_backend(q_AHD: Tensor, geometry: Geometry, angular: AngularEncoding | None = None) -> Backend:
    """What `auto` means: the fused kernel for float32 on a CPU where it can compute what is asked, otherwise PyTorch.

    On a GPU PyTorch too: the Triton kernels are tested in the interpreter, but have not run on a card yet.
    """
    on_cpu = q_AHD.device.type == "cpu" and q_AHD.dtype == torch.float32
    if not on_cpu or geometry.images.distance.requires_grad:
        return "torch"
    reason = load_backend("cpu").unsupported_reason(q_AHD, geometry, angular)
    if reason == NOT_INSTALLED:
        _warn_of_missing_library()
    return "cpu" if reason is None else "torch"


@lru_cache(maxsize=1)
def _warn_of_missing_library() -> None:
    warnings.warn(
        "The compiled kernels are not installed (no C compiler was found); attention runs in plain PyTorch, about "
        "ten times slower. Install a compiler and reinstall crystalformers.",
        RuntimeWarning,
        stacklevel=3,
    )
