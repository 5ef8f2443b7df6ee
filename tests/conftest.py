"""Fixtures that every test file may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

if not torch.cuda.is_available():
    # Triton reads it when it is imported: its kernels then run in NumPy, slowly, so that they are tested everywhere.
    os.environ["TRITON_INTERPRET"] = "1"

# On two busy cores the threads of PyTorch's own operations wait for each other longer than they work.
torch.set_num_threads(1)

# The same input, the same verdict. To search for new examples: pytest --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files of long tests, so that no process is left with one when the others have ended."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def _shared() -> Path:
    return Path(os.environ.get("CRYSTALFORMERS_SHARED", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of reference data and oracle outputs beside the checkout; the test says so and skips without it."""
    folder = _shared()
    if not (folder / "data").is_dir():
        pytest.skip(f"NOT TESTED: reference data not found in {folder} (set CRYSTALFORMERS_SHARED)")
    return folder
