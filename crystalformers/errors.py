"""Errors that a user can act on: one sentence that names the file or row and the remedy."""

from __future__ import annotations

from typing import Self


class CrystalformersError(Exception):
    """Base of every error this library raises on purpose; the command line prints it without a traceback.

    Its text is `where: problem; remedy.`, without what is not given.

    Attributes:
        problem: what is wrong.
        where: the file, row, structure or setting that it is about.
        remedy: what to do about it.
    """

    def __init__(self, problem: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(problem)
        self.problem, self.where, self.remedy = problem, where, remedy

    def __str__(self) -> str:
        return sentence(self.problem, self.where, self.remedy)

    @classmethod
    def within(cls, where: object, error: CrystalformersError) -> Self:
        """The same problem as an error of this class; `where`, for example a file, comes before the place it names."""
        place = f"{where}: {error.where}" if error.where else str(where)
        return cls(error.problem, where=place, remedy=error.remedy)


def sentence(problem: str, where: str = "", remedy: str = "") -> str:
    """`where: problem; remedy.`, without what is empty."""
    text = f"{where}: {problem}" if where else problem
    text = f"{text.removesuffix('.')}; {remedy}" if remedy else text
    return text if text.endswith((".", "?", "!")) else f"{text}."


class StructureError(CrystalformersError, ValueError):
    """A structure cannot be used: disorder, unknown element, missing lattice, overlapping atoms, NaN."""


class TableError(CrystalformersError, ValueError):
    """A table cannot be used: missing column, wrong type, no rows."""


class TargetError(CrystalformersError, ValueError):
    """A target cannot be learned or a unit does not fit."""


class CheckpointError(CrystalformersError, ValueError):
    """A weight file cannot be used: truncated, of another architecture, unknown or missing tensors."""


class BatchMemoryError(CrystalformersError):
    """A batch does not fit into memory."""


class DomainError(CrystalformersError, ValueError):
    """A crystal is outside the range of the training data, where a model has learned nothing."""


class ConfigError(CrystalformersError, ValueError):
    """A setting is unknown, out of range or contradicts another."""


class InUseError(ConfigError):
    """Another process has the file or folder locked."""


class DataSetError(CrystalformersError, ValueError):
    """A public data set is unknown, cannot be fetched, or is not what was published."""
