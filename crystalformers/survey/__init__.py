"""What a table holds, as one HTML page: elements, sizes, labels, symmetry, duplicates, overlap between its splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crystalformers.data.sets import resolve
from crystalformers.data.table import open_table
from crystalformers.extras import require
from crystalformers.files import write_atomically
from crystalformers.survey.facts import Facts, facts_of
from crystalformers.survey.page import page

__all__ = ["Facts", "facts_of", "write_survey"]


def write_survey(
    name: str | Path, path: Path, *, split: str = "", seed: int = 0, progress: Callable[[str], None] = lambda _: None
) -> Facts:
    """Look at all rows of a table and write the page; its facts.

    Args:
        name: of a data set that has been fetched, or the path of a table.
        path: HTML file to write.
        split: which split of a table with several, as `open_table` takes it.
        seed: of the rows whose space groups are found.
        progress: called with the name of each step.

    Raises:
        TableError: if the table cannot be read.
        DataSetError: if the data set has not been fetched.
    """
    require("train", "the page of a table", "jinja2", "matplotlib", "spglib")
    units = {label: about.unit for label, about in resolve(name).labels.items()}
    facts = facts_of(open_table(name, split=split), str(name), units, seed, progress)
    progress("pictures")
    write_atomically(path, page(facts).encode())
    return facts
