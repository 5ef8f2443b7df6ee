"""Networks over many crystals: batches that fit into memory, whose images are computed once for all networks.

Shapes: C crystals, T targets, M members of a model, V width of the vector that enters a prediction head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crystalformers.crystal import Crystal
from crystalformers.errors import BatchMemoryError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import CrystalModel
from crystalformers.prediction.batching import Budget, expected_images

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Outputs:
    """What the members of a model compute for crystals.

    Attributes:
        standardised: predictions of each member, (C, T, M); NaN for a crystal that does not fit into memory.
        vectors: of each member the vectors that enter its prediction head, (C, V); empty unless asked for.
    """

    standardised: NDArray[np.float64]
    vectors: tuple[NDArray[np.float64], ...]

    @classmethod
    def empty(cls, count: int, n_targets: int, n_members: int) -> Outputs:
        """Nothing known yet of some crystals."""
        return cls(np.full((count, n_targets, n_members), np.nan), ())

    def filled(self, rows: list[int], found: Outputs) -> Outputs:
        """The same with the outputs of some rows, and with vectors if these have any."""
        self.standardised[rows] = found.standardised
        count = len(self.standardised)
        vectors = self.vectors or tuple(np.full((count, part.shape[1]), np.nan) for part in found.vectors)
        for whole, part in zip(vectors, found.vectors, strict=True):
            whole[rows] = part
        return Outputs(self.standardised, vectors)


def outputs_of_batch(members: Sequence[CrystalModel], batch: CrystalBatch, *, vectors: bool) -> Outputs:
    """What the members of a model compute for a batch with images, in one forward pass of each.

    Args:
        members: networks with T outputs.
        batch: C crystals.
        vectors: whether to keep the vectors that enter the prediction heads.
    """
    entered: list[Tensor] = []
    # The heads of several targets are a list, which is no layer itself; all of them are given the same vector.
    heads = [next(iter(head)) if isinstance(head := m.stages[-1], nn.ModuleList) else head for m in members]
    hooks = [head.register_forward_pre_hook(lambda _, given: entered.append(given[0])) for head in heads if vectors]
    try:
        standardised = torch.stack([member(batch) for member in members], dim=-1)
    finally:
        for hook in hooks:
            hook.remove()
    return Outputs(_numpy(standardised), tuple(_numpy(vector) for vector in entered))


def _numpy(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()


@dataclass(frozen=True)
class ImageSettings:
    """How images are computed; networks with the same settings share them.

    Attributes:
        radius: distance up to which images are taken into account, Angstrom.
        directions: whether they need directions besides distances.
        device: where to compute.
        dtype: floating-point type of the networks.
        budget: images in a batch.
    """

    radius: float
    directions: bool
    device: torch.device
    dtype: torch.dtype
    budget: Budget = field(compare=False)

    def results(
        self,
        function: Callable[[CrystalBatch], T],
        crystals: Sequence[Crystal],
        failed: dict[int, BatchMemoryError] | None = None,
    ) -> Iterator[tuple[list[int], T | None]]:
        """Indices of the crystals of each batch and the function's result; None for one that does not fit.

        Args:
            function: of a batch with images.
            crystals: what to compute.
            failed: if given, it receives the index and error of each crystal that does not fit into memory.

        Raises:
            BatchMemoryError: if a crystal does not fit into memory and `failed` is not given.
        """

        @torch.inference_mode()
        def run(rows: list[int]) -> T:
            batch = CrystalBatch.from_crystals([crystals[row] for row in rows]).to(self.device)
            # Images come from float64 coordinates: in float32 an atom far from the origin would be misplaced.
            batch = with_images(batch, self.radius, directions=self.directions).to(self.dtype)
            return function(batch)

        costs = [expected_images(crystal, self.radius) for crystal in crystals]
        for rows, result in self.budget.results(costs, run):
            if result is None:
                crystal, images = crystals[rows[0]], costs[rows[0]]
                size = f"{len(crystal)} atoms, about {images:.2g} periodic images"
                problem = f"out of memory with this structure alone ({size})"
                remedy = "use a machine with more memory or a larger tolerance"
                if failed is None:
                    raise BatchMemoryError(problem, where=crystal.name or "structure", remedy=remedy)
                failed[rows[0]] = BatchMemoryError(problem, remedy=remedy)
            yield rows, result
