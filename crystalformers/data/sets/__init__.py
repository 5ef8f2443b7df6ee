"""Public data sets by name: fetched, checked, converted to tables of this library, and split as published."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from crystalformers.data.sets.catalogue import SETS, find
from crystalformers.data.sets.entry import DataSet, Label
from crystalformers.data.sets.store import NAME, Store
from crystalformers.errors import DataSetError

__all__ = ["SETS", "DataSet", "Label", "Located", "Store", "find", "locate", "resolve"]


@dataclass(frozen=True)
class Located:
    """A table, and what it says of its labels.

    Attributes:
        path: of the table.
        labels: its labels with their units and bases; empty for tables that do not say.
        splits: names of its splits besides the default one.
    """

    path: Path
    labels: dict[str, Label]
    splits: tuple[str, ...]

    def split_for(self, targets: Sequence[str]) -> str:
        """Name of the split to train these targets with: that published for a lone target, else the default, empty."""
        return targets[0] if len(targets) == 1 and targets[0] in self.splits else ""


def locate(name_or_path: str | Path) -> Path:
    """The table of a path, or of a data set that has been fetched.

    A file comes before a data set of the same name. What is neither comes back as a path.

    Raises:
        DataSetError: if a data set is meant that has not been fetched, or whose name is misspelt.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.is_file() or not NAME.fullmatch(name):
        return path
    store = Store()
    if store.about(name) is not None:
        return store.table(name)
    if name in SETS:
        raise DataSetError("this data set is not here", where=name, remedy=f"run 'crystalformers data get {name}'")
    if difflib.get_close_matches(name, SETS, n=1):
        find(name)
    return path


def resolve(name_or_path: str | Path) -> Located:
    """The table of a path or data set, with units, bases and splits as far as it states them.

    Raises:
        DataSetError: if the data set is known and has not been fetched.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = locate(name_or_path)
    try:
        schema = pq.read_schema(path)
    except (OSError, pa.ArrowException):  # no Parquet: opening the table will tell what is wrong, if anything is
        return Located(path, {}, ())
    labels = {}
    for field in schema:
        about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
        if "unit" in about and "basis" in about:
            labels[field.name] = Label(field.name, about["unit"], about["basis"], about.get("source_column", ""))
    splits = [name.removeprefix("split_") for name in schema.names if name.startswith("split_")]
    return Located(path, labels, tuple(splits))
