"""A bar while structures are computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from crystalformers.prediction.batching import Advance, no_progress


@contextmanager
def progress_bar(total: int, *, shown: bool) -> Iterator[Advance]:
    """A bar in a terminal or a notebook while the block runs.

    Args:
        total: number of structures.
        shown: False for no bar.

    Yields:
        A function to call with the number of structures each time some are done.
    """
    if not shown:
        yield no_progress
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="structure") as bar:
        yield bar.update
