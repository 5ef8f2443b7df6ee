"""CrystalTransformer (Jin et al., Nature Communications 2025): a network whose first layer is a table of elements.

    E[Z] = W one_hot(Z) + b;  x_i = encoder(E[Z_1], ..., E[Z_n])_i;  y_t = head_t(readout(x))

Training the network on properties of crystals trains the table, which then serves other models. Three encoders
share table and heads, and differ in what they see of the crystal:

* `invariant` (default): the periodic attention of `crystalformer.Blocks`, mean over the atoms. It sees every distance
  and nothing else, so that a prediction belongs to the crystal and not to the way its cell was written.
* `published`: element and Cartesian coordinates of each atom side by side, a post-norm encoder, and of its output the
  first atom listed. It knows no lattice, and its output follows rotation, origin and order of the atoms.
* `composition`: attention among the elements of the formula, weighted by their shares; no geometry at all. The control
  that tells what coordinates add to a table.

Shapes: A atoms of a batch, C crystals, N atoms (or elements) of the largest, H heads, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalformers.attention import Backend
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch
from crystalformers.models.crystalformer import CrystalformerConfig, t_fixup_std
from crystalformers.models.element_vectors import ROWS
from crystalformers.models.encoders import CartesianEncoder, CompositionEncoder, PeriodicEncoder

Variant = Literal["invariant", "published", "composition"]

Head = Literal["separate", "joint", "published", "linear"]
"""`separate`: an MLP for each target; `joint`: one for all; `published`: for one target two linear layers without
activation between, otherwise `separate`; `linear`: one layer, as in the released checkpoints of one target."""

ENCODERS: dict[str, type[PeriodicEncoder] | type[CartesianEncoder] | type[CompositionEncoder]] = {
    "invariant": PeriodicEncoder,
    "published": CartesianEncoder,
    "composition": CompositionEncoder,
}
"""The encoder of each variant."""


@dataclass(frozen=True)
class CrystalTransformerConfig:
    """Everything that fixes the architecture.

    The default is as large as Crystalformer, which suits a laptop: a fifth of the published parameters, eight heads
    that the fused kernel computes side by side, and vectors of elements as wide as the published ones. The published
    sizes are those of the preset `crystaltransformer-published`.

    Attributes:
        variant: what the encoder sees of the crystal.
        dim: width of the atom vectors. The vectors of the table are as wide, and half as wide in the published
            variant, where the coordinates fill the other half.
        heads: attention heads; each has width dim / heads.
        blocks: number of blocks (layers).
        feedforward: hidden width of the feed-forward layers.
        dropout: share dropped in training; 0.1 published.
        head: how targets are read from the crystal's vector.
        element_scale: standard deviation of the vectors of the table before training, relative to that of T-Fixup (not
            in the published variant). At 1 more than half of the variance of a table trained for ten epochs was this
            random beginning; at 0.03 next to nothing.
        radial_functions: of the value position encoding (invariant variant only, as all below); 0 leaves it out.
        radial_maximum: centre of the last radial function, Angstrom.
        radial_width: their standard deviation in units of their spacing.
        sigma: width of the Gaussian decay of attention for an average query, Angstrom.
        sigma_slope: how fast 1/sigma^2 follows the query.
        sigma_floor: sigma stays below sigma / sqrt(sigma_floor).
        n_targets: T, numbers predicted per crystal.
    """

    variant: Variant = "invariant"
    dim: int = 128
    heads: int = 8
    blocks: int = 4
    feedforward: int = 512
    dropout: float = 0.0
    head: Head = "separate"
    element_scale: float = 1.0
    radial_functions: int = 64
    radial_maximum: float = 14.0
    radial_width: float = 1.0
    sigma: float = 1.4
    sigma_slope: float = 0.1
    sigma_floor: float = 0.5
    n_targets: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (("variant", get_args(Variant)), ("head", get_args(Head))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"Model setting {name} = '{getattr(self, name)}' is not one of {', '.join(allowed)}.")
        if not 0 < self.element_scale <= 1:
            raise ConfigError(f"Model setting element_scale = {self.element_scale} must lie in (0, 1].")
        if self.variant == "published" and self.element_scale != 1:
            raise ConfigError("Model setting element_scale is not for the published variant; leave it out.")
        if self.variant == "published" and self.dim % 2:
            raise ConfigError(f"Model setting dim = {self.dim} must be even: half of it holds the coordinates.")
        if self.head == "linear" and self.n_targets > 1:
            raise ConfigError("Model setting head = 'linear' is that of one target; use 'separate' for several.")
        _ = self.blocks_config  # checks the settings that both models share

    @property
    def blocks_config(self) -> CrystalformerConfig:
        """The settings of the periodic blocks."""
        shared = CrystalformerConfig.__dataclass_fields__.keys() & self.__dataclass_fields__.keys()
        return CrystalformerConfig(**{name: getattr(self, name) for name in shared})

    @property
    def element_width(self) -> int:
        """Width of the vectors of the table."""
        return self.dim // 2 if self.variant == "published" else self.dim


class CrystalTransformer(nn.Module):
    """Predicts `n_targets` standardised numbers per crystal from a table of elements.

    Attributes:
        config: the architecture.
        backend: which implementation of periodic attention runs; not part of the weights.
    """

    needs_directions = False

    def __init__(self, config: CrystalTransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or CrystalTransformerConfig()
        self.backend: Backend = "auto"
        self.atom_embed = nn.Linear(ROWS, config.element_width)
        self.encoder = ENCODERS[config.variant](config)
        self.heads = _heads(config)
        if config.variant != "published":
            std = config.element_scale * t_fixup_std(config.dim, config.blocks)
            nn.init.normal_(self.atom_embed.weight, std=std)
            nn.init.zeros_(self.atom_embed.bias)

    @torch.no_grad()
    def element_vectors(self) -> Tensor:
        """The table E[Z] = W[:, Z - 1] + b, (100, width); row 0 is hydrogen.

        Rows of elements that no training crystal holds keep their random beginning; the card of a checkpoint
        counts the crystals of each element.
        """
        return (self.atom_embed.weight.T + self.atom_embed.bias).clone()

    def radius(self, tolerance: float) -> float:
        """Radius of the image list, Angstrom, for a neglected share of the weight of at most `tolerance`."""
        return self.encoder.radius(tolerance)

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Standardised predictions, (C, T), for a batch (with images, if the variant is `invariant`)."""
        z = self.encoder.readout(self.encode(batch), batch)
        return torch.cat([head(z) for head in self.heads], dim=-1)

    def encode(self, batch: CrystalBatch) -> Tensor:
        """Vectors of the atoms after the last block, (A, dim)."""
        return self.encoder(self.embed(batch), batch, self.backend)

    def embed(self, batch: CrystalBatch) -> Tensor:
        """Vectors of the elements, (A, width)."""
        return F.embedding(batch.numbers - 1, self.atom_embed.weight.T) + self.atom_embed.bias

    @torch.no_grad()
    def calibrate(self, batch: CrystalBatch) -> None:
        """Set what the encoder learns from one training batch before the first step.

        It is set for vectors as large as they become, whatever their scale at the beginning.

        Raises:
            ConfigError: if it is already set.
        """
        self.encoder.calibrate(self.embed(batch) / self.config.element_scale, batch, self.backend)


def _heads(config: CrystalTransformerConfig) -> nn.ModuleList:
    dim, targets = config.dim, config.n_targets

    def mlp(outputs: int) -> nn.Module:
        return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, outputs))

    match config.head:
        case "joint":
            return nn.ModuleList([mlp(targets)])
        case "linear":
            return nn.ModuleList([nn.Linear(dim, 1)])
        case "published" if targets == 1:
            return nn.ModuleList([nn.Sequential(nn.Linear(dim, dim // 2), nn.Linear(dim // 2, 1))])
    return nn.ModuleList(mlp(1) for _ in range(targets))
