"""Whether a crystal is like those that a model was trained on.

Errors measured on a test split hold for crystals like the training data. Five signs that one is not: an element that
no or hardly any training crystal holds, a volume per atom outside the range of the training crystals, atoms closer to
each other than in any of them, a vector far from all of theirs (`reference`), and members of an ensemble that agree
less than they do about nearly all held-out crystals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat
from typing_extensions import TypedDict

from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch, build_images
from crystalformers.periodic import SYMBOLS
from crystalformers.prediction.card import ElementCounts, read_card
from crystalformers.prediction.reference import FLAG_PERCENTILE

FloatArray = NDArray[np.float64]

HARDLY = 5
"""An element is hardly known if fewer training crystals hold it."""

FARTHEST = 4.0
"""Shortest distances are looked for up to this radius, Angstrom."""

CHUNK = 256
"""Crystals whose images are built at once."""

SPREAD_PERCENTILE = 97
"""The members of an ensemble agree too little about a crystal if they agree more about this percentage of held-out
crystals."""


@dataclass(frozen=True)
class Domain:
    """What the training crystals of a model were like.

    Attributes:
        element_counts: training crystals that hold each element, by symbol.
        volume_per_atom: smallest and largest, cubic Angstrom; None if it is not known.
        shortest_distance: between two atoms of any training crystal, Angstrom; None if it is not known.
        spread: by target, the standard deviation over the members of an ensemble that `SPREAD_PERCENTILE` of held-out
            crystals do not exceed, in standardised units; empty if it is not known.
    """

    element_counts: Mapping[str, int] = field(default_factory=dict)
    volume_per_atom: tuple[float, float] | None = None
    shortest_distance: float | None = None
    spread: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, crystals: Iterable[Crystal], element_counts: Mapping[str, int]) -> Domain:
        """From the training crystals."""
        volumes, distances, chunk = [], [FARTHEST], list[Crystal]()
        for crystal in crystals:
            volumes.append(crystal.volume / len(crystal))
            chunk.append(crystal)
            if len(chunk) == CHUNK:
                distances.append(shortest_distances(chunk, FARTHEST).min())
                chunk = []
        if chunk:
            distances.append(shortest_distances(chunk, FARTHEST).min())
        return cls(dict(element_counts), (min(volumes), max(volumes)), float(min(distances)))

    def flags(
        self,
        crystals: Sequence[Crystal],
        percentiles: FloatArray | None = None,
        flag_percentile: float = FLAG_PERCENTILE,
        spreads: Mapping[str, FloatArray] | None = None,
    ) -> list[str]:
        """For each crystal, why it is unlike the training crystals; empty if it is not.

        Args:
            crystals: C crystals.
            percentiles: how many percent of held-out crystals are nearer to the training crystals, (C,), if known.
            flag_percentile: above which of these percentages a crystal has a flag.
            spreads: by target, the standard deviation over the members of an ensemble, in standardised units, (C,).
        """
        reasons = [list(self._of_elements(crystal)) for crystal in crystals]
        for found, crystal in zip(reasons, crystals, strict=True):
            if volume := self.volume_outside(crystal.volume / len(crystal)):
                found.append(volume)
        if self.shortest_distance is not None and crystals:
            # A hair less, for distances that rounding has changed.
            radius = self.shortest_distance * (1 - 1e-4)
            for found, distance in zip(reasons, shortest_distances(crystals, radius), strict=True):
                if distance < radius:
                    found.append(
                        f"atoms {distance:.2f} Å apart, {self.shortest_distance:.2f} or more in the training crystals"
                    )
        for found, percentile in zip(
            reasons, [] if percentiles is None else percentiles, strict=percentiles is not None
        ):
            if percentile > flag_percentile:
                found.append(f"farther from the training crystals than {flag_percentile:g} % of held-out ones")
        for name, spread in (spreads or {}).items():
            for found, deviation in zip(reasons, spread, strict=True):
                if deviation > self.spread.get(name, np.inf):
                    found.append(f"members agree less about {name} than for {SPREAD_PERCENTILE} % of held-out crystals")
        return ["; ".join(found) for found in reasons]

    def _of_elements(self, crystal: Crystal) -> Iterable[str]:
        if not self.element_counts:
            return
        for z in np.unique(crystal.numbers).tolist():
            count = self.element_counts.get(SYMBOLS[z - 1], 0)
            if count == 0:
                yield f"no training crystal holds {SYMBOLS[z - 1]}"
            elif count < HARDLY:
                yield f"only {count} training crystal{'s hold' if count > 1 else ' holds'} {SYMBOLS[z - 1]}"

    def volume_outside(self, volume: float) -> str:
        """That a volume per atom (cubic Angstrom) is outside the range of the training crystals, or nothing."""
        if self.volume_per_atom is None:
            return ""
        low, high = self.volume_per_atom
        if low * (1 - 1e-4) <= volume <= high * (1 + 1e-4):
            return ""
        return f"{volume:.3g} Å³ per atom, {low:.3g} to {high:.3g} in the training crystals"

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for the card of a model; the counts of elements are there already."""
        stated = {name: value for name, value in asdict(self).items() if name not in {"element_counts", "spread"}}
        return {**stated, "spread": dict(self.spread)} if self.spread else stated

    @classmethod
    def from_card(cls, card: Mapping[str, Any]) -> Domain:
        """From the card of a model; an older one knows its elements only.

        Raises:
            CheckpointError: if the card holds something else than it must.
        """
        counts = read_card(card, "element_counts", ElementCounts | None)
        known = read_card(card, "domain", _Stated | None) or {}
        return cls(
            counts or {}, known.get("volume_per_atom"), known.get("shortest_distance"), known.get("spread") or {}
        )


class _Stated(TypedDict, total=False):
    volume_per_atom: tuple[FiniteFloat, FiniteFloat] | None
    shortest_distance: Annotated[float, Field(gt=0, le=FARTHEST)] | None
    spread: dict[str, Annotated[FiniteFloat, Field(ge=0)]]


def shortest_distances(crystals: Sequence[Crystal], radius: float) -> FloatArray:
    """Distance between the two closest atoms of each crystal, (C,), Angstrom; infinite beyond a radius.

    Args:
        crystals: one or more.
        radius: how far to look, Angstrom.
    """
    batch = CrystalBatch.from_crystals(crystals)
    images = build_images(batch, radius)
    first, last = images.ptr[:-1].numpy(), images.ptr[1:].numpy()
    # The nearest image of an atom is the atom itself, the next one is its nearest neighbour.
    nearest = np.full(batch.n_atoms, np.inf)
    has_neighbour = last - first > 1
    nearest[has_neighbour] = images.distance.double().numpy()[first[has_neighbour] + 1]
    return np.minimum.reduceat(nearest, batch.ptr[:-1].numpy())
