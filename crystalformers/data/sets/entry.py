"""What the library knows of a public data set: one `DataSet` each, listed in `catalogue`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from crystalformers.crystal import Crystal
from crystalformers.data.sets.splits import Split
from crystalformers.errors import DataSetError
from crystalformers.target import Basis


class SourceFileError(DataSetError):
    """A source file is damaged, or is not the file that was expected; it is deleted."""


@dataclass(frozen=True)
class Label:
    """A column of labels.

    Attributes:
        name: of the column in the converted table.
        unit: of its values; empty where the source does not state one.
        basis: as in `Target`.
        column: what the source calls it; empty for the same name.
    """

    name: str
    unit: str
    basis: Basis = "intensive"
    column: str = ""

    @property
    def source_column(self) -> str:
        """The name of the column in the source."""
        return self.column or self.name


@dataclass(frozen=True)
class Row:
    """One row of a source, in the order of its files.

    Attributes:
        name: its id.
        crystal: builds the structure, or raises StructureError.
        values: the columns of the source, unconverted.
        part: train, val or test where the source comes divided into these, else empty.
    """

    name: str
    crystal: Callable[[], Crystal]
    values: Mapping[str, Any]
    part: str = ""


@dataclass(frozen=True)
class RemoteFile:
    """A file that is published for download.

    Attributes:
        name: what it is called here.
        addresses: where it can be had, tried in this order.
        form: zip, gzip, pickle or parquet; its first bytes are checked for it.
        sha256: published hash, 64 hexadecimal digits, if there is one.
        size: published size in bytes, if there is one.
    """

    name: str
    addresses: tuple[str, ...]
    form: str
    sha256: str | None = None
    size: int | None = None


@dataclass(frozen=True)
class SourceFile:
    """A source file in the folder of a set, with its hash and the address it came from."""

    path: Path
    sha256: str
    address: str


@dataclass(frozen=True)
class Request:
    """What a source is asked to put into a folder.

    Attributes:
        folder: where its files go.
        given: files fetched by other means, to be taken instead of downloading.
        recorded: file name -> SHA-256 recorded when the set was first fetched.
        trusted: hashes that the user accepts; they take precedence over published and recorded ones.
        say: called with each message for the user, one sentence.
        report: called with the file, the bytes (or rows) done so far, and their total if that is known.
    """

    folder: Path
    given: tuple[Path, ...] = ()
    recorded: Mapping[str, str] = field(default_factory=dict)
    trusted: frozenset[str] = frozenset()
    say: Callable[[str], None] = lambda _: None
    report: Callable[[str, int, int | None], None] = lambda *_: None


class Source(Protocol):
    """Where a set comes from."""

    @property
    def host(self) -> str:
        """Where it is fetched from, in a few words."""

    @property
    def pinned(self) -> bool:
        """Whether the files never change, so that a later download must meet the hashes of the first."""

    def fetch(self, request: Request) -> list[SourceFile]:
        """Put the files into the folder of the request; raises DataSetError if that fails."""


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        name: what users type.
        title: what it is, in a few words.
        labels: its columns of labels.
        source: where it comes from.
        read: the rows of its source files, streamed; raises SourceFileError where a file is broken.
        rows: published number of rows, if there is one; a source with another number is refused.
        splits: its published splits. The one without a name fills the column `split`, others `split_NAME`.
        licence: as its publisher states it.
        notes: what a user should know.
    """

    name: str
    title: str
    labels: tuple[Label, ...]
    source: Source
    read: Callable[[Sequence[Path]], Iterator[Row]]
    rows: int | None = None
    splits: tuple[Split, ...] = ()
    licence: str = "see source"
    notes: str = ""
