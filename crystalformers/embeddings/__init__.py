"""One vector per element: tables made here and by others, and the files that other libraries read.

>>> from crystalformers.embeddings import load_elements
>>> load_elements("one-hot")["Fe"].shape
(100,)
"""

from __future__ import annotations

from crystalformers.embeddings.library import load_elements
from crystalformers.embeddings.table import ElementTable

__all__ = ["ElementTable", "load_elements"]
