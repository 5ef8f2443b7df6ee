"""Fused attention on CUDA devices, in Triton."""

from crystalformers.attention.backends.triton.backend import attention, unsupported_reason

__all__ = ["attention", "unsupported_reason"]
