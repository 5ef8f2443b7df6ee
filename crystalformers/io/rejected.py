"""What is returned in place of a structure that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass

from crystalformers.errors import CrystalformersError, StructureError, sentence


@dataclass(frozen=True)
class Rejected:
    """A structure that cannot be used.

    Attributes:
        name: what the structure is called: its file, `file#block` or its id in a table.
        problem: what is wrong with it.
        where: the file and row that hold it, as far as known.
        remedy: what to do about it.
    """

    name: str
    problem: str
    where: str = ""
    remedy: str = ""

    @classmethod
    def of(cls, name: str, error: CrystalformersError) -> Rejected:
        """What an error says about the structure of this name."""
        return cls(name, error.problem, error.where, error.remedy)

    def error(self) -> StructureError:
        """The same as an exception, for callers who need this one structure."""
        return StructureError(self.problem, where=self.where, remedy=self.remedy)

    @property
    def reason(self) -> str:
        """One sentence that names the file or row, if it is known, and the remedy."""
        return sentence(self.problem, self.where, self.remedy)

    def __str__(self) -> str:
        return self.reason if self.where else f"{self.name}: {self.reason}"
