"""The loss: of labels that are there, and of several targets that may not weigh alike."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["l1", "mse"]
Balance = Literal["none", "targets", "sum", "uncertainty"]


class Loss(nn.Module):
    """Mean error of standardised predictions over the labels that are present.

    With `uncertainty` each target t has a learned s_t, and counts with error_t exp(-s_t) + s_t. For L1 that is the
    likelihood of a Laplace distribution of width exp(s_t), for squares that of a normal distribution of variance
    exp(s_t) (Kendall, Gal and Cipolla, CVPR 2018, eqs. 5 to 7, up to a factor).

    Args:
        kind: `l1` or `mse`.
        balance: `none`: the mean over all labels; `targets`: the mean over the targets of their means;
            `sum`: the sum of these; `uncertainty`: the same with learned weights.
        n_targets: T.
    """

    def __init__(self, kind: Kind, balance: Balance, n_targets: int) -> None:
        super().__init__()
        self.kind = kind
        self.balance = balance
        self.log_scale = nn.Parameter(torch.zeros(n_targets)) if balance == "uncertainty" else None

    def forward(self, predicted: Tensor, labels: Tensor, counts: Tensor | None = None, processes: int = 1) -> Tensor:
        """Loss of a batch, or of the share of it that one of several processes has: its mean over them is the loss.

        Args:
            predicted: standardised, (crystals, T).
            labels: the same, NaN where missing.
            counts: labels of each target in the whole batch, (T,), if this is a share.
            processes: that share it.
        """
        present = ~labels.isnan()
        counts = present.sum(0) if counts is None else counts
        error = torch.where(present, predicted - labels.nan_to_num(), 0.0)
        error = processes * (error.abs() if self.kind == "l1" else error.square())
        if self.balance == "none":
            return error.sum() / counts.sum().clamp(min=1)
        mean = error.sum(0) / counts.clamp(min=1)
        if self.log_scale is not None:
            mean = mean * (-self.log_scale).exp() + self.log_scale
        total = torch.where(counts > 0, mean, 0.0).sum()
        return total if self.balance == "sum" else total / (counts > 0).sum().clamp(min=1)
