"""What stands in the place of a structure that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rejected:
    """A structure that cannot be used.

    Attributes:
        name: what the structure is called: its file, `file#block` or its id in a table.
        reason: one sentence that names the file or row and the remedy.
    """

    name: str
    reason: str
