"""Tables of element vectors.

This module needs NumPy and safetensors only, so that a table opens quickly. Shapes: E elements, D width of a vector.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crystalformers.errors import TableError
from crystalformers.html import html_table
from crystalformers.periodic import ELEMENTS, element_number, named

Vectors = NDArray[np.float32]
Integers = NDArray[np.int64]
Fill = Literal["raise", "zero", "mean"]
"""For an element without a vector: raise an error, use zeros, or use the mean of all vectors."""

HEADER_KEY = "crystalformers"
KIND = "element table"
FORMAT = 1


@dataclass(frozen=True, eq=False)
class ElementTable:
    """One vector per element; an element that never occurred in training is not in the table.

    It works like a mapping: ``table["Fe"]`` or ``table[26]``, ``"Fe" in table``, ``for symbol in table``.

    Attributes:
        name: for messages and results.
        numbers: atomic numbers, (E,), ascending.
        vectors: (E, D) float32.
        counts: number of training crystals that contain each element, (E,), at least 1; None for a table that was not
            trained.
        metadata: JSON values, for example training set, targets with units, split, seed, licence and citation.

    Raises:
        TableError: if shapes do not fit, an element is unknown or occurs twice, a vector is not finite or a count is
            below 1.
    """

    name: str
    numbers: Integers
    vectors: Vectors
    counts: Integers | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = np.asarray(self.numbers, dtype=np.int64)
        with np.errstate(over="ignore"):  # numbers too large for float32 become infinite, which `_check` refuses
            vectors = np.asarray(self.vectors, dtype=np.float32)
        if numbers.ndim != 1 or not numbers.size:
            raise TableError("the table holds no elements", where=self.name)
        if vectors.ndim != 2 or not vectors.shape[1] or len(vectors) != len(numbers):
            raise TableError(f"{len(numbers)} elements do not fit vectors of shape {vectors.shape}", where=self.name)
        order = np.argsort(numbers, kind="stable")
        counts = None if self.counts is None else np.asarray(self.counts, dtype=np.int64)
        if counts is not None and counts.shape != numbers.shape:
            raise TableError(f"{len(numbers)} elements do not fit counts of shape {counts.shape}", where=self.name)
        object.__setattr__(self, "numbers", numbers[order])
        object.__setattr__(self, "vectors", np.ascontiguousarray(vectors[order]))
        object.__setattr__(self, "counts", None if counts is None else counts[order])
        self._check()

    def _check(self) -> None:
        for number in self.numbers:
            element_number(int(number), self.name)
        twice = self.numbers[1:][np.diff(self.numbers) == 0]
        if twice.size:
            raise TableError(f"{named(twice)} occurs twice", where=self.name, remedy="keep one vector per element")
        bad = ~np.isfinite(self.vectors).all(axis=1)
        if bad.any():
            raise TableError(f"the vector of {named(self.numbers[bad])} holds NaN or infinite numbers", where=self.name)
        if self.counts is not None and (self.counts < 1).any():
            unseen = named(self.numbers[self.counts < 1])
            raise TableError(
                f"{unseen} was never seen in training and has no vector", where=self.name, remedy="leave it out"
            )

    @classmethod
    def of(cls, name: str, vectors: Mapping[str, ArrayLike], metadata: dict[str, Any] | None = None) -> ElementTable:
        """A table from a mapping of symbols to vectors.

        Raises:
            TableError: as the class, and if a vector has another length than the first.
        """
        rows = {symbol: np.asarray(vector, dtype=np.float32) for symbol, vector in vectors.items()}
        for symbol, row in rows.items():
            first, length = next((s, v.shape) for s, v in rows.items())
            if row.ndim != 1 or row.shape != length:
                raise TableError(f"the vector of {symbol} has shape {row.shape}, that of {first} {length}", where=name)
        numbers = np.array([element_number(symbol, name) for symbol in rows], dtype=np.int64)
        return cls(name, numbers, np.array(list(rows.values()), dtype=np.float32), None, metadata or {})

    def __repr__(self) -> str:
        return f"ElementTable({self.name}: {len(self)} elements, dim {self.dim})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the first elements."""
        counts = self.counts_by_symbol or {}
        rows = [
            (symbol, counts.get(symbol, "-"), ", ".join(f"{number:.3f}" for number in vector[:4]) + ", ...")
            for symbol, vector in zip(self.symbols[:6], self.vectors, strict=False)
        ]
        about = f"{len(self)} elements, {self.dim} numbers each; the first {len(rows)}:"
        return html_table(self.name, about, ("element", "training crystals", "vector"), rows)

    @property
    def dim(self) -> int:
        """Width D of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def symbols(self) -> tuple[str, ...]:
        """Chemical symbols, in order of atomic number."""
        return tuple(ELEMENTS[number - 1] for number in self.numbers)

    @property
    def counts_by_symbol(self) -> dict[str, int] | None:
        """Number of training crystals with each element; None for a table that was not trained."""
        return None if self.counts is None else dict(zip(self.symbols, self.counts.tolist(), strict=True))

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self.symbols)

    def __contains__(self, element: object) -> bool:
        return element in self.symbols if isinstance(element, str) else element in self.numbers

    def __getitem__(self, element: str | int) -> Vectors:
        """The vector of one element, (D,).

        Raises:
            TableError: if it has none.
        """
        return self.rows([element_number(element, self.name)])[0]

    def rows(self, numbers: ArrayLike) -> Vectors:
        """Vectors of the elements with these atomic numbers, (n, D).

        Raises:
            TableError: naming the elements without a vector.
        """
        wanted = np.asarray(numbers, dtype=np.int64)
        place = np.searchsorted(self.numbers, wanted).clip(max=len(self) - 1)
        missing = np.unique(wanted[self.numbers[place] != wanted])
        for number in missing:
            element_number(int(number), self.name)
        if missing.size:
            known = f"its {len(self)} elements are {', '.join(self.symbols)}"
            raise TableError(f"has no vector for {named(missing)}; {known}", where=self.name)
        return self.vectors[place]

    def known(self, max_z: int = 100) -> NDArray[np.bool_]:
        """Which of the elements 1 to `max_z` have a vector, (max_z,)."""
        return np.isin(np.arange(1, max_z + 1), self.numbers)

    def dense(self, fill: Fill = "raise", max_z: int = 100) -> Vectors:
        """Vectors of the elements 1 to `max_z`, (max_z, D); row Z - 1 belongs to atomic number Z.

        Raises:
            TableError: naming the elements without a vector, if `fill` is `raise`.
        """
        known = self.known(max_z)
        if fill == "raise":
            return self.rows(np.arange(1, max_z + 1))
        dense = np.zeros((max_z, self.dim), dtype=np.float32)
        dense[:] = self.vectors.mean(axis=0) if fill == "mean" else 0
        dense[known] = self.vectors[self.numbers <= max_z]
        return dense

    def completed(self, numbers: Sequence[int], fill: Fill = "raise") -> ElementTable:
        """A table of exactly these elements, without counts; `metadata["filled"]` names those that were filled in.

        Raises:
            TableError: naming the elements without a vector, if `fill` is `raise`.
        """
        missing = sorted(set(numbers) - set(self.numbers.tolist()))
        if missing and fill == "raise":
            raise TableError(f"has no vector for {named(missing)}", where=self.name, remedy="fill with mean or zero")
        wanted = np.unique(np.asarray(numbers, dtype=np.int64))
        vectors = self.dense("mean" if fill == "raise" else fill, len(ELEMENTS))[wanted - 1]
        metadata = {**self.metadata, "filled": [ELEMENTS[number - 1] for number in missing]}
        return ElementTable(self.name, wanted, vectors, None, metadata)

    def standardised(self) -> ElementTable:
        """The table with mean 0 and standard deviation 1 in every column; constant columns become 0."""
        vectors = self.vectors.astype(np.float64)
        std = vectors.std(axis=0)
        return self._with((vectors - vectors.mean(axis=0)) / np.where(std > 1e-7 * abs(vectors).max(), std, np.inf))

    def reduced(self, dim: int) -> ElementTable:
        """The first `dim` principal components of the vectors, not rescaled, largest variance first.

        The sign of each component is fixed: the largest entry of its direction is positive.

        Raises:
            TableError: if there are fewer than `dim` components.
        """
        largest = min(self.dim, len(self) - 1)
        if not 1 <= dim <= largest:
            problem = f"cannot be reduced to {dim} dimensions"
            raise TableError(problem, where=self.name, remedy=f"choose 1 to {largest}")
        vectors = self.vectors.astype(np.float64)
        vectors -= vectors.mean(axis=0)
        directions = np.linalg.svd(vectors, full_matrices=False)[2][:dim]
        largest_entry = np.take_along_axis(directions, abs(directions).argmax(axis=1)[:, None], axis=1)
        return self._with(vectors @ (directions * np.sign(largest_entry)).T)

    def _with(self, vectors: NDArray[Any]) -> ElementTable:
        return replace(self, vectors=vectors.astype(np.float32))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file with name and metadata in its header; it appears complete or not at all."""
        from crystalformers.files import write_atomically

        write_atomically(Path(path), self.to_bytes())

    def to_bytes(self) -> bytes:
        """Content of the file that `save` writes."""
        from safetensors.numpy import save

        tensors: dict[str, NDArray[Any]] = {"numbers": self.numbers, "vectors": self.vectors}
        if self.counts is not None:
            tensors["counts"] = self.counts
        header = {"kind": KIND, "format": FORMAT, "name": self.name, "metadata": self.metadata}
        return save(tensors, {HEADER_KEY: json.dumps(header, sort_keys=True)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ElementTable:
        """Read a file written by `save`.

        Raises:
            TableError: if the file is absent or of another kind, or the class or `check_distinct` refuses its content.
        """
        from safetensors import safe_open

        path = Path(path)
        header = read_header(path)
        if header.get("kind") != KIND or header.get("format") != FORMAT:
            raise TableError("a safetensors file, but not a table of elements that this version reads", where=str(path))
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if not tensors.keys() >= {"numbers", "vectors"}:
            problem = "the tensors 'numbers' and 'vectors' are not both there"
            raise TableError(problem, where=str(path), remedy="save the table again")
        try:
            table = cls(
                header["name"], tensors["numbers"], tensors["vectors"], tensors.get("counts"), header["metadata"]
            )
            return check_distinct(table)
        except TableError as error:
            raise TableError.within(path, error) from error
        except (KeyError, TypeError, AttributeError) as error:
            problem = f"not as `save` writes a table ({error!r})"
            raise TableError(problem, where=str(path), remedy="save the table again") from error


def read_header(path: Path) -> dict[str, Any]:
    """What this library wrote into the header of a safetensors file; empty if the file is from elsewhere.

    Raises:
        TableError: if the file is absent or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise TableError("there is no such table of elements", where=str(path))
    try:
        with safe_open(path, "numpy") as file:
            header = json.loads((file.metadata() or {}).get(HEADER_KEY, "{}"))
    except (SafetensorError, json.JSONDecodeError) as error:
        problem = f"not a readable safetensors file ({error})"
        raise TableError(problem, where=str(path), remedy="copy it again") from error
    return header if isinstance(header, dict) else {}


def check_distinct(table: ElementTable) -> ElementTable:
    """Return the table if all its vectors differ: equal ones are usually a copied row or a placeholder.

    Two elements may have the same vector in a table of zeros and ones, where they belong to the same classes (as in
    CGCNN's features), and in a table with `shared_vectors` in its metadata.

    Raises:
        TableError: naming two elements with the same vector.
    """
    vectors = table.vectors
    if table.metadata.get("shared_vectors") or np.isin(vectors, (0, 1)).all():
        return table
    _, first, inverse = np.unique(vectors, axis=0, return_index=True, return_inverse=True)
    twins = np.flatnonzero(first[inverse] != np.arange(len(table)))
    if twins.size:
        one, other = table.symbols[first[inverse[twins[0]]]], table.symbols[twins[0]]
        problem = f"{one} and {other} have the same vector"
        raise TableError(problem, where=table.name, remedy="correct one, or leave it out")
    return table
