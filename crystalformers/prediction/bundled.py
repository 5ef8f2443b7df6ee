"""The models that come with the package, and the weight file that a name or path stands for."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from crystalformers.errors import CheckpointError

FOLDER = Path(__file__).parents[1] / "bundled"
"""Every `NAME.safetensors` in it is the bundled model NAME, which describes itself in its header."""

DEFAULT = "materials-project"
"""The bundled model that predicts where none is named."""

WEIGHTS = "model.safetensors"
"""The weight file that training writes into its run folder."""


def names() -> list[str]:
    """Names of the bundled models, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def find_weights(name_or_path: str | os.PathLike[str]) -> Path:
    """The weight file of a bundled model, a run folder or a path.

    Raises:
        CheckpointError: if there is none, with a similar name if one is known, or if a bundled name is also a path.
    """
    bundled = names()
    name, path = str(name_or_path), Path(name_or_path)
    if name in bundled and path.exists():
        problem = f"'{name}' is a bundled model and a path here"
        raise CheckpointError(problem, remedy=f"write '{path.absolute()}' for the path")
    if name in bundled:
        return FOLDER / f"{name}.safetensors"
    weights = path / WEIGHTS if path.is_dir() else path
    if weights.is_file():
        return weights
    if path.is_dir():
        remedy = "finish the training (--resume), or name a weight file"
        raise CheckpointError(f"the folder holds no {WEIGHTS}", where=str(path), remedy=remedy)
    known = ", ".join(bundled) or "none is bundled"
    problem = f"No model '{name}': it is neither a weight file, nor a run folder, nor a bundled model ({known})."
    raise CheckpointError(problem + _similar_name(name, path, bundled))


def _similar_name(name: str, path: Path, bundled: list[str]) -> str:
    neighbours = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
    for wanted, known, folder in ((name, bundled, Path()), (path.name, neighbours, path.parent)):
        if close := difflib.get_close_matches(wanted, known, n=1):
            return f" Did you mean '{folder / close[0]}'?"
    return ""
