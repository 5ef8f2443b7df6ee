"""Tables in pages of the documentation that scripts compute from committed results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import ROOT
from crystalformers.files import write_atomically

DOCS = ROOT / "docs"


@dataclass(frozen=True)
class ComputedTable:
    """A part of a page between two marks, comments that readers do not see.

    Attributes:
        page: the file in docs.
        name: of the table, in the marks.
        script: that computes it, from the folder benchmarks.
    """

    page: str
    name: str
    script: str

    @property
    def path(self) -> Path:
        """The page."""
        return DOCS / self.page

    @property
    def begin(self) -> str:
        """The mark before it."""
        return f"<!-- {self.name}: computed by benchmarks/{self.script} -->\n"

    @property
    def end(self) -> str:
        """The mark after it."""
        return f"<!-- end of {self.name} -->"

    def read(self) -> str:
        """What is there now.

        Raises:
            ValueError: if the page lacks a mark or has it twice.
        """
        return self._parts()[1]

    def write(self, text: str) -> None:
        """Replace it."""
        before, _, after = self._parts()
        write_atomically(self.path, (before + self.begin + text + self.end + after).encode())

    def _parts(self) -> tuple[str, str, str]:
        text = self.path.read_text(encoding="utf-8")
        if text.count(self.begin) != 1 or text.count(self.end) != 1:
            raise ValueError(f"{self.page} must have the marks {self.begin.strip()} and {self.end} once.")
        before, rest = text.split(self.begin)
        content, after = rest.split(self.end)
        return before, content, after
