"""Tests for a model of your own, which need no test framework.

`check_model`: does it behave as the base class of all models says? `invariance_report` and `assert_invariant`: do its
predictions depend on how the cell was chosen?
"""

from crystalformers.testing.contract import check_model
from crystalformers.testing.invariance import *  # noqa: F403 - what its __all__ lists
from crystalformers.testing.invariance import __all__ as _invariance

__all__ = ["check_model", *_invariance]  # noqa: PLE0604
