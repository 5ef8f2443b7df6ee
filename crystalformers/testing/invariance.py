"""Is a model's prediction a property of the crystal, or of the way its cell was written down?

A crystal can be described in endlessly many ways: turned, with its atoms in another order, in a larger or a
sheared cell. This module rewrites crystals in such ways and measures how far the prediction of any model
follows; it needs no test framework.

>>> from crystalformers.testing import E3, assert_invariant, invariance_report, table
>>> def predict(crystals):  # any callable from a list of crystals to an array (n,) or (n, targets)
...     return [len(set(crystal.symbols)) + 0.1 * min(crystal.numbers) for crystal in crystals]
>>> rows = invariance_report(predict, crystals)  # doctest: +SKIP
>>> print(table(rows))  # doctest: +SKIP
>>> assert_invariant(predict, crystals, tolerance=1e-5, transformations=E3)  # doctest: +SKIP

The numbers: a row's `change` is the largest difference of a prediction, over crystals and targets, divided by
the standard deviation of that target's predictions over the crystals given ("the spread"). It has no unit. A
change of 1e-7 is rounding in float32, 1e-13 in float64; the published code of Crystalformer has 0.12 for atoms
moved to other periodic images and up to 0.5 for a sheared cell.

Per-atom and intensive quantities are invariant; a quantity per cell grows with a supercell: divide it first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.extras import optional
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import CrystalModel
from crystalformers.prediction.batching import batches_by_cost, expected_images

__all__ = [
    "ALL",
    "CONTROL",
    "E3",
    "REFLECTION",
    "SE3",
    "Predict",
    "Row",
    "Transformation",
    "assert_invariant",
    "invariance_report",
    "network_predictor",
    "niggli",
    "other_handed",
    "randomly_rebased",
    "rebased",
    "reflected",
    "reordered",
    "repeated",
    "rotated",
    "sheared",
    "strained",
    "table",
    "translated",
    "unwrapped",
]

Array = NDArray[np.float64]

Predict = Callable[[list[Crystal]], ArrayLike]
"""Predictions for crystals, shape (n,) or (n, targets), in any unit."""


def rotated(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Turned as a whole by a random proper rotation, uniform over all rotations."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    rotation = q * np.sign(np.diag(r))
    rotation *= np.sign(np.linalg.det(rotation))
    return _with(crystal, lattice=crystal.lattice @ rotation.T)


def reflected(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Mirrored through a random plane; a different crystal for a model that sees chirality."""
    normal = rng.normal(size=3)
    normal /= np.linalg.norm(normal)
    return _with(crystal, lattice=crystal.lattice @ (np.eye(3) - 2 * np.outer(normal, normal)))


def translated(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """All atoms moved by one random vector of the cell; not wrapped afterwards."""
    return _with(crystal, frac_coords=crystal.frac_coords + rng.uniform(size=3))


def reordered(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Atoms listed in a random order."""
    order = rng.permutation(len(crystal))
    return _with(crystal, numbers=crystal.numbers[order], frac_coords=crystal.frac_coords[order])


def unwrapped(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Each atom moved to another of its periodic images, up to three cells away along each axis."""
    return _with(crystal, frac_coords=crystal.frac_coords + rng.integers(-3, 4, size=(len(crystal), 3)))


def other_handed(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The same atoms with lattice vectors a and b exchanged: left-handed where it was right-handed."""
    return rebased(crystal, np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]))


def sheared(crystal: Crystal, times: int) -> Crystal:
    """The same atoms in the cell a + `times` b, b, c."""
    return rebased(crystal, np.array([[1, times, 0], [0, 1, 0], [0, 0, 1]]))


def randomly_rebased(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The same atoms in a random cell of the same volume: a product of four shears by one lattice vector."""
    basis = np.eye(3, dtype=np.int64)
    for _ in range(4):
        row, other = rng.choice(3, size=2, replace=False)
        basis[row] += rng.choice([-1, 1]) * basis[other]
    return rebased(crystal, basis)


def niggli(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """The same atoms in the Niggli cell.

    Raises:
        StructureError: if spglib finds no Niggli cell.
    """
    with optional("train", "the Niggli cell"):
        import spglib

    with warnings.catch_warnings():
        # spglib announces that a later version will raise where it now returns None.
        warnings.simplefilter("ignore", DeprecationWarning)
        reduced = spglib.niggli_reduce(crystal.lattice)
    if reduced is None:
        raise StructureError(f"{crystal.name or 'structure'}: spglib finds no Niggli cell.")
    return rebased(crystal, np.rint(np.asarray(reduced) @ np.linalg.inv(crystal.lattice)).astype(np.int64))


def strained(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """Another crystal: 1 % longer along one random direction."""
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    return _with(crystal, lattice=crystal.lattice @ (np.eye(3) + 0.01 * np.outer(direction, direction)))


def rebased(crystal: Crystal, basis: NDArray[np.int64]) -> Crystal:
    """The same atoms with the lattice vectors `basis @ lattice`; nothing is wrapped.

    Args:
        crystal: what to rewrite.
        basis: integers with determinant 1 or -1, shape (3, 3).
    """
    if round(abs(np.linalg.det(basis))) != 1:
        raise ValueError(f"A change of basis needs determinant 1 or -1, not {np.linalg.det(basis):g}.")
    inverse = np.rint(np.linalg.inv(basis))
    return _with(crystal, lattice=basis @ crystal.lattice, frac_coords=crystal.frac_coords @ inverse)


def repeated(crystal: Crystal, times: tuple[int, int, int]) -> Crystal:
    """The supercell of `times` cells along each lattice vector, copy after copy."""
    copies = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), axis=-1).reshape(-1, 1, 3)
    return Crystal(
        np.tile(crystal.numbers, len(copies)),
        ((crystal.frac_coords + copies) / times).reshape(-1, 3),
        crystal.lattice * np.reshape(times, (3, 1)),
        crystal.name,
    )


def _with(crystal: Crystal, **changes: Any) -> Crystal:
    fields = {name: getattr(crystal, name) for name in ("numbers", "frac_coords", "lattice", "name")}
    return Crystal(**fields | changes)


@dataclass(frozen=True)
class Transformation:
    """A way to write a crystal differently.

    Attributes:
        name: what a report calls it.
        apply: the rewritten crystal, from a crystal and a source of random numbers.
        alone: predict each crystal in a call of its own instead of all together.
    """

    name: str
    apply: Callable[[Crystal, np.random.Generator], Crystal]
    alone: bool = False


REFLECTION = Transformation("reflection", reflected)

SE3 = (
    Transformation("rotation", rotated),
    Transformation("translation", translated),
    Transformation("atom order", reordered),
    Transformation("other periodic images", unwrapped),
    Transformation("sheared cell a+3b", lambda crystal, _: sheared(crystal, 3)),
    Transformation("sheared cell a+6b", lambda crystal, _: sheared(crystal, 6)),
    Transformation("random cell", randomly_rebased),
    Transformation("Niggli cell", niggli),
    Transformation("left-handed cell", other_handed),
    Transformation("supercell 2x1x1", lambda crystal, _: repeated(crystal, (2, 1, 1))),
    Transformation("supercell 2x2x2", lambda crystal, _: repeated(crystal, (2, 2, 2))),
    Transformation("batch mates", lambda crystal, _: crystal, alone=True),
)
"""What leaves a crystal and its handedness as they are."""

E3 = (SE3[0], REFLECTION, *SE3[1:])
"""`SE3` and the mirror image: for models that see distances only."""

ALL = E3

CONTROL = Transformation("control: 1 % strain", strained)
"""No invariance: a model that does not answer to it sees no geometry, and its other rows prove little."""


@dataclass(frozen=True)
class Row:
    """How far predictions follow one transformation; a list of rows is what `pandas.DataFrame` takes.

    Attributes:
        transformation: its name.
        change: largest difference of a prediction over crystals and targets, in units of the spread.
        median: median over the crystals of their largest difference, in units of the spread.
        crystal: name (or else position) of the crystal that changed most.
        crystals: how many were compared.
    """

    transformation: str
    change: float
    median: float
    crystal: str
    crystals: int


def invariance_report(
    predict: Predict, crystals: Sequence[Crystal], transformations: Iterable[Transformation] = ALL, seed: int = 0
) -> list[Row]:
    """How far the predictions of a model follow each transformation.

    Args:
        predict: any callable from a list of crystals to an array (n,) or (n, targets); called once for the
            crystals as they are, once per transformation, and once per crystal for "batch mates".
        crystals: at least two, whose predictions differ; their spread is the unit of the result.
        transformations: `E3`, `SE3`, or any of your own.
        seed: fixes every random choice; the same for a transformation whichever others are asked for.

    Raises:
        ValueError: if predictions have the wrong shape, are not finite, or one target's are all equal (there
            is then no spread to compare with).
    """
    before = _predictions(predict, list(crystals))
    spread = before.std(axis=0)
    if not np.isfinite(before).all() or not (spread > 1e-12 * np.abs(before).max(axis=0)).all():
        raise ValueError("The report needs two or more crystals with finite predictions that differ for each target.")
    rows = []
    for transformation in transformations:
        changed = [
            transformation.apply(crystal, np.random.default_rng([seed, crc32(transformation.name.encode()), index]))
            for index, crystal in enumerate(crystals)
        ]
        batches = [[crystal] for crystal in changed] if transformation.alone else [changed]
        after = np.concatenate([_predictions(predict, batch) for batch in batches])
        change = (np.abs(after - before) / spread).max(axis=1)
        change[np.isnan(change)] = np.inf
        worst = int(change.argmax())
        name = crystals[worst].name or str(worst)
        rows.append(Row(transformation.name, float(change[worst]), float(np.median(change)), name, len(change)))
    return rows


def assert_invariant(
    predict: Predict,
    crystals: Sequence[Crystal],
    tolerance: float,
    transformations: Iterable[Transformation] = E3,
    seed: int = 0,
) -> list[Row]:
    """The rows of `invariance_report`, once none of them exceeds `tolerance` (in units of the spread).

    Raises:
        AssertionError: with the table of those that do; a prediction that is not finite is one of them.
    """
    rows = invariance_report(predict, crystals, transformations, seed)
    broken = [row for row in rows if not row.change <= tolerance]
    if broken:
        raise AssertionError(f"Predictions change by more than {tolerance:g} of their spread:\n{table(broken)}")
    return rows


def table(rows: Sequence[Row]) -> str:
    """The rows as text, one line each."""
    lines = [f"{'transformation':<24}{'largest':>10}{'median':>10}{'crystals':>10}  largest for"]
    for row in rows:
        lines.append(f"{row.transformation:<24}{row.change:>10.1e}{row.median:>10.1e}{row.crystals:>10}  {row.crystal}")
    return "\n".join(lines)


def network_predictor(
    network: CrystalModel, tolerance: float, dtype: torch.dtype = torch.float64, images_per_batch: int = 20_000
) -> Predict:
    """A `predict` for a model of `crystalformers.models` that need not be saved yet; standardised numbers.

    Args:
        network: converted to `dtype` in place, and to evaluation mode.
        tolerance: neglected share of an atom's weight, which sets the radius of the images.
        dtype: float64 to see whether a model is invariant at all, float32 to see what a user gets.
        images_per_batch: expected images computed at once; few fit the caches of a processor, more suit a GPU.
    """
    network.to(dtype).eval()
    radius = network.radius(tolerance)

    def predict(crystals: list[Crystal]) -> Array:
        values: dict[int, Array] = {}
        costs = [expected_images(crystal, radius) for crystal in crystals]
        for indices in batches_by_cost(costs, images_per_batch):
            batch = CrystalBatch.from_crystals([crystals[index] for index in indices])
            batch = with_images(batch, radius, directions=network.needs_directions)
            with torch.no_grad():
                values |= dict(zip(indices, network(batch.to(dtype)).double().numpy(), strict=True))
        return np.array([values[index] for index in range(len(crystals))])

    return predict


def _predictions(predict: Predict, crystals: list[Crystal]) -> Array:
    """Predictions as (n, targets)."""
    values = np.asarray(predict(crystals), dtype=np.float64)
    if values.ndim not in (1, 2) or len(values) != len(crystals):
        raise ValueError(f"predict() gave shape {values.shape} for {len(crystals)} crystals, not (n,) or (n, targets).")
    return values.reshape(len(crystals), -1)
