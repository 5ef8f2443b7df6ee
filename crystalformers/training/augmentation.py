"""Random poses of crystals, for a model whose input is Cartesian coordinates.

A pose follows from the seed, the epoch and the row alone, so that it depends neither on batch mates nor on a resume.

`faithful_bugs` repeats the published code of CrystalTransformer: rotations by three uniform Euler angles, which are
not uniform over all rotations; always one reflection, a third of which (that of x) is a shear that distorts the
crystal; a first pose that is drawn once for each structure, kept for the whole run, and worn in validation and test
too; dropout in the first epoch only (`TrainingModule.on_train_epoch_start`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from crystalformers.images import CrystalBatch
from crystalformers.training.recipe import Augment

Array = NDArray[np.float64]

MIRRORS = np.array(
    [
        [[-1, 0, 0], [0, 1, 1], [0, 0, 1]],
        [[1, 0, 0], [0, -1, 0], [0, 0, 1]],
        [[1, 0, 0], [0, 1, 0], [0, 0, -1]],
    ]
)
"""The published reflections; the first is none."""


def posed(
    crystals: CrystalBatch, rows: NDArray[np.int64], augment: Augment, seed: int, epoch: int | None
) -> CrystalBatch:
    """The crystals of a batch, each in its random pose.

    Args:
        crystals: without directions to their images.
        rows: of the table, (C,).
        augment: what to draw.
        seed: of the run.
        epoch: counted from 0; None in evaluation, where only `faithful_bugs` moves anything.
    """
    positions, lattice = crystals.positions.double().numpy().copy(), crystals.lattice.double().numpy().copy()
    for number, (row, first, last) in enumerate(zip(rows.tolist(), crystals.ptr[:-1], crystals.ptr[1:], strict=True)):
        generators = [np.random.default_rng([seed, row])] if augment.faithful_bugs else []
        if epoch is not None:
            generators.append(np.random.default_rng([seed, row, epoch]))
        for rng in generators:
            if rng.random() < augment.probability:
                turn = published_matrix(rng) if augment.faithful_bugs else random_orthogonal(rng)
                shift = rng.uniform(-augment.translation, augment.translation, 3)
                positions[first:last] = positions[first:last] @ turn.T + shift
                lattice[number] = lattice[number] @ turn.T
        if augment.jitter and epoch is not None:
            positions[first:last] += generators[-1].normal(scale=augment.jitter, size=(int(last - first), 3))
    kind = crystals.positions.dtype
    return replace(crystals, positions=torch.from_numpy(positions).to(kind), lattice=torch.from_numpy(lattice).to(kind))


def random_orthogonal(rng: np.random.Generator) -> Array:
    """A rotation or rotation with reflection, uniform over O(3): Q of a Gaussian matrix, signs of R made positive."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(q * np.sign(np.diag(r)))


def published_matrix(rng: np.random.Generator) -> Array:
    """Rz Ry Rx of three uniform angles, then one of `MIRRORS`."""
    turn = np.eye(3)
    for axis, angle in enumerate(rng.uniform(-np.pi, np.pi, 3)):
        rotation = np.eye(3)
        plane = np.ix_(*2 * [[k for k in range(3) if k != axis]])
        sign = -1 if axis == 1 else 1
        rotation[plane] = [[np.cos(angle), -sign * np.sin(angle)], [sign * np.sin(angle), np.cos(angle)]]
        turn = rotation @ turn
    return np.asarray(MIRRORS[rng.integers(3)] @ turn)
