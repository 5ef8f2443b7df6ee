"""How far a crystal is from the training crystals, in the space of the vectors that enter a model's prediction head.

The distance of a crystal is that to the nearest training crystal, Euclidean, in units of the median distance of
held-out crystals: crystals like the training data, which the model had not seen. Their percentiles turn a distance into
the share of them that is nearer. Of a large training set a part, drawn at random, stands for all, along the directions
in which it varies most; the more crystals, the better their distances tell where a model errs.

Shapes: C crystals, R reference crystals, V width of a vector, P coordinates, M members of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.spatial import cKDTree

from crystalformers.errors import CheckpointError

FLAG_PERCENTILE = 90.0
"""A crystal is flagged if it is farther away than this percentage of held-out crystals, unless another is asked for."""

MOST_VECTORS = 32768
"""Most reference crystals of all members of a model together."""

ENOUGH_AXES = 32
"""With so many axes, distances of large sets of crystals tell as well where a model errs as with all of them."""

ENOUGH_BYTES = 2**19
"""More axes are stored if the coordinates of all members, two bytes each, take no more memory than this."""

LARGEST = 32000
"""Largest coordinate of a reference crystal, in steps: coordinates are whole numbers of 16 bits."""

FloatArray = NDArray[np.float64]


def count_for(members: int, most: int = MOST_VECTORS) -> int:
    """R, how many reference crystals each member of a model may have, if all have `most` together."""
    return max(1, min(most, MOST_VECTORS) // members)


@dataclass(frozen=True, eq=False)
class Space:
    """Reference crystals of one member.

    Attributes:
        centre: mean of their vectors, (V,).
        axes: P orthogonal axes of coordinates, divided by a step, (V, P): the principal axes of the reference crystals
            where these are too many for V coordinates.
        points: their coordinates, in whole steps, (R, P).
        unit: median distance of held-out crystals to the nearest of them, in steps.
    """

    centre: NDArray[np.float32]
    axes: NDArray[np.float32]
    points: NDArray[np.int16]
    unit: float

    @classmethod
    def of(cls, training: FloatArray, held_out: FloatArray, members: int) -> Space:
        """From the vectors of its reference crystals, (R, V), and of crystals that it had not seen, (any, V)."""
        count, width = training.shape
        axes = max(ENOUGH_AXES, ENOUGH_BYTES // (2 * members * count))
        centre = training.mean(axis=0).astype(np.float32)
        unscaled = _axes(training - centre, min(width, axes))
        step = np.abs((training - centre) @ unscaled).max() / LARGEST or 1.0
        scaled = (unscaled / step).astype(np.float32)
        space = cls(centre, scaled, np.rint((training - centre) @ scaled).astype(np.int16), 1.0)
        return replace(space, unit=float(np.median(space.distances(held_out))) or 1.0)

    def distances(self, vectors: FloatArray) -> FloatArray:
        """Distance to the nearest reference crystal, in the unit, (C,), of vectors (C, V).

        Raises:
            CheckpointError: if the reference crystals have vectors of another width.
        """
        if vectors.shape[1] != len(self.centre):
            problem = f"the vectors of the training crystals have {len(self.centre)} numbers"
            raise CheckpointError(f"{problem}, those of the model {vectors.shape[1]}", remedy="copy the file again")
        # No BLAS, which would keep a thread on each core busy, whatever number of threads was asked for.
        coordinates = np.einsum("cv, vp -> cp", vectors - self.centre, self.axes.astype(float))
        nearest, _ = self._tree.query(coordinates)
        return np.asarray(nearest) / self.unit

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(self.points.astype(float))


@dataclass(frozen=True, eq=False)
class Reference:
    """Where training crystals lie, and how far from them held-out crystals are.

    Attributes:
        members: the reference crystals of each member; None of a member without any, but not of all.
        percentiles: 0 to 100 of the distances of held-out crystals, ascending, (101,).
    """

    members: tuple[Space | None, ...]
    percentiles: FloatArray

    @classmethod
    def of(cls, training: FloatArray, held_out: FloatArray, members: int = 1) -> Reference:
        """Of one member of a model.

        Args:
            training: vectors of training crystals in random order, (any, V); the first ones become references.
            held_out: vectors of crystals that the member had not seen, (C, V), at least one.
            members: how many the model has.
        """
        space = Space.of(training[: count_for(members)], held_out, members)
        return cls((space,), np.percentile(space.distances(held_out), np.arange(101)))

    @classmethod
    def of_members(
        cls, training: Sequence[FloatArray], held_out: Sequence[FloatArray], which: Sequence[int] | None = None
    ) -> Reference:
        """Of the members of a model that learned from the same crystals.

        Args:
            training: of each member, vectors of training crystals in random order, (any, V); the first ones become
                references.
            held_out: of each member, vectors of the same crystals, at least one, that no member had seen, (C, V).
            which: members that get reference crystals; default: all.
        """
        chosen = range(len(training)) if which is None else which
        spaces = tuple(
            Space.of(known[: count_for(len(chosen))], new, len(chosen)) if k in chosen else None
            for k, (known, new) in enumerate(zip(training, held_out, strict=True))
        )
        distances = cls(spaces, np.zeros(101)).distances(held_out)
        return cls(spaces, np.percentile(distances, np.arange(101)))

    @classmethod
    def joined(cls, members: Sequence[Reference], held_out: FloatArray) -> Reference:
        """Of an ensemble.

        Args:
            members: the reference of each member.
            held_out: distances of held-out crystals, each by the member that had not seen it, in its unit, (C,).
        """
        spaces = tuple(space for member in members for space in member.members)
        return cls(spaces, np.percentile(held_out, np.arange(101)))

    def distances(self, vectors: Sequence[FloatArray]) -> FloatArray:
        """Mean over the members of the distance to the nearest of their reference crystals, in their units, (C,).

        Args:
            vectors: of each member, (C, V).
        """
        each = [space.distances(own) for own, space in zip(vectors, self.members, strict=True) if space is not None]
        return np.asarray(np.mean(each, axis=0))

    def percentile(self, distances: FloatArray) -> FloatArray:
        """How many percent of the held-out crystals are nearer, (C,); 100 beyond the farthest of them."""
        above = np.searchsorted(self.percentiles, distances, side="left")
        inside = (above > 0) & (above <= 100)
        high = np.clip(above, 1, 100)
        low_end, high_end = self.percentiles[high - 1], self.percentiles[high]
        # Of equal percentiles the lowest counts, so that the interval is not empty.
        share = (distances - low_end) / np.where(high_end > low_end, high_end - low_end, 1)
        return np.where(inside, high - 1 + share, np.clip(above, 0, 100).astype(float))

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Arrays with names, for a weight file."""
        arrays: dict[str, NDArray[np.generic]] = {"reference.percentiles": self.percentiles}
        for k, space in enumerate(self.members):
            if space is None:
                continue
            arrays |= {
                f"reference.{k}.centre": space.centre,
                f"reference.{k}.axes": space.axes,
                f"reference.{k}.points": space.points,
                f"reference.{k}.unit": np.array([space.unit]),
            }
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], members: int) -> Reference | None:
        """Inverse of `to_arrays`; None if there is no reference among the arrays.

        Raises:
            CheckpointError: if they do not fit together, or not the number of members.
        """
        if not any(name.startswith("reference.") for name in arrays):
            return None
        try:
            spaces = tuple(_space(arrays, f"reference.{k}") for k in range(members))
            if not any(spaces):
                raise KeyError("reference.0.points")
            percentiles = arrays["reference.percentiles"].astype(float)
        except KeyError as error:
            raise CheckpointError(f"the array {error} is missing") from error
        if (
            percentiles.shape != (101,)
            or (np.diff(percentiles) < 0).any()
            or any(one.unit <= 0 for one in spaces if one)
        ):
            raise CheckpointError("the distances to the training crystals do not fit together")
        return cls(spaces, percentiles)


def _space(arrays: Mapping[str, NDArray[np.generic]], name: str) -> Space | None:
    if not any(one.startswith(f"{name}.") for one in arrays):
        return None
    centre, axes, points, unit = (arrays[f"{name}.{part}"] for part in ("centre", "axes", "points", "unit"))
    sizes = centre.shape + points.shape[1:]
    if axes.ndim != 2 or axes.shape != sizes or points.ndim != 2 or not points.size or unit.shape != (1,):
        raise CheckpointError(f"the arrays {name} about the training crystals do not fit together")
    return Space(centre.astype(np.float32), axes.astype(np.float32), points.astype(np.int16), float(unit[0]))


def _axes(differences: FloatArray, count: int) -> FloatArray:
    """Orthonormal axes, (V, count): all V, or the principal ones of differences (R, V) from their mean."""
    width = differences.shape[1]
    if count == width:
        return np.eye(width)
    _, axes = eigh(differences.T @ differences, subset_by_index=[width - count, width - 1])
    return np.asarray(axes)
