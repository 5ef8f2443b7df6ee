"""What the fused kernel may leave out of its sums, by the precision of the features that go into them."""

from __future__ import annotations

from typing import NamedTuple


class Accuracy(NamedTuple):
    """Bounds on what is left out.

    Attributes:
        negligible: images whose weight is below exp(-negligible) of the largest are not summed.
        negligible_backward: the same for gradients.
        series: error of the angular functions, and of what sums over images with them leave out.
    """

    negligible: float
    negligible_backward: float
    series: float


FLOAT32 = Accuracy(negligible=17.5, negligible_backward=20.5, series=3e-7)
"""Half an ulp of float32. The gradient of the width counts images by their squared distance, so that more of them
matter."""

BFLOAT16 = Accuracy(negligible=8.0, negligible_backward=10.0, series=1e-3)
"""The first is a twelfth of the rounding error of bfloat16, 2^-8."""
