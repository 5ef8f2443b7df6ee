"""What to say when a batch does not fit into memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crystalformers.errors import BatchMemoryError
from crystalformers.images import CrystalBatch
from crystalformers.prediction.batching import is_about_memory
from crystalformers.training.recipe import Recipe
from crystalformers.training.wording import counted


@contextmanager
def memory_named(crystals: CrystalBatch, recipe: Recipe, where: str) -> Iterator[None]:
    """Turn an error for lack of memory inside the block into one that names batch and remedy.

    Args:
        crystals: the batch.
        recipe: the settings that bound a batch.
        where: what is being done, for example `epoch 3, step 17`.

    Raises:
        BatchMemoryError: instead of `MemoryError` and PyTorch's errors.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_about_memory(error):
            raise
        images = 0 if crystals.images is None else len(crystals.images.distance)
        size, atoms = counted(len(crystals), "crystal"), counted(crystals.n_atoms, "atom")
        largest, bound = int(crystals.ptr.diff().max()), recipe.max_atoms or "none"
        raise BatchMemoryError(
            f"Out of memory at {where}: a batch of {size}, {atoms} (the largest crystal has {largest}) "
            f"and {images} images",
            remedy=f"start a new run with max_atoms below {crystals.n_atoms} (now {bound}) or a batch_size below "
            f"{len(crystals)}",
        ) from error
