"""An ensemble: models with the same targets and scale, whose mean is the prediction and whose spread tells of doubt.

Deep ensembles: Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017.

Shapes: A atoms of a batch, C crystals, D width of all atom vectors together, M members, T targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch
from crystalformers.models.base import AttentionInputs, CrystalModel, ModelConfig

MOST_MEMBERS = 100
"""Most models in an ensemble."""


@dataclass(frozen=True, kw_only=True)
class EnsembleConfig(ModelConfig):
    """Settings of an ensemble.

    Attributes:
        members: architecture and settings of each member, `{"architecture": ..., "settings": {...}}`.
        dim: D, the widths of the members together; follows from them.

    Raises:
        ConfigError: if there is no member, or more than `MOST_MEMBERS`.
    """

    members: Sequence[Mapping[str, Any]] = ({"architecture": "crystalformer", "settings": {}},) * 2
    dim: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < len(self.members) <= MOST_MEMBERS:
            raise ConfigError(f"An ensemble has 1 to {MOST_MEMBERS} members, not {len(self.members)}.")


class Ensemble(CrystalModel):
    """The mean of several models.

    Args:
        members: models in the same standardised units, target by target.

    Attributes:
        networks: the members.
    """

    Config = EnsembleConfig
    config: EnsembleConfig

    def __init__(self, members: Sequence[CrystalModel], architectures: Sequence[str]) -> None:
        described = [
            {"architecture": name, "settings": asdict(member.config)}
            for name, member in zip(architectures, members, strict=True)
        ]
        n_targets = {member.n_targets for member in members}
        if len(n_targets) > 1:
            raise ConfigError("The members of an ensemble must have the same targets.")
        if not all(member.config.invariant for member in members):
            raise ConfigError("The members of an ensemble must not depend on the choice of the cell.")
        dim = max(1, sum(member.dim for member in members))
        super().__init__(EnsembleConfig(members=described, dim=dim, n_targets=max(n_targets, default=1)))
        self.networks = nn.ModuleList(members)

    @classmethod
    def of(cls, config: ModelConfig, build: Callable[[str, Mapping[str, Any]], CrystalModel]) -> Ensemble:
        """Fresh members of the architectures in the settings."""
        assert isinstance(config, EnsembleConfig)
        common = {"n_targets": config.n_targets}
        members = [build(one["architecture"], {**one["settings"], **common}) for one in config.members]
        return cls(members, [one["architecture"] for one in config.members])

    @property
    def members(self) -> list[CrystalModel]:
        """The models whose mean is the prediction."""
        members = [network for network in self.networks if isinstance(network, CrystalModel)]
        for member in members:
            member.backend = self.backend
        return members

    def radius(self, tolerance: float) -> float:
        """The largest radius of a member, Angstrom."""
        return max(member.radius(tolerance) for member in self.members)

    @property
    def needs_directions(self) -> bool:
        """Whether a member needs directions."""
        return any(member.needs_directions for member in self.members)

    def encode(self, batch: CrystalBatch) -> Tensor:
        """The vectors of all members side by side, (A, D)."""
        return torch.cat([member.encode(batch) for member in self.members], dim=-1)

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Mean of the standardised predictions, (C, T)."""
        return torch.stack([member(batch) for member in self.members]).mean(0)

    @property
    def is_calibrated(self) -> bool:
        """Whether all members are calibrated."""
        return all(member.is_calibrated for member in self.members)

    def calibrate(self, batch: CrystalBatch) -> None:
        """Calibrate every member from one training batch.

        Raises:
            ConfigError: if they are calibrated already.
        """
        for member in self.members:
            member.calibrate(batch)

    def attention_inputs(self, batch: CrystalBatch) -> AttentionInputs:
        """What enters each layer of periodic attention, member by member."""
        return chain.from_iterable(member.attention_inputs(batch) for member in self.members)

    @property
    def forces_unsupported_reason(self) -> str | None:
        """Why a member's predictions have no slope; None if all have one."""
        return next((reason for member in self.members if (reason := member.forces_unsupported_reason)), None)
