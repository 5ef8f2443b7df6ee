"""The tables of the papers: what was published, how to train it again, and what came out here."""

from __future__ import annotations

from crystalformers.reproduction.catalogue import Published, find, published
from crystalformers.reproduction.results import Result, committed, read_result
from crystalformers.reproduction.runs import plan, reproduce

__all__ = ["Published", "Result", "committed", "find", "plan", "published", "read_result", "reproduce"]
