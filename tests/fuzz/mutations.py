"""Inputs that are almost right: structure files of every format and recipes, changed in ways that have broken readers.

Everything follows from a seed: `mutant(kind, seed)` is always the same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from archives import changed_tar, changed_zip
from originals import originals, parquet

Change = Callable[[bytes, random.Random], bytes]

NUMBERS = (
    *("0", "-0", "-1", "1", "2", "3.5", "1e-300", "1e-12", "1e15", "1e16", "1e100", "1e308", "-1e308", "1e400", "nan"),
    *("inf", "-inf", ".", "?", "", "²", "٣", "0x10", "1_000", "1e", "--1", "1.2.3", "1(2)", "1000000000", "1" * 400),
    *("9" * 5000, "0." + "3" * 400, "1/3", "1/0", "99999999999999999999", "-2147483649", "True", "None", "\0"),
)
"""What takes the place of a number."""

WORDS = ("", "?", ".", "Xx", "D", "T", "Na+", "na", "Og", "Zz1", "É", "\ud800".encode("utf-16", "surrogatepass").hex())
"""What takes the place of a word."""

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 5, 1e308, -1e308, 1e16, float("nan"), float("inf"), 10**30, 10**400, "", "x", "1"),
    *([], {}, [[]], [None], {"a": None}, [1e308] * 3, "\ud800", "\0", "²", [[0, 0, 0]] * 3, [[1, 0, 0]] * 1000),
)
"""What takes the place of a value in JSON."""

YAML = (
    *(
        "&a [*a]",
        "&a {x: *a}",
        "*unknown",
        "!!python/object/apply:os.system ['true']",
        "!!binary x",
        "2026-13-45",
        "{}",
    ),
    *("[" * 2000, "{a: " * 2000, "'", '"', "|", ">", "%YAML 9", "---", "<<: 1", "? []", ".inf", "1:2:3", "0o9", "~"),
    "[" + ", ".join(["&a0 [1, 2]", *(f"&a{k} [{', '.join([f'*a{k - 1}'] * 9)}]" for k in range(1, 10))]) + "]",
)
"""What takes the place of a setting in a recipe."""

NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?")


def mutant(kind: str, seed: int) -> bytes:
    """The changed file that belongs to a seed; of one in fifty nothing is changed."""
    rng = random.Random(f"{kind} {seed}")
    data = rng.choice(originals(kind))
    if rng.random() < 0.02:
        return data
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        data = rng.choice(MUTATIONS[kind])(data, rng)
    return data


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Flip, drop, double, insert or cut."""
    if not data:
        return data
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((1, 1, 2, 8, 64, 1024)))
    changes = (
        lambda: data[:start] + bytes([data[start] ^ (1 << rng.randrange(8))]) + data[start + 1 :],
        lambda: data[:start] + data[stop:],
        lambda: data[:stop] + data[start:],
        lambda: data[:start] + rng.randbytes(rng.choice((1, 4, 100))) + data[start:],
        lambda: data[:start],
        lambda: data[:start] + bytes(stop - start) + data[stop:],
    )
    return rng.choice(changes)()


def _text(change: Callable[[str, random.Random], str]) -> Change:
    def changed(data: bytes, rng: random.Random) -> bytes:
        return change(data.decode("utf-8", "surrogateescape"), rng).encode("utf-8", "surrogateescape")

    return changed


def _number(text: str, rng: random.Random) -> str:
    """Another number, or something that is none, in the place of one."""
    found = list(NUMBER.finditer(text))
    if not found:
        return text
    match = rng.choice(found)
    return text[: match.start()] + rng.choice(NUMBERS) + text[match.end() :]


def _word(text: str, rng: random.Random) -> str:
    words = list(re.finditer(r"\S+", text))
    if not words:
        return text
    match, other = rng.choice(words), rng.choice(words)
    return text[: match.start()] + rng.choice((*WORDS, other.group())) + text[match.end() :]


def _line(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    k, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[k]
        case 1:
            lines.insert(j, lines[k])
        case 2:
            lines[k], lines[j] = lines[j], lines[k]
        case 3:
            lines[k : k + 1] = [lines[k]] * rng.choice((10, 1000))
        case _:
            lines[k] = lines[k] * rng.choice((2, 50))
    return "\n".join(lines)


def _unpacked(data: bytes, rng: random.Random) -> bytes:
    """Change the text inside of a gzip file, or add much more of it than its size tells."""
    if len(data) > len(_million_lines()):  # it holds too much to be changed
        return _bytes(data, rng)
    try:
        text = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):  # what was changed before may be no gzip file any more
        return _bytes(data, rng)
    if rng.random() < 0.2:
        return data + _million_lines() * rng.choice((1, 10, 150))
    return gzip.compress(rng.choice(TEXT)(text, rng), mtime=0)


def _setting(text: str, rng: random.Random) -> str:
    """Something else as the value of a setting of a recipe, or under a name of its own."""
    found = list(re.finditer(r"(?<=: ).+", text))
    if not found or rng.random() < 0.1:
        return f"{text}\n{rng.choice(WORDS)}: {rng.choice(YAML)}\n"
    match = rng.choice(found)
    return text[: match.start()] + rng.choice((*YAML, *NUMBERS, *WORDS)) + text[match.end() :]


@lru_cache
def _million_lines() -> bytes:
    return gzip.compress(b"\n" * 10**6, mtime=0)


def _json_value(data: bytes, rng: random.Random) -> bytes:
    """Change one line of JSON at one node; also nesting far too deep, and numbers far too long."""
    lines = data.split(b"\n")
    k = rng.randrange(len(lines))
    try:
        tree = json.loads(lines[k])
    except (ValueError, RecursionError):
        return _bytes(data, rng)
    nodes = list(_nodes(tree))
    if not nodes:
        return data
    parent, key = rng.choice(nodes)
    match rng.randrange(8):
        case 0:
            del parent[key]
        case 1:
            parent[key] = [parent[key]]
        case 2 if isinstance(parent, list):
            parent.insert(key, parent[key])
        case 3:
            other, place = rng.choice(nodes)
            parent[key] = other[place] if not _holds(other[place], parent) else None
        case 4:
            text = json.dumps("MARK")
            parent[key] = "MARK"
            depth = rng.choice((50, 2000, 100_000))
            lines[k] = json.dumps(tree).replace(text, "[" * depth + "]" * depth).encode()
            return b"\n".join(lines)
        case 5:
            parent[key] = "MARK"
            lines[k] = (
                json.dumps(tree).replace('"MARK"', rng.choice(("1" * 5000, "1e999999", "-" + "9" * 310))).encode()
            )
            return b"\n".join(lines)
        case _:
            parent[key] = rng.choice(VALUES)
    lines[k] = json.dumps(tree).encode("utf-8", "surrogatepass")
    return b"\n".join(lines)


def _nodes(tree: Any, depth: int = 0) -> Any:
    """Container and key of every node."""
    if depth > 50:
        return
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield tree, key
        yield from _nodes(value, depth + 1)


def _holds(tree: Any, container: Any) -> bool:
    return tree is container or any(parent is container for parent, _ in _nodes(tree))


def _parquet_value(data: bytes, rng: random.Random) -> bytes:
    """Change one value, or the type of one column."""
    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    except Exception:  # what was changed before may be no table any more
        return _bytes(data, rng)
    name = rng.choice(list(rows[0])) if rows else ""
    if not name:
        return _bytes(data, rng)
    match rng.randrange(4):
        case 0:
            for row in rows:
                row.pop(name)
        case 1:
            value = rng.choice(("x", 1, 1.5, None, [], [[1.0]], b"\xff\xfe", True))
            for row in rows:
                row[name] = value
        case 2:
            rng.choice(rows)[name] = None
        case _:
            row = rng.choice(rows)
            if isinstance(row[name], list) and row[name]:
                k = rng.randrange(len(row[name]))
                extreme = rng.choice((float("nan"), float("inf"), 1e308, 1e15, -1e300, 0.0, 1e-300))
                row[name][k] = type(row[name][k])(0) if isinstance(row[name][k], int) else extreme
            elif isinstance(row[name], str):
                row[name] = rng.choice(("", "\0", "x" * 100_000, rows[0][name]))
    try:
        return parquet(rows)
    except (pa.ArrowException, OverflowError):
        return _bytes(data, rng)


def _gzipped(change: Change) -> Change:
    """The same change of what a gzip file holds, of a tenth of them of the file itself."""

    def changed(data: bytes, rng: random.Random) -> bytes:
        try:
            content = b"" if rng.random() < 0.1 else gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            content = b""
        return gzip.compress(change(content, rng), mtime=0) if content else _bytes(data, rng)

    return changed


TEXT = (_text(_number), _text(_number), _text(_word), _text(_line), _bytes)

MUTATIONS: dict[str, tuple[Change, ...]] = {
    "cif": TEXT,
    "cif.gz": (_unpacked, _unpacked, _unpacked, _bytes),
    "poscar": TEXT,
    "extxyz": TEXT,
    "json": (_json_value, _json_value, _json_value, *TEXT),
    "csv": TEXT,
    "jsonl": (_json_value, _json_value, _json_value, *TEXT),
    "parquet": (_parquet_value, _parquet_value, _bytes),
    "optimade": (_parquet_value, _parquet_value, _bytes),
    "zip": (changed_zip(TEXT[0]), changed_zip(_text(_line)), changed_zip(_bytes), _bytes),
    "tar": (changed_tar(TEXT[0]), changed_tar(_text(_line)), changed_tar(_bytes), _bytes),
    "tar.gz": (_gzipped(changed_tar(TEXT[0])), _gzipped(changed_tar(_bytes)), _gzipped(_bytes), _bytes),
    "recipe": (_text(_setting), _text(_setting), *TEXT),
}
"""How files of each kind are changed."""
