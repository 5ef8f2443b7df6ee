"""File formats of element vectors: those of other libraries and our own.

| format | file | for |
|---|---|---|
| `cgcnn`, `alignn` | JSON, "1" to "100" -> vector | CGCNN and its forks; jarvis-tools and with it ALIGNN |
| `json` | JSON, symbol -> vector | aviary (Roost, Wren), ElementEmbeddings |
| `csv` | CSV, header element,0,1,... | ElementEmbeddings, CBFV |
| `crabnet` | the same CSV with 118 rows in order of Z | CrabNet and others that drop the symbols and count rows |
| `matgl` | safetensors, rows in the order of matgl's elements | `matgl.into_matgl` |
| `parquet`, `npz`, `safetensors` | with counts and metadata | pandas and others; numpy; this library |

Numbers in text files have the fewest digits that give the same float32 when read back.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.elements import matgl
from crystalformers.elements.table import ElementTable, check_distinct, read_header
from crystalformers.errors import TableError
from crystalformers.periodic import ELEMENTS

ATOM_INIT_ELEMENTS = 100
"""CGCNN's atom_init.json has the elements H to Fm; its readers expect all of them."""


@dataclass(frozen=True)
class Format:
    """How a table is written.

    Attributes:
        suffix: of the file.
        numbers: atomic numbers of all elements that readers expect; None for those of the table.
        write: gives the content of the file.
    """

    suffix: str
    numbers: tuple[int, ...] | None
    write: Callable[[ElementTable], bytes]


def _shortest(row: NDArray[np.float32]) -> list[float]:
    """Numbers with the fewest decimal digits that give the same float32 when read back."""
    return [float(str(value)) for value in row]


def write_json(table: ElementTable, keys: Iterable[object]) -> bytes:
    """One line per element: its key, symbol or atomic number, and its vector."""
    rows = (
        f"{json.dumps(str(key))}: {json.dumps(_shortest(row))}" for key, row in zip(keys, table.vectors, strict=True)
    )
    return ("{\n" + ",\n".join(rows) + "\n}\n").encode()


def write_csv(table: ElementTable) -> bytes:
    """One row per element, symbol first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["element", *range(table.dim)])
    writer.writerows([symbol, *_shortest(row)] for symbol, row in zip(table.symbols, table.vectors, strict=True))
    return text.getvalue().encode()


def write_npz(table: ElementTable) -> bytes:
    """Arrays numbers, symbols, vectors, counts (if known), and a JSON text `about`."""
    arrays: dict[str, NDArray[Any]] = {
        "numbers": table.numbers,
        "symbols": np.array(table.symbols),
        "vectors": table.vectors,
        "about": np.array(_about(table)),
    }
    if table.counts is not None:
        arrays["counts"] = table.counts
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type] # NumPy declares allow_pickle as one of the keywords
    return content.getvalue()


def write_parquet(table: ElementTable) -> bytes:
    """Columns symbol, atomic_number, count, vector; name and metadata as JSON in the metadata of the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "symbol": pa.array(table.symbols),
        "atomic_number": pa.array(table.numbers),
        "count": pa.nulls(len(table), pa.int64()) if table.counts is None else pa.array(table.counts),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(table.vectors.reshape(-1)), table.dim),
    }
    content = io.BytesIO()
    pq.write_table(pa.table(columns).replace_schema_metadata({"crystalformers": _about(table)}), content)
    return content.getvalue()


def _about(table: ElementTable) -> str:
    return json.dumps({"name": table.name, "metadata": table.metadata}, sort_keys=True)


ALL, ATOM_INIT = tuple(range(1, len(ELEMENTS) + 1)), tuple(range(1, ATOM_INIT_ELEMENTS + 1))
FORMATS = {
    **dict.fromkeys(("cgcnn", "alignn"), Format(".json", ATOM_INIT, lambda table: write_json(table, table.numbers))),
    "json": Format(".json", None, lambda table: write_json(table, table.symbols)),
    "csv": Format(".csv", None, write_csv),
    "crabnet": Format(".csv", ALL, write_csv),
    "matgl": Format(".safetensors", matgl.NUMBERS, matgl.write),
    "parquet": Format(".parquet", None, write_parquet),
    "npz": Format(".npz", None, write_npz),
    "safetensors": Format(".safetensors", None, ElementTable.to_bytes),
}
"""Every format that `export` writes; `read` reads all of them."""


def read(path: Path) -> ElementTable:
    """A table from a file of any format; its name is in the file, or else the name of the file.

    Raises:
        TableError: naming the file, and the element that is unknown, occurs twice, or whose vector has another length
            than the others or is not made of finite numbers.
    """
    readers: dict[str, Callable[[Path], ElementTable]] = {
        ".safetensors": _read_safetensors,
        ".json": _of_text,
        ".csv": _of_text,
        ".npz": _read_npz,
        ".parquet": _read_parquet,
    }
    if path.suffix not in readers:
        remedy = f"known suffixes are {', '.join(readers)}"
        raise TableError("not a table of elements by its name", where=str(path), remedy=remedy)
    if not path.is_file():
        raise TableError("there is no such table of elements", where=str(path))
    try:
        return check_distinct(readers[path.suffix](path))
    except TableError as error:
        if error.where.startswith(str(path)):
            raise
        raise TableError.within(path, error) from error


def _read_safetensors(path: Path) -> ElementTable:
    """A table written by `ElementTable.save` or `matgl.write`, or that of a trained model."""
    header = read_header(path)
    if header.get("kind") == matgl.KIND:
        return matgl.read(path)
    if "architecture" in header:
        from crystalformers.elements.trained import from_model

        return from_model(path)
    return ElementTable.load(path)


def _of_text(path: Path) -> ElementTable:
    return ElementTable.of(path.stem, vectors_of_text(path))


def vectors_of_text(path: Path) -> dict[str, NDArray[np.float64]]:
    """Symbol -> vector, from a JSON or CSV file; symbols are not checked.

    Raises:
        TableError: if the file cannot be read, names an element twice or has anything but numbers in a vector.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        pairs = _csv_pairs(text) if path.suffix == ".csv" else _json_pairs(text)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise TableError(f"cannot be read ({error})", where=str(path), remedy="copy it again") from error
    except TableError as error:
        raise TableError.within(path, error) from error
    vectors: dict[str, NDArray[np.float64]] = {}
    for symbol, values in pairs:
        if symbol in vectors:
            raise TableError(f"{symbol} occurs twice", where=str(path), remedy="keep one vector per element")
        try:
            vectors[symbol] = np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise TableError(f"the vector of {symbol} holds something that is no number", where=str(path)) from None
    return vectors


def _json_pairs(text: str) -> list[tuple[str, Any]]:
    pairs = json.loads(text, object_pairs_hook=tuple)
    if not isinstance(pairs, tuple) or not pairs:
        problem = 'not an object {"element": [numbers], ...}'
        raise TableError(problem, remedy="write symbols, or atomic numbers as CGCNN does")
    numbered = all(key.isdecimal() and 1 <= int(key) <= len(ELEMENTS) for key, _ in pairs)
    return [(ELEMENTS[int(key) - 1] if numbered else key, values) for key, values in pairs]


def _csv_pairs(text: str) -> list[tuple[str, Any]]:
    rows = [row for row in csv.reader(io.StringIO(text)) if row]
    if not rows or rows[0][0] != "element":
        raise TableError("the first line must be 'element,0,1,...', then one line per element, its symbol first")
    for row in rows[1:]:
        if len(row) != len(rows[0]):
            raise TableError(f"the vector of {row[0]} has {len(row) - 1} numbers, the header {len(rows[0]) - 1}")
        if "" in row:
            raise TableError(f"the vector of {row[0]} lacks a number in column '{rows[0][row.index('')]}'")
    return [(row[0], row[1:]) for row in rows[1:]]


def _read_npz(path: Path) -> ElementTable:
    try:
        with np.load(path) as file:
            about = json.loads(str(file["about"])) if "about" in file else {}
            counts = file.get("counts")
            return _described(path, about, file["numbers"], file["vectors"], counts)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, TableError):
            raise
        remedy = "it needs the arrays 'numbers' and 'vectors'"
        raise TableError(f"cannot be read ({error})", where=str(path), remedy=remedy) from error


def _read_parquet(path: Path) -> ElementTable:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_table(path)
        numbers, count = columns["atomic_number"].to_numpy(), columns["count"]
        vectors = np.array(columns["vector"].to_pylist(), dtype=np.float64)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        remedy = "it needs the columns 'atomic_number', 'count' and 'vector'"
        raise TableError(f"cannot be read ({error})", where=str(path), remedy=remedy) from error
    about = json.loads((columns.schema.metadata or {}).get(b"crystalformers", b"{}"))
    return _described(path, about, numbers, vectors, None if count.null_count else count.to_numpy())


def _described(path: Path, about: dict[str, Any], numbers: Any, vectors: Any, counts: Any) -> ElementTable:
    return ElementTable(about.get("name", path.stem), numbers, vectors, counts, about.get("metadata", {}))
