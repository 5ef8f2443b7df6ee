"""Hostile requests to the HTTP service. Everything follows from a seed: `request(seed, secret)` is always the same."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from mutations import mutant
from originals import FILENAME

GOOD = {"name": "CsCl.poscar", "text": "CsCl\n4.123\n1 0 0\n0 1 0\n0 0 1\nCs Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"}
PATHS = ("/api/predict", "/api/embed", "/api/explain", "/api/search")
KINDS = {
    "changed file": 55.0,
    "name": 10,
    "table of names": 5,
    "bomb": 0.5,
    "1 GB": 0.5,
    "types": 14,
    "cut body": 5,
    "path": 5,
    "atoms": 5,
}
"""What is wrong with requests, and the shares of those in percent."""

FILES = sorted(kind for kind, name in FILENAME.items() if not name.endswith(".yaml"))
NAMES = (
    *("../../../etc/passwd", "/etc/hosts.cif", "a\0b.cif", "C:\\x.cif", "..", "x" * 999, "POSCAR/..", "晶.cif", "~"),
    *("a\nb", "con", "file:///etc/passwd", "%2e%2e/x.cif", "-o", "$(id).cif", "x.cif/", "\u202efic.x", "x.cif\r\n"),
)
IDS = (
    "{secret}",
    "../{stem}",
    "./{stem}",
    "{stem}",
    "..\\{stem}",
    "file://{secret}",
    "/etc/passwd",
    "~",
    "\\\\host\\x",
)
"""What a table may name in place of a file beside it."""

ODD: tuple[Any, ...] = (None, -1, 1e308, 10**40, "", "\ud800", [], {}, True, "\0", [[[]]], {"text": 1}, "x" * 10**6)
ODD_PATHS = (
    *("/api/elements/%00", "/api/elements?table=../../x", "/static/../app.py", "/static/%2e%2e/app.py", "//", "/api"),
    *("/static//etc/passwd", "/static/..%2f..%2fapp.py", "/static/%2fetc%2fpasswd", "/api/elements/..", "/%"),
)
GIB = 1 << 30


@dataclass(frozen=True)
class Hostile:
    """A request.

    Attributes:
        kind: what is wrong with it, one of `KINDS`.
        method: of HTTP.
        path: with its query.
        body: its bytes, or parts of them that are sent as long as the server reads.
        good: whether its last structure is right and must get its answer.
        headers: besides the type of the body.
    """

    kind: str
    method: str
    path: str
    body: bytes | Iterator[bytes]
    good: bool
    headers: dict[str, str]


@lru_cache
def bombs() -> tuple[tuple[str, bytes], ...]:
    """Names and contents of small files that unpack to much, or nest deeply."""
    text = gzip.compress(b"data_x\n" + b"# \n" * 30_000_000, mtime=0)
    names = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), pa.array(["data_x\n" + "#" * 1_000_000]))
    table = io.BytesIO()
    pq.write_table(pa.table({"id": names, "cif": names}), table, store_schema=False)
    return (
        *((f"x.{suffix}.gz", text) for suffix in ("cif", "jsonl", "extxyz", "csv", "json")),
        ("x.cif.gz", gzip.compress(text, mtime=0)),
        ("x.parquet", table.getvalue()),  # 100 GB of text
        ("x.json", b"[" * 1_000_000),
        ("x.jsonl", b'{"a":' * 200_000),
    )


def encoded(name: str, data: bytes) -> dict[str, str]:
    """A file as an entry of a request."""
    return {"name": name, "base64": base64.b64encode(data).decode()}


def request(seed: int, secret: Path) -> Hostile:
    """The request of a seed; `secret` is a structure file of the server that none must read."""
    rng = random.Random(seed)
    [kind] = rng.choices(list(KINDS), list(KINDS.values()))
    if kind == "path":
        return Hostile(kind, rng.choice(("GET", "PUT", "DELETE", "POST")), rng.choice(ODD_PATHS), b"", False, {})
    path = rng.choice(PATHS)
    if kind == "1 GB":
        parts = (b" " * (1 << 16) for _ in range(GIB >> 16))
        announced = {"Content-Length": str(GIB)} if rng.random() < 0.5 else {"Transfer-Encoding": "chunked"}
        return Hostile(kind, "POST", path, parts, False, announced)
    field = "structure" if path == "/api/explain" else "structures"
    entry = _entry(kind, rng, secret)
    content: dict[str, Any] = {field: entry if field == "structure" else [entry, GOOD]}
    if kind == "types":
        wrong = (field, "coverage", "atom", "block", "model", "per_atom", "threshold", "count")
        content[rng.choice(wrong)] = rng.choice(ODD)
    data = json.dumps(content).encode()
    if kind == "cut body":
        return Hostile(kind, "POST", path, data[: rng.randrange(len(data))], False, {})
    return Hostile(kind, "POST", path, data, kind != "types" and field == "structures", {})


def _entry(kind: str, rng: random.Random, secret: Path) -> dict[str, Any]:
    """A structure of a request, wrong in that way; a right one if something else is wrong."""
    if kind == "changed file":
        file = rng.choice(FILES)
        return encoded(FILENAME[file], mutant(file, rng.randrange(10**6))[: 1 << 20])
    if kind == "name":
        name = rng.choice((*NAMES, str(secret), f"../{secret.name}"))
        return {**GOOD, "name": name + rng.choice(("", ".cif", ".csv", ".gz"))}
    if kind == "table of names":
        names = [one.format(secret=secret, stem=secret.stem) for one in rng.sample(IDS, 3)]
        rows = [name + rng.choice(("", secret.suffix)) for name in names]
        return {"name": "x.csv", "text": "id,energy\n" + "".join(f"{row},1\n" for row in rows)}
    if kind == "bomb":
        return encoded(*rng.choice(bombs()))
    if kind == "atoms":
        lattice = [[rng.choice((0, 1e-9, 3, 1e9, -4)) for _ in range(3)] for _ in range(3)]
        symbols = [rng.choice(("H", "Xx", "U", "", "Cf")) for _ in range(rng.randrange(4))]
        coordinates = [[rng.uniform(-2, 2), rng.choice((0, 1e300)), 0.5] for _ in range(rng.randrange(4))]
        return {"atoms": {"symbols": symbols, "frac_coords": coordinates, "lattice": lattice}}
    return GOOD
