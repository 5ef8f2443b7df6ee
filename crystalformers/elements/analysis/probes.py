"""Linear probes: how well a ridge regression predicts a property of an element from its vector.

Columns are standardised. The penalty is chosen within each training part by exact leave-one-out (nested
cross-validation), so that the left-out elements do not influence it. One eigendecomposition of a training part serves
all penalties and all permutations of the property.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from crystalformers.elements.analysis.spaces import DRAWS, Floats, p_value
from crystalformers.errors import ConfigError

PENALTIES = np.logspace(-3, 5, 17)
"""Ridge penalties to try, for columns of unit variance."""

GIVEN = 0.99
"""Correlation above which a column of a table is taken to be the property itself."""

BOOTSTRAPS = 999
"""Bootstrap draws for an interval."""

LEAST_TRAINING = 5
"""Smallest number of elements in a training part."""


def predict_left_out(vectors: ArrayLike, values: ArrayLike, classes: ArrayLike) -> tuple[Floats, Floats]:
    """Predict the elements of each class from the others.

    Args:
        vectors: (E, D).
        values: one or several properties, (E, P), without NaN.
        classes: elements of one class are left out together, (E,): for example groups of the periodic table, or
            atomic numbers to leave out single elements.

    Returns:
        Predictions (E, P), and the means of the training parts (E, P), which are predictions without vectors.

    Raises:
        ConfigError: if there is only one class, or a training part has fewer than five elements.
    """
    x, y = np.asarray(vectors, dtype=np.float64), np.asarray(values, dtype=np.float64)
    labels, found = np.asarray(classes), np.unique(classes)
    if len(found) < 2:
        raise ConfigError("All elements are of one group; nothing is left to learn from when it is left out")
    predicted, mean = np.empty_like(y), np.empty_like(y)
    for part in (labels == c for c in found):
        train = ~part
        if train.sum() < LEAST_TRAINING:
            problem = f"{train.sum()} elements are too few to learn a property from"
            raise ConfigError(problem, remedy=f"{LEAST_TRAINING} will do")
        mean[part] = y[train].mean(axis=0)
        predicted[part] = _ridge(x[train], y[train], x[part])
    return predicted, mean


def _ridge(x: Floats, y: Floats, x_new: Floats) -> Floats:
    """Predictions for new rows; each column of `y` gets the penalty with the smallest leave-one-out error."""
    shift, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale > 1e-9 * abs(x).max(initial=1e-300), scale, np.inf)
    x, x_new = (x - shift) / scale, (x_new - shift) / scale
    variance, left = np.linalg.eigh(x @ x.T)
    variance = variance.clip(min=0)
    y_mean = y.mean(axis=0)
    inner, projected = left.T @ (y - y_mean), x_new @ x.T @ left
    best, answer = np.full(y.shape[1], np.inf), np.empty((len(x_new), y.shape[1]))
    for penalty in PENALTIES:
        weights = inner / (variance + penalty)[:, None]
        # 1/n, since the mean is fitted too.
        leverage = left**2 @ (variance / (variance + penalty)) + 1 / len(x)
        residual = y - y_mean - left @ (variance[:, None] * weights)
        error = ((residual / (1 - leverage)[:, None]) ** 2).sum(axis=0)
        better = error < best
        best[better], answer[:, better] = error[better], (y_mean + projected @ weights)[:, better]
    return answer


def r_squared(values: Floats, predicted: Floats, mean: Floats) -> Floats:
    """1 - squared error / squared error of the training means, summed over the first axis; 0: no better than them."""
    baseline: Floats = ((values - mean) ** 2).sum(axis=0)
    return 1 - ((values - predicted) ** 2).sum(axis=0) / baseline


def is_given(vectors: ArrayLike, values: ArrayLike) -> bool:
    """Whether a column of the vectors (E, D) is the property (E,) itself up to scale: |Pearson's r| > 0.99."""
    x, y = np.asarray(vectors, dtype=np.float64), np.asarray(values, dtype=np.float64)
    x, y = x - x.mean(axis=0), y - y.mean()
    size = np.linalg.norm(x, axis=0) * np.linalg.norm(y)
    return bool((abs(y @ x) > GIVEN * np.where(size > 0, size, np.inf)).any())


@dataclass(frozen=True, eq=False)
class Probe:
    """How well left-out elements are predicted.

    Attributes:
        values: the property, (E,).
        predicted: the prediction for each element when it is left out, (E,).
        mean: of the property over the elements of each training part, (E,).
        chance: R2 for permuted values of the property, (N,).
    """

    values: Floats
    predicted: Floats
    mean: Floats
    chance: Floats

    @property
    def r2(self) -> float:
        """See `r_squared`."""
        return float(r_squared(self.values, self.predicted, self.mean))

    @property
    def mae(self) -> float:
        """Mean absolute error, in the unit of the property."""
        return float(abs(self.values - self.predicted).mean())

    @property
    def p(self) -> float:
        """Probability that permuted values are predicted as well."""
        return p_value(self.r2, self.chance)


def interval(runs: Sequence[Probe], seed: int, draws: int = BOOTSTRAPS) -> tuple[float, float]:
    """95 % interval of the mean R2 of probes over the same elements (percentile bootstrap over elements)."""
    n = len(runs[0].values)
    rows = np.random.default_rng(seed).integers(n, size=(n, draws))
    r2 = np.mean([r_squared(run.values[rows], run.predicted[rows], run.mean[rows]) for run in runs], axis=0)
    low, high = np.quantile(r2, [0.025, 0.975])
    return float(low), float(high)


def probe(vectors: ArrayLike, values: ArrayLike, classes: ArrayLike, seed: int, draws: int = DRAWS) -> Probe:
    """Predict a property of left-out elements from vectors by ridge regression.

    Args:
        vectors: (E, D).
        values: of the property, (E,), without NaN.
        classes: elements of one class are left out together, (E,).
        seed: of the permutations.
        draws: number of permutations of the values, each probed in the same way.

    Raises:
        ConfigError: as `predict_left_out`.
    """
    known = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(seed)
    copies = np.stack([known, *(random.permutation(known) for _ in range(draws))], axis=1)
    predicted, mean = predict_left_out(vectors, copies, classes)
    chance = r_squared(copies, predicted, mean)[1:]
    return Probe(known, predicted[:, 0], mean[:, 0], chance)
