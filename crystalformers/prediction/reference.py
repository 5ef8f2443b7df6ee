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
    return max(1, min(MOST_VECTORS, MOST_BYTES // (2 * sum(widths))))


@dataclass(frozen=True, eq=False)
class Reference:
    """Where training crystals lie, and how far from them held-out crystals are.

    Attributes:
        vectors: of each member, (R, V), float16.
        units: median distance of held-out crystals to them, of each member, (M,).
        percentiles: 0 to 100 of the distances of held-out crystals in these units, ascending, (101,).
    """

    vectors: tuple[NDArray[np.float16], ...]
    units: FloatArray
    percentiles: FloatArray

    @classmethod
    def of(cls, training: FloatArray, held_out: FloatArray) -> Reference:
        """Of a model with one member.

        Args:
            training: vectors of training crystals in random order, (any, V); the first ones become references.
            held_out: vectors of crystals that the model had not seen, (C, V), at least one.
        """
        largest = float(np.finfo(np.float16).max)
        vectors = np.clip(training[: count_for([training.shape[1]])], -largest, largest).astype(np.float16)
        nearest = _nearest(held_out, vectors)
        unit = float(np.median(nearest)) or 1.0
        return cls((vectors,), np.array([unit]), np.percentile(nearest / unit, np.arange(101)))

    @classmethod
    def joined(cls, members: Sequence[Reference], held_out: FloatArray) -> Reference:
        """Of an ensemble.

        Args:
            members: the reference of each member.
            held_out: distances of held-out crystals, each by the member that had not seen it, in its unit, (C,).
        """
        vectors = tuple(vectors for member in members for vectors in member.vectors)
        units = np.concatenate([member.units for member in members])
        return cls(vectors, units, np.percentile(held_out, np.arange(101)))

    def distances(self, vectors: Sequence[FloatArray]) -> FloatArray:
        """Mean over the members of the distance to the nearest reference crystal, in their units, (C,).

        Args:
            vectors: of each member, (C, V).
        """
        each = [
            _nearest(own, reference) / unit
            for own, reference, unit in zip(vectors, self.vectors, self.units, strict=True)
        ]
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
        each: dict[str, NDArray[np.generic]] = {f"reference.{k}": vectors for k, vectors in enumerate(self.vectors)}
        return each | {"reference.units": self.units, "reference.percentiles": self.percentiles}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], members: int) -> Reference | None:
        """Inverse of `to_arrays`; None if there is no reference among the arrays.

        Raises:
            CheckpointError: if they do not fit together, or not the number of members.
        """
        if not any(name.startswith("reference.") for name in arrays):
            return None
        names = [f"reference.{k}" for k in range(members)]
        try:
            vectors = tuple(arrays[name].astype(np.float16) for name in names)
            units, percentiles = (arrays[f"reference.{name}"].astype(float) for name in ("units", "percentiles"))
        except KeyError as error:
            raise CheckpointError(f"the array {error} is missing") from error
        fit = all(one.ndim == 2 and one.size for one in vectors) and units.shape == (members,) and (units > 0).all()
        if not fit or percentiles.shape != (101,) or (np.diff(percentiles) < 0).any():
            raise CheckpointError("the description of the training crystals does not fit together")
        return cls(vectors, units, percentiles)


def _nearest(vectors: FloatArray, references: NDArray[np.float16]) -> FloatArray:
    """Distance of each vector, (C, V), to the nearest reference, (R, V)."""
    # Differences, not scalar products: those lose all digits of vectors that are close together.
    pairs = torch.cdist(
        torch.from_numpy(vectors),
        torch.from_numpy(references.astype(np.float64)),
        compute_mode="donot_use_mm_for_euclid_dist",
    )
    return pairs.amin(dim=1).numpy()
