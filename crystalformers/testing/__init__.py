"""Tests for a model of your own, which need no test framework.

`check_model`: does it behave as the base class of all models says? `invariance_report` and `assert_invariant`: do its
predictions depend on how the cell was chosen?
"""

from crystalformers.testing.contract import check_model
from crystalformers.testing.invariance import (
    ALL,
    CONTROL,
    E3,
    REFLECTION,
    SE3,
    Predict,
    Row,
    Transformation,
    assert_invariant,
    invariance_report,
    network_predictor,
    niggli,
    other_handed,
    randomly_rebased,
    rebased,
    reflected,
    reordered,
    repeated,
    rotated,
    sheared,
    strained,
    table,
    translated,
    unwrapped,
)

__all__ = [
    "ALL",
    "CONTROL",
    "E3",
    "REFLECTION",
    "SE3",
    "Predict",
    "Row",
    "Transformation",
    "assert_invariant",
    "check_model",
    "invariance_report",
    "network_predictor",
    "niggli",
    "other_handed",
    "randomly_rebased",
    "rebased",
    "reflected",
    "reordered",
    "repeated",
    "rotated",
    "sheared",
    "strained",
    "table",
    "translated",
    "unwrapped",
]
