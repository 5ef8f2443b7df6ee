"""Equal-weight running average of the weights (stochastic weight averaging, Izmailov et al., UAI 2018)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Mean of the learned tensors of a model over the optimiser steps it has seen.

    mean_n = mean_(n-1) + (w_n - mean_(n-1)) / n, in place, all tensors in one call.

    Args:
        model: on its device already; its parameters and floating-point buffers are averaged.

    Attributes:
        count: steps it has seen.
        mean: like `learned_tensors(model)`; before the first step the initial values.
    """

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        self._weights = learned_tensors(model)
        self.mean = copies(self._weights)

    @torch.no_grad()
    def update(self) -> None:
        """Take the current weights in."""
        self.count += 1
        torch._foreach_lerp_(self.mean, self._weights, 1 / self.count)


def learned_tensors(model: nn.Module) -> list[Tensor]:
    """Parameters, then the buffers that training may change too (statistics of batch normalisation)."""
    return [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]


def copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of their own memory, without gradients."""
    return [tensor.detach().clone() for tensor in tensors]


@torch.no_grad()
def copy_into(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Overwrite tensors in place, whatever device the sources are on."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


@contextmanager
def other_weights(model: nn.Module, weights: Sequence[Tensor]) -> Iterator[None]:
    """Inside the block the model has other values of its learned tensors; its own come back after it."""
    learned = learned_tensors(model)
    own = copies(learned)
    copy_into(learned, weights)
    try:
        yield
    finally:
        copy_into(learned, own)
