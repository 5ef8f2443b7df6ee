"""Muon: AdamW for all parameters but the weight matrices between layers, whose steps are orthogonalised.

K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
"""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from crystalformers.models import CrystalModel

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
"""Of the Newton-Schulz iteration; singular values from 0.01 to 1 end between 0.68 and 1.14 (Jordan, 2024)."""

STEP = 0.2
"""Root mean square of the entries of a step, relative to the learning rate: about that of AdamW
(Liu et al., "Muon is scalable for LLM training", 2025, section 2.2)."""

SHAPE = attrgetter("shape")


class Muon(torch.optim.AdamW):
    """AdamW, but for groups of parameters with ``matrices: True``.

    With the gradient G of such a matrix W of shape (n, m), as proposed with Nesterov's momentum:

        M <- mu M + (1 - mu) G
        W <- (1 - lr decay) W - 0.2 lr sqrt(max(n, m)) O(mu M + (1 - mu) G)

    where O replaces the singular values of a matrix by numbers near 1 (`orthogonalised`). Matrices of one shape are
    taken together, which PyTorch's own Muon, present from 2.9 on, does not.

    Args:
        groups: of parameters; ``matrices`` marks those whose parameters are matrices.
        momentum: mu.
        bf16: whether to orthogonalise in bfloat16, faster where the processor multiplies such numbers.
        settings: of AdamW; `lr` and the decay also hold for matrices.
    """

    def __init__(self, groups: list[dict[str, Any]], *, momentum: float, bf16: bool, **settings: Any) -> None:
        super().__init__([{"matrices": False, **group} for group in groups], **settings)
        self.momentum, self.dtype = momentum, torch.bfloat16 if bf16 else torch.float32

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step; the gradients of the matrices are used up by it."""
        for group in self.param_groups:
            if group["matrices"]:
                learned = sorted((p for p in group["params"] if p.grad is not None), key=SHAPE)
                for _, same in groupby(learned, SHAPE):
                    self._step_matrices(list(same), group["lr"], group["weight_decay"])
        super().step()  # passes over parameters without gradients

    def _step_matrices(self, weights: list[Tensor], lr: float, decay: float) -> None:
        """A step of matrices of one shape."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            # AdamW expects a count of steps in every state that it loads.
            self.state[weight] = self.state[weight] or {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight)}
            self.state[weight]["step"] += 1
            weight.grad = None
        moments = [self.state[weight]["exp_avg"] for weight in weights]
        torch._foreach_lerp_(moments, gradients, 1 - self.momentum)
        directions = torch.lerp(torch.stack(gradients), torch.stack(moments), self.momentum)
        steps = orthogonalised(directions.to(self.dtype)).to(directions.dtype) * (STEP * max(weights[0].shape) ** 0.5)
        torch._foreach_mul_(weights, 1 - lr * decay)
        torch._foreach_add_(weights, list(steps), alpha=-lr)


def orthogonalised(matrices: Tensor) -> Tensor:
    """Matrices with the same singular vectors whose singular values are near 1; of a matrix of zeros, zeros.

    Five Newton-Schulz iterations X <- a X + (b A + c A A) X with A = X X^T, from X of Frobenius norm 1.

    Args:
        matrices: (N, n, m).

    Returns:
        (N, n, m), in their floating-point type.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.flatten(1).norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)[:, None, None]
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def hidden_matrices(model: CrystalModel) -> list[Tensor]:
    """The weights of linear layers between the first part of a model, its element vectors, and its head."""
    layers = (layer for part in model.stages[1:-1] for layer in part.modules())
    return [layer.weight for layer in layers if isinstance(layer, nn.Linear)]
