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

from crystalformers.attention.backends import cpu, reference, triton
from crystalformers.attention.backends import torch as vectorised
from crystalformers.attention.frames.encoding import AngularBasis, AngularEncoding
from crystalformers.attention.geometry import Geometry, RadialBasis
from crystalformers.errors import ConfigError

__all__ = ["AngularBasis", "AngularEncoding", "Backend", "Geometry", "RadialBasis", "infinite_attention"]

Backend = Literal["auto", "reference", "torch", "cpu", "triton"]
"""`reference`: brute force; `torch`: vectorised PyTorch; `cpu`, `triton`: fused kernels for a CPU and for CUDA devices;
`auto`: the fastest that gives what the arguments ask for. The weights are the same for all."""


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
        case "torch":
            return vectorised.attention(*arguments, angular)
        case "cpu":
            _require(backend, cpu.unsupported_reason(q_AHD, geometry))
            return cpu.attention(*arguments, angular)
        case "triton":
            _require(backend, triton.unsupported_reason(q_AHD, geometry, angular))
            return triton.attention(*arguments, angular)
    raise ConfigError(f"Attention backend '{backend}' is not one of {', '.join(get_args(Backend))}.")


def _require(backend: str, reason: str | None) -> None:
    if reason is not None:
        raise ConfigError(f"Attention backend '{backend}' {reason}.")


def choose_backend(q_AHD: Tensor, geometry: Geometry) -> Backend:
    """What `auto` means: the fused kernel on a CPU, unless it lacks something that is asked for, and else PyTorch.

    On a GPU PyTorch too: the Triton kernels are tested in the interpreter, but have not run on a card yet.
    """
    on_cpu = q_AHD.device.type == "cpu" and q_AHD.dtype == torch.float32
    if not on_cpu or geometry.images.distance.requires_grad:
        return "torch"
    if cpu.unsupported_reason(q_AHD, geometry):
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
