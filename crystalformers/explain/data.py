"""The data of an explanation: weights, widths and frames of one atom in one block, also as a table and as JSON.

Shapes: A atoms of the crystal, M images of one atom, H heads of one kind, F frames of one head. Lengths in Angstrom.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError
from crystalformers.extras import optional
from crystalformers.io import formula

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

THRESHOLD = 1e-3
"""Smallest weight of an image in a table or file by default."""


@dataclass(frozen=True, eq=False)
class LocalFrame:
    """The local frame of one atom and head; all frames if several are equivalent (CrystalFramer, ICLR 2025).

    Attributes:
        axes: e_1, e_2, e_3 as rows, (F, 3, 3), Cartesian unit vectors.
        share: weight of each frame in the average over frames, (F,), adding up to 1; empty for an atom without
            neighbours.
        distinct: for principal axes (F = 1), how distinct e_1 is from e_2 and e_2 from e_3, (2,), from 0 (only the
            plane or space that they span has a meaning) to 1; their signs have no meaning. None for other frames.
    """

    axes: Floats
    share: Floats
    distinct: Floats | None = None


@dataclass(frozen=True, eq=False)
class ImageAttention:
    """Attention of one atom in the real-space heads of a block: to single images, including the atom itself.

    Attributes:
        heads: numbers of the heads, from 0, (H,).
        sigma: width of each head's Gaussian decay for this atom, (H,), Angstrom.
        source: atom of each image, from 0, (M,), nearest image first.
        shift: lattice translation n of each image relative to the given coordinates, (M, 3).
        vector: from the atom to the image, (M, 3), Angstrom.
        distance: length of `vector`, (M,), Angstrom.
        weight: attention weights, (M, H); each column adds up to 1.
        frames: of each head, (H,); empty for a model without frames.
    """

    heads: Integers
    sigma: Floats
    source: Integers
    shift: Integers
    vector: Floats
    distance: Floats
    weight: Floats
    frames: tuple[LocalFrame, ...] = ()


@dataclass(frozen=True, eq=False)
class AtomAttention:
    """Attention of one atom in the reciprocal-space heads of a block: to atoms, each with all its images at once.

    A sum in reciprocal space has no weights of single images.

    Attributes:
        heads: numbers of the heads, from 0, (H,).
        sigma: width of each head's Gaussian for this atom, (H,), Angstrom.
        source: the atoms of the crystal, (A,).
        weight: attention weights, (A, H); each column adds up to 1.
    """

    heads: Integers
    sigma: Floats
    source: Integers
    weight: Floats


@dataclass(frozen=True, eq=False)
class Attention:
    """Attention of one atom in one block; `real` or `reciprocal` is None if the block has no such head."""

    atom: int
    block: int
    real: ImageAttention | None
    reciprocal: AtomAttention | None


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a model attends to in a crystal.

    Attributes:
        model: name of the model.
        crystal: the structure; atoms are numbered from 0 in its order.
        attentions: one for each atom and block of the explanation, by atom, then by block.
    """

    model: str
    crystal: Crystal
    attentions: tuple[Attention, ...]

    def of(self, atom: int, block: int) -> Attention:
        """The attention of one atom in one block.

        Raises:
            ConfigError: if it is not part of the explanation.
        """
        for attention in self.attentions:
            if (attention.atom, attention.block) == (atom, block):
                return attention
        raise ConfigError(f"The explanation holds no atom {atom} in block {block}; both are counted from 0")

    def frame(self, threshold: float = THRESHOLD) -> pd.DataFrame:
        """A table with a row for each head and image, or source atom in reciprocal space, of at least this weight.

        Columns: atom, symbol, block, head, space, sigma (Å), source, source_symbol, n1 n2 n3, x y z (Å, the vector),
        distance (Å), weight (no unit). In rows of reciprocal heads n, vector and distance are empty.
        """
        with optional("pandas", "a frame"):
            import pandas as pd

        rows = [row for attention in self.attentions for row in _rows(attention, self.crystal.symbols, threshold)]
        columns = ["atom", "symbol", "block", "head", "space", "sigma (Å)", "source", "source_symbol"]
        columns += ["n1", "n2", "n3", "x (Å)", "y (Å)", "z (Å)", "distance (Å)", "weight"]
        frame = pd.DataFrame(rows, columns=columns)
        return frame.astype(dict.fromkeys(["n1", "n2", "n3"], "Int64"))

    def to_dict(self, threshold: float = THRESHOLD) -> dict[str, Any]:
        """Plain types for JSON, with the images or source atoms of at least this weight in at least one head."""
        symbols = self.crystal.symbols
        return {
            "model": self.model,
            "structure": self.crystal.name,
            "formula": formula(self.crystal),
            "units": {"sigma": "Å", "vector": "Å", "distance": "Å", "lattice": "Å", "positions": "Å"},
            "threshold": threshold,
            "lattice": self.crystal.lattice.tolist(),
            "symbols": symbols,
            "positions": self.crystal.positions.tolist(),
            "attention": [
                {
                    "atom": attention.atom,
                    "symbol": symbols[attention.atom],
                    "block": attention.block,
                    "real": _to_dict(attention.real, symbols, threshold),
                    "reciprocal": _to_dict(attention.reciprocal, symbols, threshold),
                }
                for attention in self.attentions
            ],
        }


def _rows(attention: Attention, symbols: list[str], threshold: float) -> Iterator[tuple[Any, ...]]:
    """Rows of `Explanation.frame`, by head, largest weight first."""
    for space, seen in (("real", attention.real), ("reciprocal", attention.reciprocal)):
        for column, head in enumerate([] if seen is None else seen.heads.tolist()):
            assert seen is not None
            start = (attention.atom, symbols[attention.atom], attention.block, head, space, seen.sigma[column])
            weight = seen.weight[:, column]
            for k in np.argsort(-weight, kind="stable")[: (weight >= threshold).sum()].tolist():
                source = int(seen.source[k])
                place: tuple[Any, ...] = (None,) * 3 + (np.nan,) * 4
                if isinstance(seen, ImageAttention):
                    place = (*seen.shift[k].tolist(), *seen.vector[k].tolist(), float(seen.distance[k]))
                yield (*start, source, symbols[source], *place, float(weight[k]))


def _to_dict(
    seen: ImageAttention | AtomAttention | None, symbols: list[str], threshold: float
) -> dict[str, Any] | None:
    """Plain types for JSON; None for a block without such heads."""
    if seen is None:
        return None
    shown = seen.weight.max(1) >= threshold
    columns = {"source": seen.source[shown], "symbol": np.array(symbols)[seen.source[shown]]}
    if isinstance(seen, ImageAttention):
        columns |= {name: getattr(seen, name)[shown] for name in ("shift", "vector", "distance")}
    columns["weight"] = seen.weight[shown]
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    targets = [dict(zip(columns, row, strict=True)) for row in rows]
    heads = {"heads": seen.heads.tolist(), "sigma": seen.sigma.tolist()}
    if isinstance(seen, AtomAttention):
        return heads | {"atoms": targets}
    frames = [{name: part if part is None else part.tolist() for name, part in vars(f).items()} for f in seen.frames]
    return heads | {"images": targets, "frames": frames}
