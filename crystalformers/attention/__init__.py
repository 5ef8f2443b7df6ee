"""Infinitely connected attention: softmax attention whose keys are the periodic images of the atoms.

    y_i = sum_e p_e (v_j(e) + psi_e),   p = softmax_e(q_i . k_j(e) / sqrt(d_h) - d_e^2 / (2 sigma_i^2)),
    psi_e = W^E b(d_e)                                                          (Crystalformer, section 3)

One public function, several backends behind one dispatcher; all compute the same function of the same arguments.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from crystalformers.attention import fused, plain, reference
from crystalformers.attention.angles import AngularBasis, AngularEncoding
from crystalformers.attention.geometry import Geometry, RadialBasis
from crystalformers.errors import ConfigError
from crystalformers.kernels import library

__all__ = ["AngularBasis", "AngularEncoding", "Backend", "Geometry", "RadialBasis", "infinite_attention"]

Backend = Literal["auto", "reference", "published", "torch", "cpu"]
"""`reference`: brute force; `published`: the same with the authors' image rule, for comparison with their code;
`torch`: vectorised PyTorch; `cpu`: fused kernel; `auto`: the fastest that gives what the arguments ask for."""


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

    Returns:
        y, shape (atoms, heads, width). Gradients flow to every tensor argument, and to positions and lattice
        where the images carry them (backends `reference` and `torch`).

    Raises:
        ConfigError: if the backend is unknown or cannot compute what is asked.
    """
    arguments = (q_AHD, k_AHD, v_AHD, inverse_variance_AH, W_HDK, geometry)
    if backend == "auto":
        backend = choose_backend(q_AHD, geometry)
    match backend:
        case "reference":
            return reference.attention(*arguments, angular=angular)
        case "published":
            return reference.attention(*arguments, angular=angular, published=True)
        case "torch":
            return plain.attention(*arguments, angular)
        case "cpu":
            if library() is None:
                raise ConfigError("Attention backend 'cpu' needs the compiled kernels; reinstall with a C compiler.")
            if q_AHD.dtype != torch.float32 or q_AHD.device.type != "cpu":
                raise ConfigError(
                    f"Attention backend 'cpu' computes float32 on the CPU, not {q_AHD.dtype} on {q_AHD.device}."
                )
            if geometry.images.distance.requires_grad:
                raise ConfigError("Attention backend 'cpu' has no gradients of positions; use 'torch' for them.")
            return fused.attention(*arguments, angular)
    raise ConfigError(f"Attention backend '{backend}' is not one of {', '.join(get_args(Backend))}.")


def choose_backend(q_AHD: Tensor, geometry: Geometry) -> Backend:
    """What `auto` means: the fused kernel for float32 on the CPU, unless distances want a gradient."""
    on_cpu = q_AHD.device.type == "cpu" and q_AHD.dtype == torch.float32
    if not on_cpu or geometry.images.distance.requires_grad:
        return "torch"
    if library() is None:
        _notice_missing_library()
        return "torch"
    return "cpu"


@lru_cache(maxsize=1)
def _notice_missing_library() -> None:
    warnings.warn(
        "The compiled kernels are not installed (no C compiler was found); attention runs in plain PyTorch, about "
        "ten times slower. Install a compiler and reinstall crystalformers.",
        RuntimeWarning,
        stacklevel=3,
    )
