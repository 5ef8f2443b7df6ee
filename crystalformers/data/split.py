"""The parts of a table: what is trained on, what decides when to stop, what is tested on."""

from __future__ import annotations

SPLITS = ("train", "val", "test")

SPLIT_COLUMN = "split"
"""Column of a table that says to which part each row belongs."""

SPLIT_NAMES = {name: name for name in SPLITS} | {"valid": "val", "validation": "val", "training": "train"}
"""Values that the column may hold, in any case, and what they mean."""
