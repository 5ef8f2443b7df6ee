"""Gaussians on [-1, 1] as short series: f_k(x) = sum_l c_lk T_l(x), or powers of x.

Shapes: K functions, L orders. Nothing here depends on numbers in tensors, so that it can be traced.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SLACK = 4
"""How many times, at least, the bound of `orders_for` exceeds the error of the series."""


def orders_for(deviation: float, error: float) -> int:
    """An even number of orders that represent Gaussians of this standard deviation, wherever centred, up to `error`.

    On the ellipse around [-1, 1] with semi-axis sinh u a Gaussian is at most exp(sinh^2 u / 2 s^2), so that
    |c_l| <= 2 exp(sinh^2 u / 2 s^2 - l u) for any u (Trefethen, Approximation Theory and Practice, theorem 8.1);
    the best has sinh 2u = 2 l s^2.
    """
    order = 2
    while True:
        u = math.asinh(2 * order * deviation**2) / 2
        if 2 * math.exp(math.sinh(u) ** 2 / (2 * deviation**2) - order * u) <= SLACK * error:
            return order
        order += 2


def chebyshev_series(function: Callable[[Tensor], Tensor], orders: int) -> Tensor:
    """Coefficients c of the interpolation of functions (...) -> (..., K) at Chebyshev nodes, shape (L, K) float64."""
    phi = (torch.arange(orders, dtype=torch.float64) + 0.5) * math.pi / orders
    order = torch.arange(orders, dtype=torch.float64)
    share = torch.where(order == 0, 1.0, 2.0) / orders
    return (share[:, None] * torch.cos(order[:, None] * phi)) @ function(torch.cos(phi))


def power_series(chebyshev_LK: Tensor) -> Tensor:
    """Coefficients of x^0, x^1, ... from those of T_0, T_1, ..., (L, K)."""
    orders = len(chebyshev_LK)
    powers = [[1.0], [0.0, 1.0]]  # of T_l = 2 x T_(l-1) - T_(l-2)
    while len(powers) < orders:
        before = powers[-2] + [0.0, 0.0]
        powers.append([2 * high - low for high, low in zip([0.0, *powers[-1]], before, strict=True)])
    square = [row + [0.0] * (orders - len(row)) for row in powers[:orders]]
    return torch.tensor(square, dtype=chebyshev_LK.dtype).mT @ chebyshev_LK
