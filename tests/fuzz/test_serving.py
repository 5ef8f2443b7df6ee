"""A small attack on the HTTP service; `python tests/fuzz/serving.py` makes larger ones."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from serving import attack


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: memory and folders of Linux")
def test_hostile_requests_are_answered() -> None:
    found = attack(80, seed=10_001)
    assert found.findings == {}
    assert {"200", "422"} <= found.statuses.keys()
