"""Find a table of element vectors by name or path: bundled, published by others, in a file or in a trained model."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from crystalformers.elements import formats, sources
from crystalformers.elements.table import ElementTable
from crystalformers.errors import TableError
from crystalformers.prediction import bundled as models

BUNDLED = models.FOLDER / "elements"
"""Folder of the bundled tables: `NAME.safetensors` is the table NAME."""


def bundled_names() -> list[str]:
    """Names of the bundled tables, sorted."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def load_elements(name_or_path: str | os.PathLike[str]) -> ElementTable:
    """Load a table of element vectors.

    Args:
        name_or_path: name of a bundled table or of one to compare with (`sources.names`), a file of any export format,
            or a model: its weight file, run folder or bundled name.

    Raises:
        TableError: if there is no such table (a similar name is suggested), or the file cannot be used.
    """
    name, path = str(name_or_path), Path(name_or_path)
    bundled = bundled_names()
    if (name in bundled or sources.is_known(name)) and path.exists():
        problem = f"'{name}' is the name of a table and a path here"
        raise TableError(problem, remedy=f"write '{path.absolute()}' for the path")
    if name in bundled:
        return ElementTable.load(BUNDLED / f"{name}.safetensors")
    if sources.is_known(name):
        return sources.load(name)
    if path.is_file():
        return formats.read(path)
    if path.is_dir() or name in models.names():
        from crystalformers.elements.trained import from_model

        return from_model(name)
    close = difflib.get_close_matches(name, [*bundled, *models.names(), *sources.names()], n=1)
    known = ", ".join([*bundled, *models.names()])
    raise TableError(
        f"No table of elements '{name}': it is neither a file nor a run folder, nor a bundled table or model "
        f"({known}), nor one of {', '.join(sources.names())}",
        remedy=f"Did you mean '{close[0]}'?" if close else "",
    )
