"""Where the authors' training differs from ours on purpose, repeated to follow their procedure exactly.

Only with `published_slips: true` in a recipe. For every model:

* Biases decay: by 0.01 with AdamW, whose default slipped in (Crystalformer, CrystalFramer), by the decay of the weights
  with SGD (CrystalTransformer).
* Batches are cut from a plain shuffle, so that their costs differ.

For CrystalFramer:

* Ties of frames are drawn, in evaluation too: noise on the squared distances decides between equal images. Set
  `model.tie_width: 1.0e-8` as well, else ties are averaged all the same.

For CrystalTransformer:

* Rotations are made of three uniform Euler angles, which are not uniform over all rotations. A "reflection" always
  follows, a third of which (that of x) is a shear that distorts the crystal.
* Each structure gets a first pose that is drawn once for the whole run, in validation and test too.
* Dropout works in the first epoch only: after its validation the model never returns to training mode.

Those that are not repeated are listed in docs/differences.md.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

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

ADAMW_BIAS_DECAY = 0.01
"""What AdamW takes for a group of parameters that names no decay."""

TIE_NOISE = 1e-5
"""Width of the noise on squared distances, Å², centred on 0 (their `symm_break_noise`)."""


def bias_decay(recipe: Recipe) -> float:
    """The decay of biases, 0 unless the slips are repeated."""
    if not recipe.published_slips:
        return 0.0
    return ADAMW_BIAS_DECAY if recipe.optimizer == "adamw" else recipe.weight_decay


def shuffled_order(rows: IntArray, count: int, size: int, seed: int, epoch: int) -> list[IntArray]:
    """`count` batches of `size` rows from a plain shuffle; the rest of the rows is left out."""
    chosen = np.random.default_rng([seed, epoch]).permutation(rows)[: count * size]
    return list(chosen.reshape(count, size))


def with_ties_drawn(crystals: CrystalBatch, rows: IntArray, seed: int, epoch: int | None) -> CrystalBatch:
    """The crystals with noise on the squared distances of all images but the atoms themselves.

    The noise follows from the seed, the epoch (None in evaluation) and the rows of the batch. The images of an atom are
    in order of the new distances, as compiled kernels need them.
    """
    images = crystals.images
    if images is None or images.vectors is None:
        return crystals
    rng = np.random.default_rng([seed, 0 if epoch is None else epoch + 1, *rows.tolist()])
    noise = torch.from_numpy(rng.uniform(-0.5, 0.5, len(images.distance)) * TIE_NOISE).to(images.distance)
    squared = images.distance.square()
    noisy = torch.where(squared > TIE_NOISE, squared + noise, squared).sqrt().clamp(max=images.radius)
    order = torch.from_numpy(np.lexsort((noisy.numpy(), images.target.numpy())))
    shift = None if images.shift is None else images.shift[order]
    drawn = replace(images, distance=noisy[order], pair=images.pair[order], shift=shift, vectors=images.vectors[order])
    return replace(crystals, images=drawn)


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
    return recipe.published_slips and recipe.augment is not None and epoch > 0
