"""A report on tables of element vectors: an HTML page, its pictures as PNG files and its numbers as JSON."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from crystalformers.elements.analysis.spaces import DRAWS
from crystalformers.elements.analysis.study import study
from crystalformers.elements.report.gallery import pictures
from crystalformers.elements.report.page import page
from crystalformers.elements.report.results import KIND, results
from crystalformers.elements.table import ElementTable
from crystalformers.errors import ConfigError
from crystalformers.extras import require

PAGE, NUMBERS = "index.html", "results.json"


def write_report(
    tables: Sequence[ElementTable],
    out_dir: str | os.PathLike[str],
    seed: int = 0,
    *,
    draws: int = DRAWS,
    n_clusters: int | None = None,
    overwrite: bool = False,
    paper: bool = False,
    progress: Callable[[str], None] = lambda step: None,
) -> Path:
    """Analyse what element vectors contain, and write a report.

    The first table is the subject; tables whose names differ from its name only in `-seedN` are its other seeds, and
    all others are for comparison. The folder appears complete or not at all.

    Args:
        tables: at least one; their names differ, and they have at least ten elements in common.
        out_dir: a new or empty folder for `index.html`, `results.json` and the pictures.
        seed: of everything random; the same tables and seed give the same files.
        draws: from each null model and bootstrap; more draws resolve smaller p-values.
        n_clusters: number of families of elements; None chooses by the silhouette.
        overwrite: whether an earlier report in `out_dir` may be replaced.
        paper: also divide the elements as the CrystalTransformer paper does, by k-means on a map of UMAP.
        progress: called with the name of each step.

    Returns:
        The path of the page.

    Raises:
        TableError: if the tables cannot be compared.
        ConfigError: if the folder holds other files, scikit-learn (for `paper` umap-learn) is missing, or `n_clusters`
            does not fit.
    """
    out = Path(out_dir)
    _check_folder(out, overwrite=overwrite)
    require("elements", "a report", "sklearn", "pymatgen", "pandas")
    require("plots", "a report", "matplotlib", "jinja2")
    found = study(tables, seed, draws, n_clusters, progress, paper=paper)
    progress("pictures")
    drawn, numbers = pictures(found), results(found)
    files = {f"{name}.png": png for name, png in drawn.items()}
    files[NUMBERS] = (json.dumps(numbers, indent=1, ensure_ascii=False) + "\n").encode()
    files[PAGE] = page(found, numbers, drawn).encode()
    _write_folder(out, files)
    return out / PAGE


def _check_folder(out: Path, *, overwrite: bool) -> None:
    if not out.exists():
        if not out.absolute().parent.is_dir():
            raise ConfigError(f"there is no folder '{out.parent}'", where=str(out), remedy="create it first")
        return
    if not out.is_dir():
        raise ConfigError("is a file", where=str(out), remedy="name a folder")
    if any(out.iterdir()) and not _is_report(out):
        raise ConfigError("holds files that are no report", where=str(out), remedy="name another folder")
    if any(out.iterdir()) and not overwrite:
        remedy = "name another folder, or replace it with --overwrite"
        raise ConfigError("holds a report", where=str(out), remedy=remedy)


def _is_report(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / NUMBERS).read_text(encoding="utf-8"))["kind"] == KIND)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_folder(out: Path, files: dict[str, bytes]) -> None:
    """Write the files into a temporary folder next to `out`, which then replaces it."""
    fresh, old = (out.absolute().with_name(f".{out.absolute().name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        fresh.mkdir()
        for name, content in files.items():
            (fresh / name).write_bytes(content)
        if out.exists():
            out.rename(old)
        fresh.rename(out)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(old, ignore_errors=True)
