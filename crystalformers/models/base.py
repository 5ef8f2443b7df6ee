"""The interface of a model: everything that training, prediction, explanations, forces and files ask of one.

A new model is one file with a `ModelConfig` and a `CrystalModel`, and one line in `crystalformers.models.MODELS`;
`crystalformers.testing.check_model` tests that it behaves as described here.

Shapes: A atoms of a batch, C crystals, D width of an atom vector, T targets. Lengths in Angstrom.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crystalformers.attention import Backend, Geometry
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch
from crystalformers.models.element_vectors import ElementVectors

AttentionInputs = Iterator[tuple[nn.Module, Tensor, Geometry]]
"""Layers of periodic attention (`crystalformer.InfiniteAttention`) in order, each with the atom vectors, (A, D), that
enter it, and the geometry."""


LARGEST_SETTING = 100_000
"""Largest number that a setting may be: wider layers and longer lengths (Angstrom) are mistakes."""

MOST_LAYERS = 1000
"""Most blocks or layers of a kind."""


NUMBERS: dict[str, Any] = {"int": int, "float": int | float}
"""What a setting of these types, as they are written in a class of settings, may be."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that fixes an architecture: a frozen dataclass of plain values with defaults.

    Weight files and recipes store it as JSON and YAML. A model that takes a table of element vectors has the setting
    `element_dim`, the width of that table, which is 0 for vectors of the model's own.

    Attributes:
        dim: D, width of the atom vectors.
        n_targets: T, numbers predicted per crystal.

    Raises:
        ConfigError: naming the setting, if a value is out of range or of another type than its default.
    """

    dim: int
    n_targets: int = 1

    def __post_init__(self) -> None:
        for setting in fields(self):
            value, kinds = getattr(self, setting.name), NUMBERS.get(str(setting.type), object)
            if not isinstance(value, kinds) or (kinds is not object and isinstance(value, bool)):
                wanted = "a whole number" if kinds is int else "a number"
                raise ConfigError(f"Model setting {setting.name} = {value!r} must be {wanted}.")
            if isinstance(value, int | float) and not abs(value) <= LARGEST_SETTING:
                requirement = f"must be finite and at most {LARGEST_SETTING:g} in size"
                raise ConfigError(f"Model setting {setting.name} = {value!r:.40} {requirement}.")
        self.check_at_least(1, "dim", "n_targets")

    @property
    def invariant(self) -> bool:
        """Whether predictions are independent of the pose, the origin, the cell and the order of the atoms."""
        return True

    def require(self, holds: bool, name: str, requirement: str) -> None:
        """Refuse a setting that does not meet a requirement, such as "must be even"; raises ConfigError."""
        if not holds:
            raise ConfigError(f"Model setting {name} = {getattr(self, name)!r} {requirement}.")

    def check_one_of(self, allowed: Sequence[str], *names: str) -> None:
        """Refuse settings that are not among the allowed ones; raises ConfigError."""
        for name in names:
            self.require(getattr(self, name) in allowed, name, f"is not one of {', '.join(allowed)}")

    def check_at_least(self, smallest: int, *names: str) -> None:
        """Refuse settings below `smallest`; raises ConfigError."""
        for name in names:
            self.require(getattr(self, name) >= smallest, name, f"must be at least {smallest}")

    def check_at_most(self, largest: float, *names: str) -> None:
        """Refuse settings above `largest`; raises ConfigError."""
        for name in names:
            self.require(getattr(self, name) <= largest, name, f"must be at most {largest:g}")

    def check_positive(self, *names: str) -> None:
        """Refuse settings that are not positive; raises ConfigError."""
        for name in names:
            self.require(getattr(self, name) > 0, name, "must be positive")


class CrystalModel(nn.Module, ABC):
    """Predicts T standardised numbers per crystal from its atoms and their periodic images.

    A subclass sets `Config` and defines `radius`, `encode` and `forward`; the other members have defaults.
    In evaluation mode a prediction must not depend on the other crystals of the batch.

    Args:
        config: the settings.

    Attributes:
        Config: the class of the settings.
        config: the settings.
        elements: the vectors of the elements, if the model keeps them in an `ElementVectors`; None otherwise.
        backend: which implementation of periodic attention runs, for models that have it; not part of the weights.
    """

    Config: ClassVar[type[ModelConfig]]
    config: ModelConfig
    elements: ElementVectors | None
    backend: Backend

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.elements = None
        self.backend = "auto"

    @classmethod
    def of(cls, config: ModelConfig, build: Callable[[str, Mapping[str, Any]], CrystalModel]) -> CrystalModel:
        """A model with fresh weights.

        Args:
            config: its settings.
            build: `crystalformers.models.build_model`, for a model that is made of others.
        """
        return cls(config)

    @property
    def members(self) -> list[CrystalModel]:
        """The models whose mean the predictions are: of an ensemble several, else the model itself."""
        return [self]

    @property
    def n_targets(self) -> int:
        """T, numbers predicted per crystal."""
        return self.config.n_targets

    @property
    def dim(self) -> int:
        """D, width of the atom vectors that `encode` returns."""
        return self.config.dim

    @property
    def stages(self) -> list[nn.Module]:
        """The network in parts from its input to its prediction head, which is the last one.

        Fine-tuning freezes and slows it by these parts. By default they are the submodules in the order in which
        `__init__` sets them, lists of layers opened up. The head must come last: a module that ends in a linear layer
        with `n_targets` outputs, or a list of such modules, one per target. Parameters outside of all parts count with
        the first.
        """
        *parts, head = self.children()
        layers = [layer for part in parts for layer in (part if isinstance(part, nn.ModuleList) else [part])]
        return [*(layer for layer in layers if any(True for _ in layer.parameters())), head]

    @abstractmethod
    def radius(self, tolerance: float) -> float:
        """How far the images must reach that `forward` and `encode` are given, Angstrom.

        Args:
            tolerance: share of an atom's own weight that may be neglected beyond the radius, between 0 and 1. The
                radius grows as the tolerance shrinks, or is constant for a model with a fixed cutoff.
        """

    @property
    def needs_directions(self) -> bool:
        """Whether the images must be built with directions; distances are enough for most models."""
        return False

    @abstractmethod
    def encode(self, batch: CrystalBatch) -> Tensor:
        """Vectors of the atoms before the prediction head, (A, D).

        Args:
            batch: crystals with images within `radius`, in the floating-point type of the weights; not modified.
        """

    @abstractmethod
    def forward(self, batch: CrystalBatch) -> Tensor:
        """Standardised predictions, (C, T); the batch is that of `encode`."""

    @property
    def is_calibrated(self) -> bool:
        """Whether `calibrate` has been called; True for a model that needs no calibration."""
        return True

    def calibrate(self, batch: CrystalBatch) -> None:
        """Set from one training batch what no gradient teaches, once, before the first optimiser step.

        By default there is nothing to set.

        Raises:
            ConfigError: if the model is already calibrated.
        """

    @torch.no_grad()
    def element_vectors(self) -> Tensor:
        """A copy of the vectors of the elements that the model starts from; row Z - 1 belongs to atomic number Z.

        Returns:
            (rows, width), with 98 rows or more. Elements that no training crystal contains have random vectors.

        Raises:
            ConfigError: if the model has no vectors of elements.
        """
        if self.elements is None:
            raise ConfigError(f"A {type(self).__name__} has no vectors of elements.")
        return self.elements.vectors.clone()

    def set_element_vectors(self, vectors: Tensor, known: Tensor, *, trainable: bool) -> None:
        """Replace the vectors of the elements by those of a table.

        Args:
            vectors: row Z - 1 for atomic number Z, (100, width).
            known: which rows the table has, (100,) bool; a batch with another element is refused from then on.
            trainable: whether training may change the vectors.

        Raises:
            ConfigError: if the model takes no table, a shape does not fit or a known vector is not finite.
        """
        if self.elements is None:
            problem = f"This {type(self).__name__} takes no table of element vectors"
            raise ConfigError(problem, remedy="build it with the setting element_dim, if it has one")
        self.elements.set(vectors, known, trainable=trainable)

    def attention_inputs(self, batch: CrystalBatch) -> AttentionInputs:
        """What enters each layer of periodic attention, which `crystalformers.explain` shows; nothing by default."""
        return iter(())

    @property
    def forces_unsupported_reason(self) -> str | None:
        """Why the predictions have no slope with respect to the positions of the atoms; None if they have one."""
        return None


def mean_over_atoms(x: Tensor, batch: CrystalBatch) -> Tensor:
    """Mean over the atoms of each crystal, (A, dim) to (C, dim); on every device in the same order."""
    return torch.segment_reduce(x, "mean", offsets=batch.ptr, axis=0, unsafe=True)  # a check would wait for the device
