"""CrystalTransformer (Jin et al., Nature Communications 2025): a network whose first layer is a table of elements.

    E[Z] = W one_hot(Z) + b;  x_i = encoder(E[Z_1], ..., E[Z_n])_i;  y_t = head_t(readout(x))

Training the network on properties of crystals trains the table, which can then be used by other models. Three encoders
share the table and the heads, and differ in what they see of the crystal:

* `invariant` (default): the periodic attention of `crystalformer.Blocks`, then the mean over the atoms. It sees all
  distances and nothing else, so that predictions do not depend on how the cell is chosen.
* `published`: the element vector and the embedded Cartesian coordinates of each atom, concatenated, through a post-norm
  encoder, then the first atom. It sees no lattice, and depends on the rotation, origin and order of the atoms.
* `composition`: attention among the elements of the formula, weighted by their fractions, without any geometry: a
  control that shows what coordinates add to a table.

Shapes: A atoms of a batch, C crystals, N atoms (or elements) of the largest, T targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalformers.attention import Backend
from crystalformers.images import CrystalBatch, radius_for
from crystalformers.models.base import AttentionInputs, CrystalModel, mean_over_atoms
from crystalformers.models.crystalformer import (
    Blocks,
    CrystalformerConfig,
    TransformerConfig,
    t_fixup_scale,
    t_fixup_std,
)
from crystalformers.models.element_vectors import ROWS
from crystalformers.periodic import MAX_ATOMIC_NUMBER

Variant = Literal["invariant", "published", "composition"]

Head = Literal["separate", "joint", "published", "linear"]
"""`separate`: an MLP for each target; `joint`: one for all; `published`: for one target two linear layers without
activation between, otherwise `separate`; `linear`: one layer, as in the released checkpoints of one target."""

NO_IMAGES = 1.0
"""Radius of the image list for encoders that use no images, Angstrom: no other atom is so near."""

PADDED_PAIRS = 1 << 22
"""Pairs of atoms, padding included, that the published encoder takes at once; bounds its memory (1 GB in training)."""


@dataclass(frozen=True, kw_only=True)
class CrystalTransformerConfig(TransformerConfig):
    """Everything that fixes the architecture, besides the settings of `TransformerConfig`.

    The default is as large as Crystalformer, which suits a laptop: a fifth of the published parameters, with element
    vectors as wide as the published ones. The preset `crystaltransformer-published` has the published sizes.

    Attributes:
        variant: what the encoder sees of the crystal.
        dim: width of the atom vectors. The element vectors are as wide, or half as wide in the published variant,
            where the embedded coordinates fill the other half.
        dropout: dropout rate in training; 0.1 published.
        head: how targets are read from the crystal's vector.
        element_scale: standard deviation of the initial element vectors, relative to that of T-Fixup (not in the
            published variant). At 1, more than half of the variance of a table trained for ten epochs was left over
            from the random initial vectors; at 0.03, next to nothing.
        radial_functions, radial_maximum, radial_width, sigma, sigma_slope, sigma_floor: for the invariant variant.
        n_targets: T, numbers predicted per crystal.
    """

    variant: Variant = "invariant"
    head: Head = "separate"
    element_scale: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_one_of(get_args(Variant), "variant")
        self.check_one_of(get_args(Head), "head")
        self.require(0 < self.element_scale <= 1, "element_scale", "must lie in (0, 1]")
        if self.variant == "published":
            problem = "must be 1: element_scale is not for the published variant"
            self.require(self.element_scale == 1, "element_scale", problem)
            self.require(self.dim % 2 == 0, "dim", "must be even: half of it holds the coordinates")
        single = self.head != "linear" or self.n_targets == 1
        self.require(single, "head", "is that of one target; use 'separate' for several")

    @property
    def invariant(self) -> bool:
        """Whether predictions are independent of the pose, the origin, the cell and the order of the atoms."""
        return self.variant != "published"

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
    """From vectors of elements to vectors of atoms, and from those to one vector of the crystal.

    The methods are those of `CrystalModel`, with the element vectors x of the atoms in front.
    """

    @property
    def is_calibrated(self) -> bool:
        """Whether there is nothing left for `calibrate` to set."""
        return True

    def radius(self, tolerance: float) -> float:
        """Radius of the images, Angstrom."""
        return NO_IMAGES

    def readout(self, x: Tensor, batch: CrystalBatch) -> Tensor:
        """One vector for each crystal, (A, dim) to (C, dim)."""
        return mean_over_atoms(x, batch)

    def calibrate(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> None:
        """Set from one batch what no gradient teaches; nothing by default."""

    def attention_inputs(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> AttentionInputs:
        """The layers of periodic attention and what enters them; none by default."""
        return iter(())


class PeriodicEncoder(Encoder):
    """Periodic attention over all images (`crystalformer.Blocks`)."""

    calibrated: Tensor

    def __init__(self, config: CrystalTransformerConfig) -> None:
        super().__init__()
        self.blocks = Blocks.of(config.blocks_config)
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool))

    @property
    def is_calibrated(self) -> bool:
        """Whether the width statistics are set."""
        return bool(self.calibrated)

    def radius(self, tolerance: float) -> float:
        """Radius of the images, Angstrom."""
        return radius_for(tolerance, self.blocks.config.sigma_bound)

    def forward(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> Tensor:
        """(A, dim) to (A, dim)."""
        return self.blocks(x, batch, backend)

    def calibrate(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> None:
        """Set the width statistics of the blocks; raises ConfigError if they are set."""
        self.blocks.calibrate(x, batch, backend, self.calibrated)

    def attention_inputs(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> AttentionInputs:
        """Those of the blocks."""
        return self.blocks.attention_inputs(x, batch, backend)


class CartesianEncoder(Encoder):
    """The published encoder: [element | coordinates] of each atom, post-norm layers with ReLU, the first atom read."""

    def __init__(self, config: CrystalTransformerConfig) -> None:
        super().__init__()
        self.coords_embed = nn.Linear(3, config.dim // 2)
        sizes = (config.dim, config.heads, config.feedforward)
        layer = nn.TransformerEncoderLayer(*sizes, config.dropout, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, config.blocks, enable_nested_tensor=False)

    def forward(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> Tensor:
        """(A, dim / 2) to (A, dim)."""
        with torch.autocast(x.device.type, enabled=False):
            # Coordinates need full precision; under autocast only the layers after them are rounded.
            tokens = torch.cat([x, self.coords_embed(batch.positions.to(x.dtype))], dim=-1)
        parts = [(rows, self._encoded(tokens[rows], sizes)) for rows, sizes in _similar_sizes(batch)]
        rows = torch.cat([rows for rows, _ in parts])
        return torch.cat([encoded for _, encoded in parts])[rows.argsort()]

    def _encoded(self, x: Tensor, sizes: Tensor) -> Tensor:
        """Atoms of some crystals one after the other, (A, dim), through the padded layers."""
        present = _present(sizes)
        padded = x.new_zeros(*present.shape, x.shape[-1])
        padded[present] = x
        encoded: Tensor = self.layers(padded, src_key_padding_mask=~present)
        return encoded[present]

    def readout(self, x: Tensor, batch: CrystalBatch) -> Tensor:
        """The first atom of each crystal."""
        return x[batch.ptr[:-1]]


def _present(sizes: Tensor) -> Tensor:
    """Which entries of a padded batch are no padding, (C, N) bool."""
    return torch.arange(int(sizes.max()), device=sizes.device) < sizes.unsqueeze(1)


def _similar_sizes(batch: CrystalBatch) -> Iterator[tuple[Tensor, Tensor]]:
    """Atoms of crystals of similar size, and these sizes, in groups with at most `PADDED_PAIRS` pairs each."""
    sizes = batch.ptr.diff()
    order = sizes.argsort(descending=True, stable=True)
    while len(order):
        largest = int(sizes[order[0]])
        similar = int((2 * sizes[order] > largest).sum())  # so that at most half of a group is padding
        count = max(1, min(similar, PADDED_PAIRS // largest**2))
        group, order = order[:count], order[count:]
        atoms = [torch.arange(*batch.ptr[k : k + 2].tolist(), device=sizes.device) for k in group.tolist()]
        yield torch.cat(atoms), sizes[group]


class CompositionEncoder(Encoder):
    """Attention among the elements of a formula, each weighted by its fraction of the atoms."""

    def __init__(self, config: CrystalTransformerConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(SetBlock(config) for _ in range(config.blocks))

    def forward(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> Tensor:
        """(A, dim) to (A, dim); atoms of one element in one crystal get one vector."""
        # One token for each element of each crystal, crystal after crystal.
        key = batch.crystal_of_atom * (MAX_ATOMIC_NUMBER + 1) + batch.numbers
        tokens, token_of_atom, counts = key.unique(return_inverse=True, return_counts=True)
        crystal = tokens // (MAX_ATOMIC_NUMBER + 1)
        present = _present(crystal.bincount(minlength=len(batch)))
        fraction = counts.to(x.dtype) / batch.ptr.diff()[crystal]
        atoms = torch.arange(len(x), device=x.device)
        first = atoms.new_zeros(len(tokens)).scatter_reduce(0, token_of_atom, atoms, "amin", include_self=False)
        padded = x.new_zeros(*present.shape, x.shape[-1]).masked_scatter(present.unsqueeze(-1), x[first])
        log_fraction = x.new_full(present.shape, -math.inf).masked_scatter(present, fraction.log())
        for block in self.blocks:
            padded = block(padded, log_fraction)
        return padded[present][token_of_atom]


class SetBlock(nn.Module):
    """A block of Crystalformer whose attention is weighted by fractions instead of distances."""

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

    def forward(self, x: Tensor, log_fraction: Tensor) -> Tensor:
        """(C, N, dim) to (C, N, dim), with log fractions (C, N) that are -inf for padding."""
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=log_fraction[:, None, None].to(q.dtype))
        x = x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.contract(F.relu(self.expand(x))))


ENCODERS: dict[Variant, Callable[[CrystalTransformerConfig], Encoder]] = {
    "invariant": PeriodicEncoder,
    "published": CartesianEncoder,
    "composition": CompositionEncoder,
}
"""The encoder of each variant."""


class CrystalTransformer(CrystalModel):
    """Predicts `n_targets` standardised numbers per crystal from a table of elements of its own."""

    Config = CrystalTransformerConfig
    config: CrystalTransformerConfig

    def __init__(self, config: CrystalTransformerConfig | None = None) -> None:
        super().__init__(config or CrystalTransformerConfig())
        config = self.config
        self.atom_embed = nn.Linear(ROWS, config.element_width)
        self.encoder = ENCODERS[config.variant](config)
        self.heads = _heads(config)
        if config.variant != "published":
            std = config.element_scale * t_fixup_std(config.dim, config.blocks)
            nn.init.normal_(self.atom_embed.weight, std=std)
            nn.init.zeros_(self.atom_embed.bias)

    @torch.no_grad()
    def element_vectors(self) -> Tensor:
        """The table E[Z] = W[:, Z - 1] + b, (100, width); row 0 is hydrogen."""
        return self.atom_embed.weight.T + self.atom_embed.bias

    def radius(self, tolerance: float) -> float:
        """Radius of the images, Angstrom, for a neglected share of the weight of at most `tolerance`."""
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

    def attention_inputs(self, batch: CrystalBatch) -> AttentionInputs:
        """The layers of periodic attention of the invariant variant and what enters them; none of the others."""
        return self.encoder.attention_inputs(self.embed(batch), batch, self.backend)

    @property
    def is_calibrated(self) -> bool:
        """Whether the width statistics are set, where the variant has them."""
        return self.encoder.is_calibrated

    @torch.no_grad()
    def calibrate(self, batch: CrystalBatch) -> None:
        """Set the width statistics of the encoder, for element vectors at the scale they have after training."""
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
