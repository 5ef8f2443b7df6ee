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
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crystalformers.io import read_crystal
from crystalformers.training.recipe import Recipe

EXAMPLES = Path(__file__).parents[2] / "examples"

RECIPES = Path(__file__).parents[2] / "recipes"

NAMED = tuple(EXAMPLES / f"{name}.cif" for name in ("NaCl", "Si", "ZnO", "Al2O3"))
"""The files that a CSV names."""

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


# --- seeds: right files ---


@lru_cache
def originals(kind: str) -> tuple[bytes, ...]:
    """Right files of a kind, which mutations start from."""
    cifs = sorted(EXAMPLES.glob("*.cif"))
    crystals = [read_crystal(path) for path in cifs]
    texts = [path.read_bytes() for path in cifs]
    rows = [_row(crystal, k) for k, crystal in enumerate(crystals)]
    lines = [json.dumps(row) for row in rows]
    files: dict[str, Callable[[], tuple[bytes, ...]]] = {
        "cif": lambda: (*texts, *(text.encode() for text in _symmetric_cifs())),
        "cif.gz": lambda: tuple(gzip.compress(text, mtime=0) for text in texts),
        "poscar": lambda: (
            *(_poscar(crystal).encode() for crystal in crystals),
            *(_old_poscar(crystal).encode() for crystal in crystals),
        ),
        "extxyz": lambda: tuple(_extxyz(crystal).encode() for crystal in crystals),
        "json": lambda: (
            *(json.dumps(_pymatgen(crystal)).encode() for crystal in crystals),
            *(_ase(crystal).encode() for crystal in crystals),
        ),
        "csv": lambda: ("\n".join(["id,energy", *(f"{path.stem},{k / 10}" for k, path in enumerate(NAMED))]).encode(),),
        "jsonl": lambda: ("\n".join(lines).encode(), "\n".join(lines[:2]).encode()),
        "parquet": lambda: (_parquet(rows),),
        "recipe": lambda: (
            *(path.read_bytes() for path in sorted(RECIPES.glob("*.yaml"))),
            Recipe().to_yaml().encode(),
            Recipe.parse({"preset": "crystalframer", "exclude": [{"table": "x.csv"}]}).to_yaml().encode(),
        ),
    }
    return files[kind]()


def _poscar(crystal: Any) -> str:
    order = np.argsort(crystal.numbers, kind="stable")
    symbols = [crystal.symbols[k] for k in order]
    distinct = list(dict.fromkeys(symbols))
    rows = ["example", "1.0", *(" ".join(f"{x:.9f}" for x in row) for row in crystal.lattice), " ".join(distinct)]
    rows += [" ".join(str(symbols.count(symbol)) for symbol in distinct), "Direct"]
    return "\n".join(rows + [" ".join(f"{x:.9f}" for x in crystal.frac_coords[k]) for k in order]) + "\n"


def _old_poscar(crystal: Any) -> str:
    """A file of VASP 4, whose elements are in its first line, with flags and Cartesian positions."""
    rows = _poscar(crystal).split("\n")
    lattice = np.array([row.split() for row in rows[2:5]], dtype=float)
    positions = np.array([row.split() for row in rows[8:-1]], dtype=float) @ lattice
    body = [" ".join(f"{x:.9f}" for x in position) + " T T F" for position in positions]
    return "\n".join([rows[5], *rows[1:5], rows[6], "Selective dynamics", "Cartesian", *body]) + "\n"


def _symmetric_cifs() -> Iterator[str]:
    """Files in which symmetry acts: zinc oxide by the name of its space group, rock salt by its operations."""
    for symbols, cell, group, sites in (
        ("Zn O", (3.25, 3.25, 5.2, 90, 90, 120), "P 63 m c", ("0.333 0.667 0", "0.3333 0.6667 0.375")),
        ("Na Cl", (5.64, 5.64, 5.64, 90, 90, 90), "F m -3 m", ("0 0 0", "0.5 0.5 0.5")),
    ):
        names = [f"length_{x}" for x in "abc"] + [f"angle_{x}" for x in ("alpha", "beta", "gamma")]
        rows = ["data_x", *(f"_cell_{name} {number}" for name, number in zip(names, cell, strict=True))]
        rows += [f"_chemical_formula_sum '{symbols}'", f"_cell_formula_units_Z {2 if 'Zn' in symbols else 4}"]
        rows += [f"_space_group_name_H-M_alt '{group}'"]
        operations = [f"'{op.triplet()}'" for op in gemmi.find_spacegroup_by_name(group).operations()]
        columns = ["label", "type_symbol", *(f"fract_{x}" for x in "xyz"), "occupancy", "calc_flag"]
        table = ["loop_", *(f"_atom_site_{column}" for column in columns)]
        table += [f"{s}1 {s}2+ {site} 1.0 d" for s, site in zip(symbols.split(), sites, strict=True)]
        yield "\n".join([*rows, *table, ""])
        yield "\n".join([*rows, "loop_", "_space_group_symop_operation_xyz", *operations, *table, ""])


def _ase(crystal: Any) -> str:
    from ase import Atoms
    from ase.io.jsonio import encode

    return str(encode(Atoms(crystal.numbers, positions=crystal.positions, cell=crystal.lattice, pbc=True)))


def _extxyz(crystal: Any) -> str:
    lattice = " ".join(f"{x:.9f}" for x in crystal.lattice.ravel())
    head = f'Lattice="{lattice}" Properties=species:S:1:pos:R:3 pbc="T T T"'
    atoms = zip(crystal.symbols, crystal.positions, strict=True)
    return "\n".join(
        [str(len(crystal)), head, *(f"{s} " + " ".join(f"{x:.9f}" for x in position) for s, position in atoms)]
    )


def _pymatgen(crystal: Any) -> dict[str, Any]:
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": frac.tolist(), "label": symbol}
        for symbol, frac in zip(crystal.symbols, crystal.frac_coords, strict=True)
    ]
    return {
        "@module": "pymatgen.core.structure",
        "@class": "Structure",
        "lattice": {"matrix": crystal.lattice.tolist(), "pbc": [True, True, True]},
        "sites": sites,
    }


def _row(crystal: Any, k: int) -> dict[str, Any]:
    return {
        "id": f"x{k}",
        "atomic_numbers": crystal.numbers.tolist(),
        "lattice": crystal.lattice.ravel().tolist(),
        "frac_coords": crystal.frac_coords.ravel().tolist(),
        "energy": 0.1 * k,
    }


def _parquet(rows: list[dict[str, Any]]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


# --- mutations ---


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


def _text(change: Callable[[str, random.Random], str]) -> Callable[[bytes, random.Random], bytes]:
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
        return _parquet(rows)
    except (pa.ArrowException, OverflowError):
        return _bytes(data, rng)


TEXT = (_text(_number), _text(_number), _text(_word), _text(_line), _bytes)

MUTATIONS: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    "cif": TEXT,
    "cif.gz": (_unpacked, _unpacked, _unpacked, _bytes),
    "poscar": TEXT,
    "extxyz": TEXT,
    "json": (_json_value, _json_value, _json_value, *TEXT),
    "csv": TEXT,
    "jsonl": (_json_value, _json_value, _json_value, *TEXT),
    "parquet": (_parquet_value, _parquet_value, _bytes),
    "recipe": (_text(_setting), _text(_setting), *TEXT),
}
"""How files of each kind are changed."""

FILENAME = {
    "cif": "x.cif",
    "cif.gz": "x.cif.gz",
    "poscar": "POSCAR",
    "extxyz": "x.extxyz",
    "json": "x.json",
    "csv": "x.csv",
    "jsonl": "x.jsonl",
    "parquet": "x.parquet",
    "recipe": "x.yaml",
}
