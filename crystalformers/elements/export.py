"""Write a table of element vectors in the width and with the elements that another library expects."""

from __future__ import annotations

import os
from pathlib import Path

from crystalformers.elements.formats import FORMATS
from crystalformers.elements.table import ElementTable, Fill
from crystalformers.errors import ConfigError


def export(
    table: ElementTable, path: str | os.PathLike[str], fmt: str, *, dim: int | None = None, fill: Fill = "raise"
) -> ElementTable:
    """Write a table to a file, which appears complete or not at all.

    Args:
        table: the table.
        path: the file; `FORMATS[fmt].suffix` is the usual suffix.
        fmt: one of `formats.FORMATS`.
        dim: number of principal components to which the vectors are reduced first.
        fill: what to write for elements that the format needs and the table lacks.

    Returns:
        The table as written; `metadata["filled"]` names the elements that were filled in.

    Raises:
        ConfigError: if the format is unknown, or `fill` is given for a format that needs no further elements.
        TableError: naming the missing elements, or if the vectors cannot be reduced.
    """
    from crystalformers.files import write_atomically

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
