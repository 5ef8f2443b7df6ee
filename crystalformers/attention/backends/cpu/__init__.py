"""Fused attention on a CPU, in C."""

from crystalformers.attention.backends.cpu.backend import attention, unsupported_reason

__all__ = ["attention", "unsupported_reason"]
