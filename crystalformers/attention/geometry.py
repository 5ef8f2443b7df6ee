"""The geometry of a batch as attention needs it: the same for all heads and layers, so computed once.

Shapes: A atoms, E images, P pairs, M most images of one atom, K radial functions.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, TypeVarTuple

import torch
from torch import Tensor

from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, Images

Settings = TypeVarTuple("Settings")
Value = TypeVar("Value")


@dataclass(frozen=True)
class RadialBasis:
    """Gaussians of the distance, the basis of the value position encoding psi (Crystalformer, section 3.2).

    b_k(d) = exp(-(d - mu_k)^2 / 2 s^2),  mu_k = k * maximum / count,  k = 1..count,  s = width * maximum / count

    Attributes:
        count: number of functions K.
        maximum: centre of the last one, Angstrom.
        width: standard deviation in units of the spacing.
    """

    count: int
    maximum: float
    width: float = 1.0

    @property
    def spacing(self) -> float:
        """Distance between two centres, Angstrom."""
        return self.maximum / self.count

    def __call__(self, distance: Tensor) -> Tensor:
        """Values at distances (...) Angstrom, shape (..., K)."""
        centres = torch.arange(1, self.count + 1, device=distance.device, dtype=distance.dtype) * self.spacing
        return torch.exp(-0.5 * ((distance.unsqueeze(-1) - centres) / (self.width * self.spacing)) ** 2)


@dataclass(frozen=True)
class Geometry:
    """A batch with its images, and what follows from them, computed when a backend first asks for it.

    Attributes:
        batch: crystals with `images` built.
        basis: radial functions of the value encoding.
    """

    batch: CrystalBatch
    basis: RadialBasis
    _cache: dict[tuple[Hashable, ...], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def cached(self, function: Callable[[Geometry, *Settings], Value], *settings: *Settings) -> Value:
        """`function(self, *settings)`, computed when a layer first asks for it and cached for the next ones.

        The function sees nothing but this geometry and the settings, and both are the key: a value cannot be returned
        for settings it was not computed with.

        Args:
            function: defined once, in a module or a class. One made at each call, such as a lambda, is a new key each
                time, so that nothing would be found again.
            settings: hashable.
        """
        key = (function, *settings)
        if key not in self._cache:
            self._cache[key] = function(self, *settings)
        return self._cache[key]

    @property
    def images(self) -> Images:
        """The images of the batch."""
        if self.batch.images is None:
            raise ConfigError("the batch has no images", remedy="build them with `images.with_images(batch, radius)`")
        return self.batch.images

    @cached_property
    def slots(self) -> tuple[Tensor, Tensor]:
        """Images of each atom side by side in slots: index of the image and whether the slot holds one, both (A, M)."""
        counts = self.images.ptr.diff()
        column = torch.arange(int(counts.max()), device=counts.device)
        real = column < counts.unsqueeze(-1)
        return torch.where(real, self.images.ptr[:-1, None] + column, 0), real

    @cached_property
    def directions(self) -> tuple[Tensor, Tensor]:
        """Unit vectors to the images in their slots, (A, M, 3), and which slots hold another image, (A, M).

        Raises:
            ConfigError: if the images were built without directions.
        """
        images, (slot_AM, real_AM) = self.images, self.slots
        if images.vectors is None:
            raise ConfigError("these images were built without directions", remedy="build them with `directions=True`")
        around = (images.distance > 0) & (images.envelope > 0)
        unit_E3 = images.vectors / torch.where(around, images.distance, 1.0).unsqueeze(-1)
        around_AM = real_AM & around[slot_AM]
        return torch.where(around_AM.unsqueeze(-1), unit_E3[slot_AM], 0.0), around_AM

    @cached_property
    def basis_AMK(self) -> Tensor:
        """Radial functions of every slot, (A, M, K); those of slots that hold no image are to be ignored."""
        return self.basis(self.images.distance)[self.slots[0]]
