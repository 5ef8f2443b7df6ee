"""Short series of Gaussians."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crystalformers.attention.chebyshev import chebyshev_series, orders_for, power_series


@pytest.mark.parametrize("deviation", [0.03, 0.1, 2 / 15, 8 / 63, 0.3, 1.0, 2.0, 6.0])
@pytest.mark.parametrize("error", [1e-7, 3e-7, 1e-5])
def test_a_series_is_as_good_as_asked_wherever_the_gaussian_stands(deviation: float, error: float) -> None:
    reach = 1 + 6 * deviation
    centres = torch.linspace(-reach, reach, 301, dtype=torch.float64)

    def gaussians(x: Tensor) -> Tensor:
        return torch.exp(-0.5 * ((x[:, None] - centres) / deviation) ** 2)

    orders = orders_for(deviation, error)
    series = chebyshev_series(gaussians, orders)
    x = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    polynomials = torch.cos(torch.arange(orders)[:, None] * torch.acos(x))
    assert (polynomials.mT @ series - gaussians(x)).abs().max() < error
    # What is left out is measured on a series long enough to hold it.
    left_out = chebyshev_series(gaussians, 2 * orders + 20)[orders:].abs().sum(0).max()
    assert left_out < error
    assert orders % 2 == 0


def test_powers_are_the_same_polynomials() -> None:
    series = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.linspace(-1, 1, 11, dtype=torch.float64)
    expected = torch.cos(torch.arange(8)[:, None] * torch.acos(x)).mT @ series
    powers = x[:, None] ** torch.arange(8) @ power_series(series)
    torch.testing.assert_close(powers, expected, rtol=0, atol=1e-12)
    assert math.isclose(float(power_series(torch.eye(3, dtype=torch.float64))[2, 2]), 2.0)
