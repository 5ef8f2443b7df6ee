"""How a name or path finds a table of elements: bundled here, known from others, in a file or in a trained model."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from crystalformers.elements import formats, sources
from crystalformers.elements.table import ElementTable
from crystalformers.errors import TableError
from crystalformers.prediction import bundled as models

BUNDLED = models.FOLDER / "elements"
"""Every `NAME.safetensors` in it is the bundled table NAME."""


def bundled_names() -> list[str]:
    """Names of the bundled tables, sorted."""
    return sorted(path.stem for path in BUNDLED.glob("*.safetensors"))


def load_elements(name_or_path: str | os.PathLike[str]) -> ElementTable:
    """A table by name, from a file, or out of a trained model.

    Args:
        name_or_path: a table that is bundled here or known from others (`sources.names`), a file of any export format,
            or a model: its weight file, run folder or bundled name.

    Raises:
        TableError: if there is no such table, or the file cannot be used; a near miss is suggested.
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
    hint = f" Did you mean '{close[0]}'?" if close else ""
    raise TableError(
        f"No table of elements '{name}': it is no file, no run folder, no bundled table or model "
        f"({', '.join([*bundled, *models.names()]) or 'none is bundled'}) "
        f"and none of {', '.join(sources.names())}.{hint}"
    )
