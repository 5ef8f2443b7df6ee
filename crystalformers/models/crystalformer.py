"""Crystalformer (Taniai et al., ICLR 2024) and CrystalFramer (Ito et al., ICLR 2025), from atoms to predictions.

    x_i = E[a_i];  4 x (x <- x + attention(x);  x <- x + W_2 relu(W_1 x));  z = mean_i x_i;  y = W_4 relu(W_3 z)

Attention is the infinite lattice sum of `crystalformers.attention`. There is no normalisation and no dropout;
T-Fixup initialisation keeps the residual stack trainable (section 3.1 and appendix of the paper).

Shapes: A atoms of a batch, C crystals, H heads, D their width, K radial functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crystalformers.attention import (
    AngularBasis,
    AngularEncoding,
    Backend,
    Geometry,
    RadialBasis,
    infinite_attention,
    published,
    reciprocal,
)
from crystalformers.attention.arguments import Arguments
from crystalformers.attention.frames.encoding import LEAST_DEVIATION
from crystalformers.attention.frames.local import TIE_WIDTH, FrameMethod
from crystalformers.attention.published import ImageRule
from crystalformers.attention.reciprocal.lattice_sums import LatticeSums
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, radius_for, tolerance_of
from crystalformers.models.base import MOST_LAYERS, AttentionInputs, CrystalModel, ModelConfig, mean_over_atoms
from crystalformers.models.element_vectors import ElementVectors
from crystalformers.periodic import MAX_ATOMIC_NUMBER

Space = Literal["real", "reciprocal", "dual", "alternating"]
"""In which space the Gaussian lattice sums of the attention heads run."""

SMOOTH_FRAMES: tuple[FrameMethod | None, ...] = (None, "max", "static-local", "weighted-pca")
"""Local frames that follow the atoms smoothly; those of the whole crystal follow its translations, which the smallest
displacement breaks."""


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(ModelConfig):
    """The settings of all models of such blocks; defaults are those published for Crystalformer.

    Attributes:
        dim: width of the atom vectors.
        heads: attention heads; each has width dim / heads.
        blocks: number of blocks.
        feedforward: hidden width of the feed-forward layers.
        dropout: share of the numbers that attention and feed-forward layers add which is dropped in training.
        radial_functions: K of the value position encoding; 0 leaves it out (the simplified model).
        radial_maximum: centre of the last radial function, Angstrom.
        radial_width: their standard deviation in units of their spacing.
        sigma: r_0, width of the Gaussian decay for an average query, Angstrom.
        sigma_slope: a, how fast 1/sigma^2 follows the query.
        sigma_floor: b, lower bound of rho; sigma stays below r_0 / sqrt(b).
    """

    dim: int = 128
    heads: int = 8
    blocks: int = 4
    feedforward: int = 512
    dropout: float = 0.0
    radial_functions: int = 64
    radial_maximum: float = 14.0
    radial_width: float = 1.0
    sigma: float = 1.4
    sigma_slope: float = 0.1
    sigma_floor: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(1, "heads", "blocks", "feedforward")
        self.check_at_most(MOST_LAYERS, "blocks")
        self.require(self.dim % self.heads == 0, "dim", f"must be a multiple of heads = {self.heads}")
        self.require(0 <= self.dropout < 1, "dropout", "must lie in [0, 1)")
        self.check_at_least(0, "radial_functions")
        self.check_positive("radial_maximum", "radial_width", "sigma", "sigma_slope")
        self.require(0 < self.sigma_floor < 1, "sigma_floor", "must lie between 0 and 1")

    @property
    def sigma_bound(self) -> float:
        """No Gaussian is wider, Angstrom."""
        return self.sigma / math.sqrt(self.sigma_floor)


@dataclass(frozen=True, kw_only=True)
class CrystalformerConfig(TransformerConfig):
    """Everything that fixes the architecture, besides the settings of `TransformerConfig`.

    Attributes:
        space: where the lattice sums run. `real`: sigma below a bound; `reciprocal`: sigma above a bound, no value
            encoding; `dual`: the first half of the heads of every block real, the others reciprocal; `alternating`:
            the first block real, the second reciprocal, and so on.
        reciprocal_sigma: width of the Gaussians of reciprocal heads for an average query, Angstrom.
        frame: local frame on which directions are projected (CrystalFramer); None leaves directions out.
        frame_blocks: which blocks (from 0) have frames; None is all of them.
        angular_functions: Gaussians of the cosine to each axis of the frame.
        angular_width: their standard deviation in units of their spacing.
        distance_coefficient: c_dist, factor on the radial part of the value encoding.
        angle_coefficient: c_angl, factor on the angular part.
        tie_width: how far a frame may lie behind the best and still share in it (see `frames.local.TIE_WIDTH`).
        element_dim: width of the element vectors of a table, which a linear layer brings to `dim`; 0 for an embedding
            of the model's own.
        n_targets: numbers predicted per crystal.
    """

    space: Space = "real"
    reciprocal_sigma: float = 2.2
    frame: FrameMethod | None = None
    frame_blocks: tuple[int, ...] | None = None
    angular_functions: int = 64
    angular_width: float = 4.0
    distance_coefficient: float = 1.0
    angle_coefficient: float = 1.0
    tie_width: float = TIE_WIDTH
    element_dim: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_at_least(0, "element_dim")
        if self.angular_functions < 2:
            raise ConfigError("Model setting angular_functions must be at least 2.")
        self.check_positive("reciprocal_sigma", "angular_width", "tie_width")
        self.check_one_of(get_args(Space), "space")
        self.require(self.space != "dual" or self.heads % 2 == 0, "heads", "must be even for space = 'dual'")
        if self.frame is not None:
            self.check_one_of(get_args(FrameMethod), "frame")
            self.require(self.space != "reciprocal", "frame", "needs heads in real space, not space = 'reciprocal'")
        if self.frame_blocks is not None:
            object.__setattr__(self, "frame_blocks", tuple(self.frame_blocks))
            known = self.frame is not None and set(self.frame_blocks) <= set(range(self.blocks))
            requirement = f"must name blocks from 0 to {self.blocks - 1} and needs a frame"
            self.require(known, "frame_blocks", requirement)
        if self.frame is not None:
            deviation = self.angular_width * AngularBasis(self.angular_functions, self.angular_width).spacing
            requirement = (
                f"makes angular functions of standard deviation {deviation:.2g}, below the limit {LEAST_DEVIATION}"
            )
            self.require(deviation >= LEAST_DEVIATION, "angular_width", requirement)

    @property
    def reciprocal_sigma_bound(self) -> float:
        """No Gaussian of a reciprocal head is narrower, Angstrom."""
        return self.reciprocal_sigma * math.sqrt(self.sigma_floor)

    def has_frames(self, block: int) -> bool:
        """Whether a block (from 0) projects directions on frames: only heads in real space do."""
        chosen = self.frame_blocks is None or block in self.frame_blocks
        return self.frame is not None and chosen and self.real_heads(block) > 0

    def real_heads(self, block: int) -> int:
        """How many heads of a block (from 0) sum in real space; they come first."""
        match self.space:
            case "real":
                return self.heads
            case "reciprocal":
                return 0
            case "dual":
                return self.heads // 2
            case "alternating":
                return 0 if block % 2 else self.heads


class InfiniteAttention(nn.Module):
    """Multi-head attention over periodic images with a decay whose width follows the query.

    The first `real_heads` heads sum in real space and carry the value encoding, the others in reciprocal space.

    Attributes:
        image_rule: `published` for the rules of the authors' code (`attention.published`), to be compared with it; the
            backend is not used then. Not part of the weights.
    """

    width_mean: Tensor
    width_std: Tensor

    def __init__(self, config: CrystalformerConfig, block: int) -> None:
        super().__init__()
        self.config = config
        self.image_rule: ImageRule = "sphere"
        self.real_heads = real = config.real_heads(block)
        head_dim = config.dim // config.heads
        self.query = nn.Linear(config.dim, config.dim)
        self.key = nn.Linear(config.dim, config.dim)
        self.value = nn.Linear(config.dim, config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.width = nn.Parameter(torch.empty(config.heads, head_dim))
        self.value_encoding = (
            nn.Parameter(torch.empty(real, head_dim, config.radial_functions))
            if config.radial_functions and real
            else None
        )
        self.angular_encoding = (
            nn.Parameter(torch.empty(3, real, head_dim, config.angular_functions)) if config.has_frames(block) else None
        )
        # Statistics of q.w over the first training batch; 0 and 1 until `Crystalformer.calibrate` sets them.
        self.register_buffer("width_mean", torch.zeros(()))
        self.register_buffer("width_std", torch.ones(()))
        self.initialise()

    def initialise(self) -> None:
        """T-Fixup: values and outputs shrink with depth, queries and keys do not; biases start at zero."""
        scale = t_fixup_scale(self.config.blocks)
        for linear, gain in ((self.query, 1.0), (self.key, 1.0), (self.value, scale), (self.out, scale)):
            nn.init.xavier_uniform_(linear.weight, gain)
            nn.init.zeros_(linear.bias)
        head_dim = self.width.shape[1]
        nn.init.normal_(self.width, std=head_dim**-0.5)
        encodings = [] if self.value_encoding is None else [self.value_encoding.data]
        if self.angular_encoding is not None:
            encodings.extend(self.angular_encoding.data)
        for weights_HDK in encodings:
            count = weights_HDK.shape[2]
            nn.init.xavier_uniform_(weights_HDK.view(-1, count), gain=count**-0.5)

    def rho(self, q_AHD: Tensor) -> Tensor:
        """The width function (1 - b) ELU(a x / (1 - b)) + 1 with x = (q.w - m) / s, (A, H) (section 3.2)."""
        config = self.config
        x_AH = ((q_AHD * self.width).sum(-1) - self.width_mean) / self.width_std
        free = 1 - config.sigma_floor
        return free * F.elu(config.sigma_slope / free * x_AH) + 1

    def widths(self, q_AHD: Tensor) -> tuple[Tensor, Tensor]:
        """1/sigma^2 of the real heads, 1/Å², and sigma^2 of the reciprocal ones, Å², each (A, its heads)."""
        config, real, rho_AH = self.config, self.real_heads, self.rho(q_AHD)
        inverse_variance_AH = rho_AH[:, :real] / config.sigma**2
        variance_AH = config.reciprocal_sigma**2 * rho_AH[:, real:]
        return inverse_variance_AH, variance_AH

    def angular(self) -> AngularEncoding | None:
        """The angular part of the value encoding, if the model has frames."""
        config = self.config
        if config.frame is None or self.angular_encoding is None:
            return None
        basis = AngularBasis(config.angular_functions, config.angular_width)
        return AngularEncoding(config.angle_coefficient * self.angular_encoding, basis, config.frame, config.tie_width)

    def heads(self, x: Tensor) -> Tensor:
        """(A, dim) to (A, H, D)."""
        return x.unflatten(-1, (self.config.heads, -1))

    def forward(self, x: Tensor, geometry: Geometry, backend: Backend) -> Tensor:
        """(A, dim) to (A, dim)."""
        config, real = self.config, self.real_heads
        rounded = torch.is_autocast_enabled(x.device.type)
        q_AHD, k_AHD, v_AHD = (self.heads(linear(x)) for linear in (self.query, self.key, self.value))
        with torch.autocast(x.device.type, enabled=False):
            # Distances want full precision; under autocast only the dense layers are rounded.
            q_AHD, k_AHD, v_AHD = (t.to(self.width.dtype) for t in (q_AHD, k_AHD, v_AHD))
            inverse_variance_AH, variance_AH = self.widths(q_AHD)
            y = []
            if real:
                W_HDK = None if self.value_encoding is None else config.distance_coefficient * self.value_encoding
                of_real = (q_AHD[:, :real], k_AHD[:, :real], v_AHD[:, :real], inverse_variance_AH, W_HDK, geometry)
                if self.image_rule == "published":
                    y.append(published.attention(Arguments(*of_real, self.angular())))
                else:
                    y.append(infinite_attention(*of_real, backend, angular=self.angular(), rounded=rounded))
            if real < config.heads:
                of_others = (q_AHD[:, real:], k_AHD[:, real:], v_AHD[:, real:], variance_AH)
                if self.image_rule == "published":
                    y.append(published.reciprocal_attention(*of_others, geometry.batch))
                else:
                    y.append(reciprocal.attention(*of_others, self.lattice_sums(geometry)))
        return self.out((torch.cat(y, dim=1) if len(y) > 1 else y[0]).flatten(1))

    def lattice_sums(self, geometry: Geometry) -> LatticeSums:
        """The lattice sums of the reciprocal heads, planned when the first block asks.

        They are as accurate as the radius of the images makes the real heads.
        """
        tolerance = tolerance_of(geometry.images.radius, self.config.sigma_bound)
        narrowest = self.config.reciprocal_sigma_bound
        return geometry.cached(_lattice_sums, narrowest, tolerance)


def _lattice_sums(geometry: Geometry, narrowest: float, tolerance: float) -> LatticeSums:
    return LatticeSums.plan(geometry.batch, narrowest, tolerance)


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to its input."""

    def __init__(self, config: CrystalformerConfig, number: int) -> None:
        super().__init__()
        self.attention = InfiniteAttention(config, number)
        self.expand = nn.Linear(config.dim, config.feedforward)
        self.contract = nn.Linear(config.feedforward, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        for linear in (self.expand, self.contract):
            nn.init.xavier_uniform_(linear.weight, t_fixup_scale(config.blocks))
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, geometry: Geometry, backend: Backend) -> Tensor:
        """(A, dim) to (A, dim)."""
        x = x + self.dropout(self.attention(x, geometry, backend))
        return x + self.dropout(self.contract(F.relu(self.expand(x), inplace=True)))


class Blocks(nn.ModuleList):
    """The stack of blocks, with the geometry that all share and the statistics that they need."""

    @classmethod
    def of(cls, config: CrystalformerConfig) -> Blocks:
        """Fresh blocks."""
        return cls(Block(config, number) for number in range(config.blocks))

    @property
    def config(self) -> CrystalformerConfig:
        """The settings of the blocks."""
        first = self[0]
        assert isinstance(first, Block)
        return first.attention.config

    def geometry(self, batch: CrystalBatch) -> Geometry:
        """What all blocks share."""
        config = self.config
        return Geometry(batch, RadialBasis(config.radial_functions, config.radial_maximum, config.radial_width))

    def forward(self, x: Tensor, batch: CrystalBatch, backend: Backend) -> Tensor:
        """Vectors of the atoms before the first block to those after the last, both (A, dim)."""
        geometry = self.geometry(batch)
        for block in self:
            x = block(x, geometry, backend)
        return x

    def attention_inputs(
        self, x: Tensor, batch: CrystalBatch, backend: Backend
    ) -> Iterator[tuple[InfiniteAttention, Tensor, Geometry]]:
        """The attention of each block with the vectors (A, dim) that enter it; the block runs afterwards."""
        geometry = self.geometry(batch)
        for block in self:
            assert isinstance(block, Block)
            yield block.attention, x, geometry
            x = block(x, geometry, backend)

    @torch.no_grad()
    def calibrate(self, x: Tensor, batch: CrystalBatch, backend: Backend, calibrated: Tensor) -> None:
        """Set mean and std of q.w, block by block, from all atoms and heads of a batch, and `calibrated` to true.

        Raises:
            ConfigError: if `calibrated` is true already.
        """
        if calibrated:
            raise ConfigError("The width statistics of this model are already set.")
        for attention, vectors, _ in self.attention_inputs(x, batch, backend):
            score = (attention.heads(attention.query(vectors)) * attention.width).sum(-1)
            attention.width_mean.copy_(score.mean())
            attention.width_std.copy_(score.std())
        calibrated.fill_(True)


class Crystalformer(CrystalModel):
    """Predicts `n_targets` standardised numbers per crystal.

    Attributes:
        config: the architecture.
        elements: the vectors of a table, if `element_dim` is set; otherwise `embedding` holds the model's own.
        calibrated: whether the width statistics are set; travels with the weights.
    """

    Config = CrystalformerConfig
    config: CrystalformerConfig
    calibrated: Tensor

    def __init__(self, config: CrystalformerConfig | None = None) -> None:
        super().__init__(config or CrystalformerConfig())
        config = self.config
        self.elements, self.embedding = self.element_layers(config)
        self.blocks = Blocks.of(config)
        self.head = nn.Sequential(nn.Linear(config.dim, config.dim), nn.ReLU(), nn.Linear(config.dim, config.n_targets))
        self.register_buffer("calibrated", torch.zeros((), dtype=torch.bool))

    @staticmethod
    def element_layers(config: CrystalformerConfig) -> tuple[ElementVectors | None, nn.Embedding | nn.Linear]:
        """A table's vectors, if any, and the layer behind them, which makes a T-Fixup start of unit variances."""
        std = t_fixup_std(config.dim, config.blocks)
        if not config.element_dim:
            embedding = nn.Embedding(MAX_ATOMIC_NUMBER, config.dim)
            nn.init.normal_(embedding.weight, std=std)
            return None, embedding
        linear = nn.Linear(config.element_dim, config.dim)
        nn.init.normal_(linear.weight, std=std * config.element_dim**-0.5)
        nn.init.zeros_(linear.bias)
        return ElementVectors(config.element_dim), linear

    @property
    def needs_directions(self) -> bool:
        """Whether the images must be built with directions: only local frames need them."""
        return self.config.frame is not None

    @property
    def forces_unsupported_reason(self) -> str | None:
        """Why the predictions have no slope with respect to the positions of the atoms; None if they have one."""
        if self.config.frame in SMOOTH_FRAMES:
            return None
        smooth = " or ".join(f"'{frame}'" for frame in SMOOTH_FRAMES if frame)
        return f"its '{self.config.frame}' frames do not follow the atoms smoothly as {smooth} frames do"

    @property
    def image_rule(self) -> ImageRule:
        """Which images attention sums over, in all blocks; see `InfiniteAttention`."""
        return self._attention_layers[0].image_rule

    @image_rule.setter
    def image_rule(self, rule: ImageRule) -> None:
        if rule not in get_args(ImageRule):
            raise ConfigError(f"Image rule '{rule}' is not one of {', '.join(get_args(ImageRule))}.")
        for attention in self._attention_layers:
            attention.image_rule = rule

    @property
    def _attention_layers(self) -> list[InfiniteAttention]:
        return [module for module in self.modules() if isinstance(module, InfiniteAttention)]

    def radius(self, tolerance: float) -> float:
        """Radius of the image list, Angstrom, for a neglected share of the weight of at most `tolerance`."""
        return radius_for(tolerance, self.config.sigma_bound)

    def forward(self, batch: CrystalBatch) -> Tensor:
        """Standardised predictions, (C, n_targets), for a batch with images."""
        return self.head(mean_over_atoms(self.encode(batch), batch))

    def encode(self, batch: CrystalBatch) -> Tensor:
        """Vectors of the atoms after the last block, (A, dim)."""
        return self.blocks(self.embed(batch), batch, self.backend)

    def embed(self, batch: CrystalBatch) -> Tensor:
        """Vectors of the elements, (A, dim): E[a_i] of the embedding table, whose first row is hydrogen."""
        if self.elements is not None:
            return self.embedding(self.elements(batch.numbers))
        return self.embedding(batch.numbers - 1)

    @torch.no_grad()
    def element_vectors(self) -> Tensor:
        """The table if there is one, (100, element_dim), otherwise the embedding, (98, dim)."""
        return super().element_vectors() if self.elements is not None else self.embedding.weight.clone()

    def attention_inputs(self, batch: CrystalBatch) -> AttentionInputs:
        """The attention of each block, the atom vectors (A, dim) that enter it, and the geometry."""
        return self.blocks.attention_inputs(self.embed(batch), batch, self.backend)

    @property
    def is_calibrated(self) -> bool:
        """Whether the width statistics are set."""
        return bool(self.calibrated)

    @torch.no_grad()
    def calibrate(self, batch: CrystalBatch) -> None:
        """Set mean and std of q.w, block by block, from all atoms and heads of one training batch.

        The paper's code does this silently inside the first forward pass; here it happens once, when asked,
        so that evaluation, resumed and parallel runs all see the same numbers.

        Raises:
            ConfigError: if the statistics are already set.
        """
        self.blocks.calibrate(self.embed(batch), batch, self.backend, self.calibrated)


def t_fixup_std(dim: int, blocks: int) -> float:
    """Standard deviation of the initial vectors of the elements (Huang et al., ICML 2020)."""
    return float(dim) ** -0.5 * (9 * float(blocks)) ** -0.25


def t_fixup_scale(blocks: int) -> float:
    """Factor on the initial weights of values, outputs and feed-forward layers (Huang et al., ICML 2020)."""
    return 0.67 * float(blocks) ** -0.25
