"""The vectors of the elements at the input of a model: learned, or taken from a table and frozen or fine-tuned.

Shapes: A atoms of a batch, D width of the vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crystalformers.errors import ConfigError, StructureError
from crystalformers.periodic import ELEMENTS, named

ROWS = 100
"""Rows of a table of vectors, hydrogen to fermium; row Z - 1 belongs to atomic number Z."""


class ElementVectors(nn.Module):
    """One vector per element, and which elements have one.

    Initial vectors are normal random numbers of variance one, known for all elements and trained; `set` replaces them
    by those of a table. Which elements are known is saved with the weights, so that a saved model refuses the elements
    that were not in its table.

    Attributes:
        vectors: (100, D); they get no gradient while they are frozen.
        known: which elements have a vector, (100,) bool.

    Raises:
        ConfigError: if the width is below one.
    """

    known: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ConfigError(f"Vectors of elements need a width of at least 1, not {dim}.")
        self.vectors = nn.Parameter(torch.randn(ROWS, dim))
        self.register_buffer("known", torch.ones(ROWS, dtype=torch.bool))

    def forward(self, numbers: Tensor) -> Tensor:
        """Vectors of atomic numbers, (A,) to (A, D).

        Raises:
            StructureError: naming the elements that have no vector.
        """
        rows = numbers - 1
        known = self.known[rows]
        if not known.all():
            missing = (rows[~known].unique() + 1).tolist()
            problem = f"The element vectors of this model hold none for {named(missing)}"
            raise StructureError(problem, remedy="leave such structures out or give a table that covers them")
        return self.vectors[rows]

    @torch.no_grad()
    def set(self, vectors: Tensor, known: Tensor, *, trainable: bool) -> None:
        """Replace the vectors by those of a table.

        Args:
            vectors: row Z - 1 for atomic number Z, (100, D); rows of unknown elements are set to zero.
            known: which rows the table has, (100,) bool.
            trainable: whether training may change the vectors.

        Raises:
            ConfigError: if a shape does not fit or a known vector is not finite.
        """
        if vectors.shape != self.vectors.shape or known.shape != self.known.shape:
            given = f"A table of element vectors has shape {tuple(vectors.shape)} with {len(known)} known rows"
            problem = f"{given}, the model takes {tuple(self.vectors.shape)}"
            raise ConfigError(problem, remedy="set element_dim to the width of the table")
        bad = known & ~vectors.isfinite().all(dim=1).to(known.device)
        if bad.any():
            raise ConfigError(f"The table's vector of {ELEMENTS[int(bad.nonzero()[0])]} is not finite.")
        self.vectors.copy_(torch.where(known.unsqueeze(1), vectors, 0.0))
        self.known.copy_(known)
        self.vectors.requires_grad_(trainable)


def projection(element_dim: int, dim: int) -> nn.Module:
    """The layer from vectors of a table to the width of a model; nothing for vectors of the model's own (width 0)."""
    return nn.Linear(element_dim, dim) if element_dim else nn.Identity()
