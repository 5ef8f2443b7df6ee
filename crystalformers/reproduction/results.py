"""What came out: the errors of finished runs beside the published number, as a file that can be committed."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from crystalformers.errors import ConfigError
from crystalformers.files import write_atomically

RESULT = "result.json"
COMMITTED = Path(__file__).with_name("results")
"""Results that come with the package: the file of each row, `MODEL--SET--PROPERTY.json`."""


@dataclass(frozen=True)
class Result:
    """Errors of several runs that differ in their seeds.

    Attributes:
        name: of the published number.
        published: that number.
        unit: of all errors.
        split: that they are of.
        weights: what they were measured with.
        errors: seed -> mean absolute error.
        n: crystals of the split.
        follows_authors: whether training followed the authors' also where this library differs on purpose.
        changes: settings in which the recipe differs from that of the paper; empty for a full reproduction.
        data: name of the table, and its fingerprint.
        environment: versions and machine.
    """

    name: str
    published: float
    unit: str
    split: str
    weights: str
    errors: Mapping[int, float]
    n: int
    follows_authors: bool
    changes: Mapping[str, Any]
    data: Mapping[str, str]
    environment: Mapping[str, Any]

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.errors.values())

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds; None for a single one."""
        return statistics.stdev(self.errors.values()) if len(self.errors) > 1 else None

    def describe(self) -> str:
        """Mean and spread with unit and number of seeds, e.g. `0.0301 ± 0.0002 eV/atom (3 seeds)`."""
        spread = "" if self.spread is None else f" ± {self.spread:.2g}"
        seeds = f"{len(self.errors)} seed{'s' if len(self.errors) > 1 else ''}"
        return f"{self.mean:.4g}{spread} {self.unit} ({seeds}{', changed recipe' if self.changes else ''})"

    def write(self, folder: Path) -> Path:
        """Write `result.json` into a folder, which is created if need be; its path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / RESULT
        content = {**asdict(self), "mean": self.mean, "spread": self.spread}
        write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
        return path


def read_result(path: Path) -> Result | None:
    """The result in a file; None if there is no such file.

    Raises:
        ConfigError: if the file holds something else.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        errors = {int(seed): float(error) for seed, error in content["errors"].items()}
        names = [name for name in Result.__dataclass_fields__ if name != "errors"]
        return Result(errors=errors, **{name: content[name] for name in names})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        problem = f"is no result of a reproduction ({type(error).__name__}: {error})"
        raise ConfigError(problem, where=str(path), remedy="delete it") from error


@cache
def committed(name: str) -> Result | None:
    """The result that comes with the package for a published number, if it was run."""
    return read_result(COMMITTED / f"{name.replace('/', '--')}.json")
