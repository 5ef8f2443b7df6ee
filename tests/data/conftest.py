"""Fixtures of the tests of tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from table_files import WRITERS, Row


@pytest.fixture(params=WRITERS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[list[Row]], Path]:
    """Writes rows as Parquet, then as JSON lines."""
    return lambda rows: WRITERS[request.param](tmp_path / request.param, rows)
