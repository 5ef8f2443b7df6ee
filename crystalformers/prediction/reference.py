"""How far a crystal is from the training crystals, in the space of the vectors that enter a model's prediction head.

Some training crystals, drawn at random, stand for all. The distance of a crystal is that to the nearest of them,
Euclidean, in units of the median distance of held-out crystals: crystals like the training data, which the model had
not seen. Their percentiles turn a distance into the share of them that is nearer.

Shapes: C crystals, R reference crystals, V width of a vector, M members of a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from crystalformers.errors import CheckpointError

FLAG_PERCENTILE = 99.0
"""A crystal is flagged if it is farther away than this percentage of held-out crystals, unless another is asked for."""

MOST_VECTORS = 1000
"""Most reference crystals of a member."""

MOST_BYTES = 250_000
"""Most memory of the vectors of all members of a model."""

FloatArray = NDArray[np.float64]


def count_for(widths: Sequence[int]) -> int:
    """R, how many reference crystals each member may have, by the widths V of their vectors."""
    return max(1, min(MOST_VECTORS, MOST_BYTES // (4 * sum(widths))))


@dataclass(frozen=True, eq=False)
class Space:
    """Reference crystals of one member.

    Attributes:
        vectors: of the reference crystals, (R, V).
        unit: median distance of held-out crystals to the nearest of them.
    """

    vectors: NDArray[np.float32]
    unit: float

    def distances(self, vectors: FloatArray) -> FloatArray:
        """Distance to the nearest reference crystal, in the unit, (C,), of vectors (C, V).

        Raises:
            CheckpointError: if the reference crystals have vectors of another width.
        """
        if vectors.shape[1] != self.vectors.shape[1]:
            problem = f"the vectors of the training crystals have {self.vectors.shape[1]} numbers"
            raise CheckpointError(f"{problem}, those of the model {vectors.shape[1]}", remedy="copy the file again")
        return _nearest(vectors, self.vectors.astype(float)) / self.unit


@dataclass(frozen=True, eq=False)
class Reference:
    """Where training crystals lie, and how far from them held-out crystals are.

    Attributes:
        members: the reference crystals of each member.
        percentiles: 0 to 100 of the distances of held-out crystals, ascending, (101,).
    """

    members: tuple[Space, ...]
    percentiles: FloatArray

    @classmethod
    def of(cls, training: FloatArray, held_out: FloatArray, count: int | None = None) -> Reference:
        """Of a model with one member.

        Args:
            training: vectors of training crystals in random order, (any, V); the first ones become references.
            held_out: vectors of crystals that the model had not seen, (C, V), at least one.
            count: R; default: `count_for` one member.
        """
        chosen = training[: count_for([training.shape[1]]) if count is None else count]
        space = Space(chosen.astype(np.float32), float(np.median(_nearest(held_out, chosen))) or 1.0)
        return cls((space,), np.percentile(space.distances(held_out), np.arange(101)))

    @classmethod
    def joined(cls, members: Sequence[Reference], held_out: FloatArray) -> Reference:
        """Of an ensemble.

        Args:
            members: the reference of each member.
            held_out: distances of held-out crystals, each by the member that had not seen it, in its unit, (C,).
        """
        spaces = tuple(space for member in members for space in member.members)
        return cls(spaces, np.percentile(held_out, np.arange(101)))

    @property
    def widths(self) -> list[int]:
        """V of each member."""
        return [space.vectors.shape[1] for space in self.members]

    def distances(self, vectors: Sequence[FloatArray]) -> FloatArray:
        """Mean over the members of the distance to the nearest reference crystal, in their units, (C,).

        Args:
            vectors: of each member, (C, V).
        """
        each = [space.distances(own) for own, space in zip(vectors, self.members, strict=True)]
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
            arrays |= {f"reference.{k}.vectors": space.vectors, f"reference.{k}.unit": np.array([space.unit])}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], members: int) -> Reference | None:
        """Inverse of `to_arrays`; None if there is no reference among the arrays.

        Raises:
            CheckpointError: if they do not fit together, or not the number of members.
        """
        if not any(name.startswith("reference.") for name in arrays):
            return None
        spaces = []
        try:
            for k in range(members):
                vectors, unit = (arrays[f"reference.{k}.{name}"] for name in ("vectors", "unit"))
                if vectors.ndim != 2 or not vectors.size or unit.shape != (1,):
                    raise CheckpointError(
                        f"the description of the training crystals of member {k} does not fit together"
                    )
                spaces.append(Space(vectors.astype(np.float32), float(unit[0])))
            percentiles = arrays["reference.percentiles"].astype(float)
        except KeyError as error:
            raise CheckpointError(f"the array {error} is missing") from error
        if percentiles.shape != (101,) or (np.diff(percentiles) < 0).any() or any(one.unit <= 0 for one in spaces):
            raise CheckpointError("the distances to the training crystals do not fit together")
        return cls(tuple(spaces), percentiles)


def _nearest(vectors: FloatArray, references: FloatArray) -> FloatArray:
    """Distance of each vector, (C, V), to the nearest reference, (R, V)."""
    # Differences, not scalar products: those lose all digits of vectors that are close together.
    mode = "donot_use_mm_for_euclid_dist"
    pairs = torch.cdist(torch.from_numpy(vectors), torch.from_numpy(references), compute_mode=mode)
    return np.asarray(pairs.amin(dim=1).numpy())
