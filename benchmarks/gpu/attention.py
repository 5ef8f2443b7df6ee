"""One layer of attention alone, with random features: for errors and times in parts.py."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from crystalformers.attention import Backend, Geometry, RadialBasis, infinite_attention
from crystalformers.images import CrystalBatch

HEADS, WIDTH, COUNT, MAXIMUM = 8, 16, 64, 14.0
"""Sizes of the published architecture."""


class Attention:
    """One layer of attention alone, with random features that float32 holds exactly.

    Args:
        batch: with its images, float64.
        device: where.
        seed: of the features.
        rounded: whether bfloat16 holds the features exactly too.
    """

    NAMES = ("y", "q", "k", "v", "inverse_variance", "W")

    def __init__(self, batch: CrystalBatch, device: torch.device | str, seed: int, *, rounded: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            drawn = torch.randn(*shape, generator=generator)
            return (drawn.bfloat16() if rounded else drawn).double()

        shape = (batch.n_atoms, HEADS, WIDTH)
        sigma = 0.9 + 1.0 * torch.rand(shape[:2], generator=generator)
        features = [normal(*shape) for _ in range(3)]
        self.inputs = [*features, (sigma**-2).double(), normal(HEADS, WIDTH, COUNT)]
        self.cotangent = normal(*shape)
        self.batch, self.device = batch, device

    def problem(self, dtype: torch.dtype, features: torch.dtype) -> tuple[list[Tensor], Geometry, Tensor]:
        """Inputs, geometry and the gradient of the output, on the device; the features may be rounded further."""
        inputs = [t.to(self.device, dtype if k == 3 else features) for k, t in enumerate(self.inputs)]
        leaves = [t.detach().clone().requires_grad_() for t in inputs]
        geometry = Geometry(self.batch.to(self.device).to(dtype), RadialBasis(COUNT, MAXIMUM))
        return leaves, geometry, self.cotangent.to(self.device, features)

    def solve(self, backend: Backend, dtype: torch.dtype, features: torch.dtype | None = None) -> dict[str, Tensor]:
        """The output and the gradient of every input, float64 on the CPU."""
        leaves, geometry, cotangent = self.problem(dtype, features or dtype)
        q, k, v, inverse_variance, W = leaves
        y = infinite_attention(q, k, v, inverse_variance, W, geometry, backend)
        found = (y.detach(), *torch.autograd.grad(y, leaves, cotangent.to(y.dtype)))
        return {name: t.double().cpu() for name, t in zip(self.NAMES, found, strict=True)}


def errors(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Root mean square error of every tensor over the largest number in it."""
    return {
        name: float((ours[name] - exact[name]).square().mean().sqrt() / exact[name].abs().max().clamp(min=1e-30))
        for name in exact
    }


def seconds_per_call(work: Callable[[], object], device: torch.device, calls: int) -> float:
    """Median time of a call on the device by its own clock; on a CPU by the wall clock."""
    if device.type != "cuda":
        start = perf_counter()
        work()
        return perf_counter() - start
    for _ in range(3):
        work()
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(calls)]
    for start_mark, end_mark in marks:
        start_mark.record()
        work()
        end_mark.record()
    torch.cuda.synchronize(device)
    return float(np.median([a.elapsed_time(b) for a, b in marks])) / 1e3
