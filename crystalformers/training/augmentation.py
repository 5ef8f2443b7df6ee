"""Random poses of crystals, for a model whose input is Cartesian coordinates.

A pose follows from the seed, the epoch and the row alone, so that it depends neither on batch mates nor on a resume.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from crystalformers.data.split import IntArray
from crystalformers.images import CrystalBatch
from crystalformers.training.recipe import Augment

Array = NDArray[np.float64]


def posed(crystals: CrystalBatch, rows: IntArray, augment: Augment, seed: int, epoch: int) -> CrystalBatch:
    """The crystals of a batch, each in its random pose.

    Args:
        crystals: without directions to their images.
        rows: of the table, (C,).
        augment: what to draw.
        seed: of the run.
        epoch: counted from 0.
    """
    return moved(crystals, rows, augment, lambda row: [np.random.default_rng([seed, row, epoch])], random_orthogonal)


def moved(
    crystals: CrystalBatch,
    rows: IntArray,
    augment: Augment,
    generators: Callable[[int], list[np.random.Generator]],
    random_matrix: Callable[[np.random.Generator], Array],
) -> CrystalBatch:
    """The crystals of a batch, each moved by a random matrix and shift, and its atoms displaced at random.

    Args:
        crystals: without directions to their images.
        rows: of the table, (C,).
        augment: how often and how far.
        generators: of the moves of a row, one each; the last one also displaces the atoms.
        random_matrix: what turns a crystal, (3, 3).
    """
    positions, lattice = crystals.positions.double().numpy().copy(), crystals.lattice.double().numpy().copy()
    for number, (row, first, last) in enumerate(zip(rows.tolist(), crystals.ptr[:-1], crystals.ptr[1:], strict=True)):
        for rng in (draws := generators(row)):
            if rng.random() < augment.probability:
                matrix = random_matrix(rng)
                shift = rng.uniform(-augment.translation, augment.translation, 3)
                positions[first:last] = positions[first:last] @ matrix.T + shift
                lattice[number] = lattice[number] @ matrix.T
        if augment.jitter:
            positions[first:last] += draws[-1].normal(scale=augment.jitter, size=(int(last - first), 3))
    kind = crystals.positions.dtype
    return replace(crystals, positions=torch.from_numpy(positions).to(kind), lattice=torch.from_numpy(lattice).to(kind))


def random_orthogonal(rng: np.random.Generator) -> Array:
    """A rotation or rotation with reflection, uniform over O(3): Q of a Gaussian matrix, signs of R made positive."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(q * np.sign(np.diag(r)))
