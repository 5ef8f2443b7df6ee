"""Equal-weight running average of the weights (stochastic weight averaging, Izmailov et al., UAI 2018)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def learned(model: nn.Module) -> list[Tensor]:
    """Parameters, then the buffers that training may change too (statistics of batch normalisation)."""
    return [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]


class WeightAverage:
    """Mean of what is learned over the optimiser steps it has seen.

    mean_n = mean_(n-1) + (w_n - mean_(n-1)) / n, in place, all tensors in one call.

    Args:
        model: its parameters and floating-point buffers are averaged.
    """

    def __init__(self, model: nn.Module) -> None:
        self.count = 0
        self._weights: list[Tensor] = learned(model)
        self._mean: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Take the current weights in."""
        self.count += 1
        if self.count == 1:
            self._mean = [weight.detach().clone() for weight in self._weights]
        else:
            torch._foreach_lerp_(self._beside_weights(), self._weights, 1 / self.count)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights with the average; nothing happens where nothing is averaged yet."""
        for weight, mean in zip(self._weights, self._beside_weights(), strict=False):
            held = weight.detach().clone()
            weight.copy_(mean)
            mean.copy_(held)

    def _beside_weights(self) -> list[Tensor]:
        """The average on the device of the weights, which moves when training begins and ends."""
        self._mean = [mean.to(weight.device) for mean, weight in zip(self._mean, self._weights, strict=False)]
        return self._mean

    def state_dict(self) -> dict[str, Any]:
        """Plain tensors and numbers."""
        return {"count": self.count, "mean": self._mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.count = state["count"]
        self._mean = state["mean"]
