"""The encoders of CrystalTransformer: from vectors of elements to vectors of atoms, and to one of the crystal.

Shapes: A atoms of a batch, C crystals, N atoms (or elements) of the largest, D width of a vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalformers.attention import Backend
from crystalformers.crystal import MAX_ATOMIC_NUMBER
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, radius_for
from crystalformers.models.crystalformer import Blocks, mean_over_atoms, t_fixup_scale

if TYPE_CHECKING:
    from crystalformers.models.crystaltransformer import CrystalTransformerConfig

KEYS = MAX_ATOMIC_NUMBER + 1
"""Above every atomic number."""

NO_IMAGES = 1.0
"""Radius of the image list for encoders that look at none, Angstrom: atoms meet only themselves."""

PADDED_PAIRS = 1 << 22
"""Pairs of atoms, padding included, that the published encoder takes at once; bounds its memory (1 GB in training)."""


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
