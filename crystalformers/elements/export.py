"""Write a table of elements for another library: as wide as it wants, with the elements it expects."""

from __future__ import annotations

import os
from pathlib import Path

from crystalformers.elements.formats import FORMATS
from crystalformers.elements.table import ElementTable, Fill
from crystalformers.errors import ConfigError


def export(
    table: ElementTable, path: str | os.PathLike[str], fmt: str, *, dim: int | None = None, fill: Fill = "raise"
) -> ElementTable:
    """Write a file that appears whole or not at all.

    Args:
        table: what to write.
        path: the file, by custom with the suffix of the format.
        fmt: one of `formats.FORMATS`.
        dim: reduce the vectors to that many principal components first.
        fill: what to write for elements that the format needs and the table lacks.

    Returns:
        The table as it stands in the file; `metadata["filled"]` names the elements that were filled.

    Raises:
        ConfigError: if there is no such format, or `fill` is given for one that needs no other elements.
        TableError: naming the missing elements, or if the vectors cannot be reduced.
    """
    from crystalformers.checkpoint import write_atomically

    if fmt not in FORMATS:
        raise ConfigError(f"'{fmt}' is no format of element tables", remedy=f"choose one of {', '.join(FORMATS)}")
    form = FORMATS[fmt]
    if dim is not None:
        table = table.reduced(dim)
    if form.numbers is not None:
        table = table.completed(form.numbers, fill)
    elif fill != "raise":
        problem = f"The format '{fmt}' holds the elements that the table has"
        raise ConfigError(problem, remedy="leave the filling out")
    write_atomically(Path(path), form.write(table))
    return table
