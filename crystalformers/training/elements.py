"""Element vectors from a table as the input of the model that is trained."""

from __future__ import annotations

import hashlib

import torch

from crystalformers.elements.table import ElementTable
from crystalformers.errors import TableError
from crystalformers.models import CrystalModel
from crystalformers.models.element_vectors import ROWS
from crystalformers.training.dataset import Dataset
from crystalformers.training.recipe import Elements


def load_for(dataset: Dataset, settings: Elements | None) -> ElementTable | None:
    """The table that the recipe names, standardised if it asks for that; None if it names none.

    Raises:
        TableError: if there is no such table, or naming the first crystal with elements that are not in it.
    """
    if settings is None:
        return None
    from crystalformers.elements.library import load_elements

    table = load_elements(settings.table)
    for split, rows in dataset.splits.items():
        try:
            for row in rows.tolist():
                table.rows(dataset.table.numbers(row))
        except TableError as error:
            raise TableError(
                error.problem,
                where=f"{dataset.table.ids[row]} ({split}): {error.where}",
                remedy="leave such rows out or take a table with their elements",
            ) from error
    return table.standardised() if settings.standardise else table


def install(model: CrystalModel, table: ElementTable, settings: Elements) -> None:
    """Put the vectors of a table into a model that was built for their width."""
    vectors, known = torch.from_numpy(table.dense("zero", ROWS)), torch.from_numpy(table.known(ROWS))
    model.set_element_vectors(vectors, known, trainable=settings.trainable)


def fingerprint(table: ElementTable) -> str:
    """Hash of elements and vectors; 32 hexadecimal digits."""
    content = table.numbers.tobytes() + table.vectors.tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
