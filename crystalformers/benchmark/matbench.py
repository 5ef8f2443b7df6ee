"""Results in the file format of Matbench (Dunn et al., npj Comput. Mater. 6, 138, 2020), to be read by its package.

A file holds, for each fold of a task, the prediction of every test row by its id, free parameters, and four scores; a
SHA-256 of everything else guards it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from crystalformers.benchmark.folds import FoldResults
from crystalformers.errors import ConfigError
from crystalformers.files import replacing

BENCHMARK = "matbench_v0.1"
VERSION = "0.6"
N_FOLDS = 5

SMALLEST_LABEL = 1e-5
"""Labels nearer to zero are left out of the mean absolute percentage error."""


def write_matbench(path: Path, task: str, results: FoldResults, about: Mapping[str, Any]) -> None:
    """Write the mean over seeds of every fold.

    Args:
        path: JSON file.
        task: such as matbench_phonons.
        results: of all five folds.
        about: free text or numbers on the algorithm, by name.

    Raises:
        ConfigError: if a fold is missing.
    """
    means = results.means()
    missing = sorted(set(range(N_FOLDS)) - set(means))
    if missing:
        raise ConfigError(f"fold {missing[0]} is missing", where=task, remedy="run all folds")
    folds = {
        f"fold_{fold}": {"data": _data(rows), "parameters": {}, "scores": _scores(rows)} for fold, rows in means.items()
    }
    content: dict[str, Any] = {
        "@module": "matbench.bench",
        "@class": "MatbenchBenchmark",
        "version": VERSION,
        "benchmark_name": BENCHMARK,
        "user_metadata": dict(about),
        "datestamp": datetime.now(UTC).strftime("%Y.%m.%d %H:%M.%S"),
        "tasks": {
            task: {
                "@module": "matbench.task",
                "@class": "MatbenchTask",
                "benchmark_name": BENCHMARK,
                "dataset_name": task,
                "results": folds,
            }
        },
    }
    content = _sorted(content)
    content["hash"] = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")


def _data(rows: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    return {name: prediction for name, (_, prediction) in rows.items()}


def _scores(rows: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    labels, predictions = np.array(list(rows.values())).T
    off, large = np.abs(predictions - labels), np.abs(labels) > SMALLEST_LABEL
    return {
        "mae": float(off.mean()),
        "rmse": float(np.sqrt((off**2).mean())),
        "mape": float((off[large] / np.abs(labels[large])).mean()),
        "max_error": float(off.max()),
    }


def _sorted(tree: Any) -> Any:
    """The same with the keys of all mappings in order, from which the hash is computed."""
    return {name: _sorted(tree[name]) for name in sorted(tree)} if isinstance(tree, dict) else tree
