"""Element vectors: tables learned here and published by others, and files of them for other libraries.

>>> from crystalformers.elements import load_elements
>>> load_elements("one-hot")["Fe"].shape
(100,)
"""

from __future__ import annotations

from crystalformers.elements.library import load_elements
from crystalformers.elements.table import ElementTable

__all__ = ["ElementTable", "load_elements"]
