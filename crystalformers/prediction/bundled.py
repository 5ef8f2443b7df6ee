"""The models that travel inside the package, and how a name or path finds its weight file."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from crystalformers.errors import CheckpointError

FOLDER = Path(__file__).parents[1] / "bundled"
"""Every `NAME.safetensors` in it is the bundled model NAME; what it is stands in the file itself."""

WEIGHTS = "model.safetensors"
"""The weight file that a training leaves in its run folder."""


def names() -> list[str]:
    """Names of the bundled models, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def find_weights(name_or_path: str | os.PathLike[str] | None = None) -> Path:
    """The weight file that a bundled name, a run folder or a path means; None is the only bundled model.

    Raises:
        CheckpointError: if there is none, or a bundled name is also a path here; a near miss is suggested.
    """
    bundled = names()
    if name_or_path is None:
        if len(bundled) != 1:
            raise CheckpointError(f"Name a model: {len(bundled)} are bundled ({', '.join(bundled) or 'none'}).")
        return FOLDER / f"{bundled[0]}.safetensors"
    name, path = str(name_or_path), Path(name_or_path)
    if name in bundled and path.exists():
        raise CheckpointError(f"'{name}' is a bundled model and a path here; write '{path.absolute()}' for the path.")
    if name in bundled:
        return FOLDER / f"{name}.safetensors"
    if path.is_dir():
        return _weights_of_run(path)
    if path.is_file():
        return path
    raise CheckpointError(
        f"No model '{name}': it is no weight file, no run folder and no bundled model "
        f"({', '.join(bundled) or 'none is bundled'}).{_near_miss(name, path, bundled)}"
    )


def _weights_of_run(run: Path) -> Path:
    weights = run / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{run}: holds no {WEIGHTS}; finish the training (--resume), or name a weight file.")
    return weights


def _near_miss(name: str, path: Path, bundled: list[str]) -> str:
    neighbours = [other.name for other in path.parent.glob("*")] if path.parent.is_dir() else []
    for wanted, known, folder in ((name, bundled, Path()), (path.name, neighbours, path.parent)):
        if close := difflib.get_close_matches(wanted, known, n=1):
            return f" Did you mean '{folder / close[0]}'?"
    return ""
