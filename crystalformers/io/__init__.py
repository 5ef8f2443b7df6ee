"""Structures in: files, directories, tables and foreign objects become crystals, or a sentence says why not."""

from crystalformers.io.composition import formula
from crystalformers.io.files import as_crystal, read_crystal
from crystalformers.io.overlap import check
from crystalformers.io.rejected import Rejected
from crystalformers.io.stream import count_structures, read_structures

__all__ = [
    "Rejected",
    "as_crystal",
    "check",
    "count_structures",
    "formula",
    "read_crystal",
    "read_structures",
]
