"""The page on reading files of strangers states the limits that the code has."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "security.md").read_text(encoding="utf-8")
LIMITS = re.findall(r"\| (\S+) \| `([\w.]+)\.([A-Z_]+)` \|", PAGE)


def test_the_table_has_limits() -> None:
    assert len(LIMITS) >= 7


@pytest.mark.parametrize(("value", "module", "name"), LIMITS)
def test_a_limit_is_the_one_in_the_code(value: str, module: str, name: str) -> None:
    assert float(value) == getattr(importlib.import_module(module), name)


def test_the_commands_exist() -> None:
    commands = re.findall(r"python (tests/\S+)", PAGE)
    assert commands
    assert all((Path(__file__).parents[1] / command).is_file() for command in commands)
