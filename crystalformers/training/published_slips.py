"""Slips in the published training code of CrystalTransformer, repeated to reproduce its results.

Only with `published_slips: true` in a recipe:

* Rotations are made of three uniform Euler angles, which are not uniform over all rotations. A "reflection" always
  follows, a third of which (that of x) is a shear that distorts the crystal.
* Each structure gets a first pose that is drawn once for the whole run, in validation and test too.
* Dropout works in the first epoch only: after its validation the model never returns to training mode.

Those that are not repeated are listed in docs/differences.md.
"""

from __future__ import annotations

import numpy as np

from crystalformers.data.split import IntArray
from crystalformers.images import CrystalBatch
from crystalformers.training.augmentation import Array, moved
from crystalformers.training.recipe import Augment, Recipe

REFLECTIONS = np.array(
    [
        [[-1, 0, 0], [0, 1, 1], [0, 0, 1]],
        [[1, 0, 0], [0, -1, 0], [0, 0, 1]],
        [[1, 0, 0], [0, 1, 0], [0, 0, -1]],
    ]
)
"""As published; the first is no reflection."""


def posed(crystals: CrystalBatch, rows: IntArray, augment: Augment, seed: int, epoch: int | None) -> CrystalBatch:
    """As `augmentation.posed`, but first in the pose of the run; in evaluation (epoch None) in that one alone."""
    if epoch is None:
        augment = augment.model_copy(update={"jitter": 0.0})

    def generators(row: int) -> list[np.random.Generator]:
        keys = [[seed, row]] if epoch is None else [[seed, row], [seed, row, epoch]]
        return [np.random.default_rng(key) for key in keys]

    return moved(crystals, rows, augment, generators, random_matrix)


def random_matrix(rng: np.random.Generator) -> Array:
    """Rz Ry Rx of three uniform angles, then one of `REFLECTIONS`."""
    matrix = np.eye(3)
    for axis, angle in enumerate(rng.uniform(-np.pi, np.pi, 3)):
        rotation = np.eye(3)
        plane = np.ix_(*2 * [[k for k in range(3) if k != axis]])
        sign = -1 if axis == 1 else 1
        rotation[plane] = [[np.cos(angle), -sign * np.sin(angle)], [sign * np.sin(angle), np.cos(angle)]]
        matrix = rotation @ matrix
    return np.asarray(REFLECTIONS[rng.integers(3)] @ matrix)


def without_dropout(recipe: Recipe, epoch: int) -> bool:
    """Whether an epoch (from 0) is trained in evaluation mode."""
    return recipe.published_slips and epoch > 0
