"""What to say when a batch does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crystalformers.errors import BatchMemoryError
from crystalformers.images import CrystalBatch
from crystalformers.prediction.batching import is_about_memory
from crystalformers.training.recipe import Recipe


@contextmanager
def memory_named(crystals: CrystalBatch, recipe: Recipe, where: str) -> Iterator[None]:
    """Turn an error for lack of memory inside the block into one that names batch and remedy.

    Args:
        crystals: the batch at work.
        recipe: the settings that bound a batch.
        where: what goes on, for example `training step 17`.

    Raises:
        BatchMemoryError: instead of `MemoryError` and PyTorch's errors.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_about_memory(error):
            raise
        raise BatchMemoryError(message(crystals, recipe, where)) from error


def message(crystals: CrystalBatch, recipe: Recipe, where: str) -> str:
    """One sentence with the size of the batch and the settings to lower."""
    images = 0 if crystals.images is None else len(crystals.images.distance)
    largest = int(crystals.ptr.diff().max())
    bound = "none" if recipe.max_atoms is None else str(recipe.max_atoms)
    return (
        f"Out of memory at {where}: a batch of {len(crystals)} crystals, {crystals.n_atoms} atoms (the largest crystal "
        f"has {largest}) and {images} images; start a new run with max_atoms below {crystals.n_atoms} (now {bound}) "
        f"or a batch_size below {len(crystals)}."
    )
