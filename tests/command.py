"""The command line in the process of a test, and what it leaves behind."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from crystalformers.cli import app


def invoke(*arguments: object) -> Any:
    """Result of a command; what is not an exit is a bug and raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def leftovers(folder: Path) -> list[str]:
    """Files no user asked for."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in {".tmp", ".partial", ".lock"})


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
