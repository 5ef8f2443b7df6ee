"""A row of predictions and the forms it takes: pandas frame, CSV, Parquet, JSON, printed table.

`columns` describes a table of predictions once, and every form is made from it. To add a column:

1. give `Prediction` a field for it, a dictionary by target like `values` where each target has its own;
2. add an entry to `columns` whose path leads there.

Units are in the headers of frames, CSV and printed tables, in the metadata of Parquet fields and at the head of JSON.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from crystalformers.crystal import Crystal
from crystalformers.extras import optional
from crystalformers.files import replacing
from crystalformers.html import html_crystal, html_table
from crystalformers.io import Rejected

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


@dataclass(frozen=True)
class Prediction:
    """What a model says about one structure.

    Attributes:
        name: name of the structure (file name, id of the row).
        formula: reduced formula.
        n_atoms: atoms of the cell as given; values of `per_cell` targets belong to this cell.
        values: physical value of each target, by its name.
        units: unit of each target, by its name.
        flag: why the structure is unlike the training data of the model; empty if it is not.
        std: standard deviation over the members of an ensemble, by target; empty for a single model.
        low: lower end of the interval of each target that has one.
        high: upper end.
        distance_percentile: how many percent of held-out crystals are nearer to the training crystals; None if that is
            not known.
        crystal: what was predicted, for notebooks to draw; not written to files, and None in a row that was read.
    """

    name: str
    formula: str
    n_atoms: int
    values: dict[str, float]
    units: dict[str, str]
    flag: str = ""
    std: dict[str, float] = field(default_factory=dict)
    low: dict[str, float] = field(default_factory=dict)
    high: dict[str, float] = field(default_factory=dict)
    distance_percentile: float | None = None
    crystal: Crystal | None = field(default=None, compare=False, repr=False)

    def _repr_html_(self) -> str:
        """What a notebook shows: a table, and the crystal in 3D."""
        shown = [column for column in columns(self.units, _doubt_of(self)) if column.title]
        record = as_json(self)
        cells = [column.text(record, 4) for column in shown]
        table = html_table(self.formula, "", [column.title for column in shown], [cells])
        one = self.crystal
        return table if one is None else table + html_crystal(one.symbols, one.frac_coords, one.lattice)


def _doubt_of(row: Prediction) -> dict[str, list[str]]:
    """What is known of the doubt about each target of a single prediction; see `Doubt`."""
    known = {target: [kind for kind in ("std", "low", "high") if target in getattr(row, kind)] for target in row.units}
    return known | ({} if row.distance_percentile is None else {"": ["distance_percentile"]})


Row = Prediction | Rejected

Doubt = Mapping[str, Sequence[str]]
"""What is known of the doubt about each target: some of `std`, `low` and `high`, fields of `Prediction`.

Under the empty name is what is known about the structure itself: `distance_percentile`.
"""


@dataclass(frozen=True)
class Column:
    """One column of a table of predictions.

    Attributes:
        name: its name in Parquet.
        type: the Arrow type of its values.
        path: the keys under which `as_json` of a row holds the value.
        unit: unit of the values; empty if they have none.
        title: header on the terminal; empty if the column is not printed there.
    """

    name: str
    type: Literal["string", "int64", "float64"]
    path: tuple[str, ...]
    unit: str = ""
    title: str = ""

    @property
    def header(self) -> str:
        """Its name in frames and CSV."""
        return header(self.name, self.unit)

    def value(self, row: dict[str, Any]) -> Any:
        """The value in a row as `as_json` gives it; None if the row has none."""
        value: Any = row
        for key in self.path:
            value = value.get(key)
            if value is None:
                return None
        return value

    def text(self, row: dict[str, Any], digits: int) -> str:
        """The value as text, a number to that many significant digits; empty if the row has none."""
        value = self.value(row)
        if value is None:
            return ""
        return f"{value:.{digits}g}" if self.type == "float64" else str(value)


def header(name: str, unit: str) -> str:
    """Name and unit of a quantity, `band_gap (eV)`; the name alone if it has no unit."""
    return f"{name} ({unit})" if unit else name


def columns(units: Mapping[str, str], doubt: Doubt | None = None) -> list[Column]:
    """The columns of a table of predictions, in order.

    Args:
        units: unit of each target, by its name.
        doubt: of the targets that have any.
    """
    doubt = doubt or {}
    return [
        Column("name", "string", ("name",), title="structure"),
        Column("formula", "string", ("formula",), title="formula"),
        Column("n_atoms", "int64", ("n_atoms",), title="atoms"),
        *(column for target, unit in units.items() for column in _of_target(target, unit, doubt.get(target, ()))),
        *(Column(kind, "float64", (kind,), title="percentile") for kind in doubt.get("", ())),
        Column("flag", "string", ("flag",), title="flag"),
        Column("error", "string", ("error",)),
    ]


def _of_target(target: str, unit: str, kinds: Sequence[str]) -> Iterator[Column]:
    yield Column(target, "float64", ("values", target), unit, title=header(target, unit))
    for kind in kinds:
        yield Column(f"{target}_{kind}", "float64", (kind, target), unit, title=kind)


def written_fields(row: Row) -> dict[str, Any]:
    """The fields of a row that files hold: all but the crystal, and the units, which are at their head."""
    return {name: value for name, value in vars(row).items() if name not in {"units", "crystal"}}


def as_json(row: Row) -> dict[str, Any]:
    """The fields of a prediction without the units; name and error of a rejected structure."""
    if isinstance(row, Rejected):
        return {"name": row.name, "error": row.reason}
    return {name: value for name, value in written_fields(row).items() if value not in ({}, "", None)}


def predictions_frame(
    rows: Sequence[Row], units: Mapping[str, str], doubt: Doubt | None = None, *, report: bool = False
) -> pd.DataFrame:
    """The rows as a pandas frame; with `report` it has the column `error`, empty where there is none."""
    with optional("pandas", "a frame"):
        import pandas as pd

    shown = [column for column in columns(units, doubt) if report or column.name != "error"]
    records = [
        {"flag": "", "error": ""}
        | {column.header: value for column in shown if (value := column.value(row)) is not None}
        for row in map(as_json, rows)
    ]
    frame = pd.DataFrame(records, columns=[column.header for column in shown]).astype({"n_atoms": "Int64"})
    frame.attrs["units"] = dict(units)
    return frame


def write_predictions(path: Path, about: dict[str, Any], windows: Iterable[Sequence[Row]]) -> None:
    """Write rows in input order; the form follows from the suffix of `path`, one of `WRITERS`.

    .csv      units in the headers, numbers to 7 digits
    .parquet  the unit in the metadata of a column, `about` in that of the file
    .json     the object `about` with a list `predictions`

    Args:
        path: the file; an older one is replaced when all rows are written.
        about: how the predictions were made (models, tolerance...); `about["units"]` has the unit of each target,
            `about["doubt"]`, if it is there, what is known of the doubt about them.
        windows: the rows in parts; Parquet has a row group for each.
    """
    with replacing(path) as temporary:
        WRITERS[path.suffix](temporary, about, windows)


def _write_csv(path: Path, about: dict[str, Any], windows: Iterable[Sequence[Row]]) -> None:
    shown = columns(about["units"], about.get("doubt"))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(column.header for column in shown)
        writer.writerows([column.text(row, 7) for column in shown] for row in _records(windows))


def _write_json(path: Path, about: dict[str, Any], windows: Iterable[Sequence[Row]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(about, indent=1)[:-2] + ',\n "predictions": [')
        for index, row in enumerate(_records(windows)):
            file.write((",\n  " if index else "\n  ") + json.dumps(row))
        file.write("\n ]\n}\n")


def _write_parquet(path: Path, about: dict[str, Any], windows: Iterable[Sequence[Row]]) -> None:
    import pyarrow.parquet as pq

    shown = columns(about["units"], about.get("doubt"))
    schema = arrow_schema(shown, about)
    with pq.ParquetWriter(path, schema) as writer:
        for window in windows:
            writer.write_table(arrow_table(window, shown, schema))


def arrow_schema(shown: Sequence[Column], about: dict[str, Any]) -> pa.Schema:
    """The columns with their units, and `about` in the metadata."""
    import pyarrow as pa

    fields = [
        pa.field(column.name, pa.type_for_alias(column.type), metadata={"unit": column.unit} if column.unit else None)
        for column in shown
    ]
    return pa.schema(fields, metadata={"crystalformers": json.dumps(about)})


def arrow_table(rows: Iterable[Row], shown: Sequence[Column], schema: pa.Schema) -> pa.Table:
    """Rows as an Arrow table with the columns of `arrow_schema`."""
    import pyarrow as pa

    records = list(map(as_json, rows))
    return pa.table([[column.value(record) for record in records] for column in shown], schema=schema)


def _records(windows: Iterable[Sequence[Row]]) -> Iterator[dict[str, Any]]:
    return (as_json(row) for window in windows for row in window)


WRITERS: dict[str, Callable[[Path, dict[str, Any], Iterable[Sequence[Row]]], None]] = {
    ".csv": _write_csv,
    ".parquet": _write_parquet,
    ".json": _write_json,
}
"""How a file of predictions is written, by its suffix."""
