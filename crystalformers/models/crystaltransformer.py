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

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalformers.attention import Backend
from crystalformers.crystal import MAX_ATOMIC_NUMBER
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, radius_for
from crystalformers.models.crystalformer import (
    Blocks,
    CrystalformerConfig,
    mean_over_atoms,
    t_fixup_scale,
    t_fixup_std,
)
from crystalformers.models.element_vectors import ROWS

Variant = Literal["invariant", "published", "composition"]

Head = Literal["separate", "joint", "published", "linear"]
"""`separate`: an MLP for each target; `joint`: one for all; `published`: for one target two linear layers without
activation between, otherwise `separate`; `linear`: one layer, as in the released checkpoints of one target."""

KEYS = MAX_ATOMIC_NUMBER + 1
"""Above every atomic number."""

NO_IMAGES = 1.0
"""Radius of the image list for encoders that look at none, Angstrom: atoms meet only themselves."""

PADDED_PAIRS = 1 << 22
"""Pairs of atoms, padding included, that the published encoder takes at once; bounds its memory (1 GB in training)."""


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


class Encoder(nn.Module):
    """From vectors of elements to vectors of atoms, and from those to one vector of the crystal."""

    def radius(self, tolerance: float) -> float:
        """Radius of the images it needs, Angstrom."""
        return NO_IMAGES

    def readout(self, x: Tensor, batch: CrystalBatch) -> Tensor:
        """One vector for each crystal, (A, dim) to (C, dim)."""
        return mean_over_atoms(x, batch)

    def calibrate(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> None:
        """Learn from one batch what no gradient teaches; nothing, as a rule."""


class PeriodicEncoder(Encoder):
    """Periodic attention over all images (`crystalformer.Blocks`)."""

    calibrated: Tensor

    def __init__(self, config: CrystalTransformerConfig) -> None:
        super().__init__()
        self.blocks = Blocks.of(config.blocks_config)
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool))

    def radius(self, tolerance: float) -> float:
        """Radius of the images, Angstrom."""
        return radius_for(tolerance, self.blocks.config.sigma_bound)

    def forward(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> Tensor:
        """(A, dim) to (A, dim)."""
        return self.blocks(x, batch, backend)

    def calibrate(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> None:
        """Set the width statistics of the blocks; raises ConfigError if they are set."""
        if self.calibrated:
            raise ConfigError("The width statistics of this model are already set.")
        self.blocks.calibrate(x, batch, backend)
        self.calibrated.fill_(True)


class CartesianEncoder(Encoder):
    """The published encoder: [element | coordinates] of each atom, post-norm layers with ReLU, the first atom read."""

    def __init__(self, config: CrystalTransformerConfig) -> None:
        super().__init__()
        self.coords_embed = nn.Linear(3, config.dim // 2)
        layer = nn.TransformerEncoderLayer(
            config.dim, config.heads, config.feedforward, config.dropout, batch_first=True
        )
        self.layers = nn.TransformerEncoder(layer, config.blocks, enable_nested_tensor=False)

    def forward(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> Tensor:
        """(A, dim / 2) to (A, dim)."""
        with torch.autocast(x.device.type, enabled=False):
            # Coordinates want full precision; under autocast only the layers after them are rounded.
            tokens = torch.cat([x, self.coords_embed(batch.positions.to(x.dtype))], dim=-1)
        parts = [(rows, self._encoded(tokens[rows], sizes)) for rows, sizes in _alike(batch)]
        rows = torch.cat([rows for rows, _ in parts])
        return torch.cat([encoded for _, encoded in parts])[rows.argsort()]

    def _encoded(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Atoms of some crystals one after the other, (A, dim), through the padded layers."""
        place = _present(sizes)
        padded = x.new_zeros(*place.shape, x.shape[-1])
        padded[place] = x
        encoded: Tensor = self.layers(padded, src_key_padding_mask=~place)
        return encoded[place]

    def readout(self, x: Tensor, batch: CrystalBatch) -> Tensor:
        """The first atom of each crystal."""
        return x[batch.ptr[:-1]]


def _present(sizes: Tensor) -> Tensor:
    """Which places of a padded batch hold something, (C, N) bool."""
    return torch.arange(int(sizes.max()), device=sizes.device) < sizes.unsqueeze(1)


def _alike(batch: CrystalBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Atoms of crystals of like size, and those sizes, in groups whose padded pairs stay below `PADDED_PAIRS`."""
    sizes = batch.ptr.diff()
    order = sizes.argsort(descending=True, stable=True)
    while len(order):
        largest = int(sizes[order[0]])
        alike = int((2 * sizes[order] > largest).sum())  # so that at most half of a group is padding
        count = max(1, min(alike, PADDED_PAIRS // largest**2))
        group, order = order[:count], order[count:]
        atoms = [torch.arange(*batch.ptr[k : k + 2].tolist(), device=sizes.device) for k in group.tolist()]
        yield torch.cat(atoms), sizes[group]


class CompositionEncoder(Encoder):
    """Attention among the elements of a formula, each weighted by its share of the atoms."""

    def __init__(self, config: CrystalTransformerConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SetBlock(config) for _ in range(config.blocks))

    def forward(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> Tensor:
        """(A, dim) to (A, dim); atoms of one element in one crystal get one vector."""
        # One token for each element of each crystal, crystal after crystal.
        key = batch.crystal_of_atom * KEYS + batch.numbers
        kinds, token_of_atom, counts = key.unique(return_inverse=True, return_counts=True)
        crystal = kinds // KEYS
        place = _present(crystal.bincount(minlength=len(batch)))
        share = counts.to(x.dtype) / batch.ptr.diff()[crystal]
        atoms = torch.arange(len(x), device=x.device)
        first = atoms.new_zeros(len(kinds)).scatter_reduce(0, token_of_atom, atoms, "amin", include_self=False)
        padded = x.new_zeros(*place.shape, x.shape[-1]).masked_scatter(place.unsqueeze(-1), x[first])
        log_share = x.new_full(place.shape, -math.inf).masked_scatter(place, share.log())
        for block in self.blocks:
            padded = block(padded, log_share)
        return padded[place][token_of_atom]


class SetBlock(nn.Module):
    """A block of Crystalformer whose attention knows shares instead of distances."""

    def __init__(self, config: CrystalTransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        scale = t_fixup_scale(config.blocks)
        self.query, self.key, self.value, self.out = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.expand = nn.Linear(config.dim, config.feedforward)
        self.contract = nn.Linear(config.feedforward, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        for name, linear in self.named_children():
            if isinstance(linear, nn.Linear):
                nn.init.xavier_uniform_(linear.weight, 1.0 if name in ("query", "key") else scale)
                nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, log_share: Tensor) -> Tensor:
        """(C, N, dim) to (C, N, dim), with log shares (C, N) that are -inf for padding."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=log_share[:, None, None].to(q.dtype))
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.contract(F.relu(self.expand(x))))


ENCODERS: dict[str, type[PeriodicEncoder] | type[CartesianEncoder] | type[CompositionEncoder]] = {
    "invariant": PeriodicEncoder,
    "published": CartesianEncoder,
    "composition": CompositionEncoder,
}
"""The encoder of each variant."""


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
