"""POSCAR and CONTCAR files of VASP, formats 4 to 6."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io.composition import atomic_number
from crystalformers.io.overlap import check
from crystalformers.io.text import excerpt, read_text
from crystalformers.periodic import ATOMIC_NUMBERS

_SUFFIX = re.compile(r"[_/.]")
"""What separates a chemical symbol from the kind of its potential, as in `Na_pv`."""


def read_poscar_file(path: Path, species: Sequence[str] = ()) -> Iterator[Crystal]:
    """The one crystal of a POSCAR; raises StructureError."""
    text = read_text(path, errors="replace")
    yield check(read_poscar(text, str(path), species, path.with_name("POTCAR")))


@np.errstate(over="ignore", invalid="ignore")  # what overflows is refused as not finite
def read_poscar(text: str, name: str, species: Sequence[str] = (), potcar: Path | None = None) -> Crystal:
    """The crystal of a POSCAR.

    VASP 4 files name no elements. Then the elements are, in this order, those behind the coordinates, if each of
    these lines ends in a chemical symbol; those of the comment line, if it consists of exactly one symbol for each
    count; those of `species`; those of the POTCAR. Otherwise the file is refused.

    Args:
        text: content of the file.
        name: what to call the crystal, and the file in messages.
        species: chemical symbols for files that name no elements, one for each count.
        potcar: the POTCAR that belongs to the file; it need not exist.

    Raises:
        StructureError: naming the line that cannot be read and the remedy.
    """
    lines = text.splitlines()
    if len(lines) < 8:
        raise StructureError(f"a POSCAR needs at least 8 lines, this file has {len(lines)}", where=name)
    lattice = _lattice(lines[1:5], name)
    words = re.split(r"[!#]", lines[5])[0].split()
    named = not all(word.isdecimal() for word in words)
    counts = _counts(lines[6 if named else 5], name)
    n_atoms = int(sum(counts))
    rest = lines[7 if named else 6 :]
    selective = rest[0].strip()[:1].upper() == "S" if rest else False
    mode = (rest[1] if selective else rest[0]).strip()[:1].upper() if len(rest) > selective else ""
    if mode not in {"D", "C", "K"}:
        raise StructureError(
            "found neither 'Direct' nor 'Cartesian' after the atom counts", where=name, remedy="add that line"
        )
    body = rest[2 if selective else 1 :]
    coordinates = _coordinates(body, n_atoms, name)
    if not named:
        words = _species_behind(body[:n_atoms], counts, selective, name) or _species_above(lines[0], counts)
        words = words or list(species) or _species_of_potcar(potcar)
    if not words:
        raise StructureError(
            "the file names no elements (VASP 4 format)",
            where=name,
            remedy="add a line of element symbols above the counts, or name them with --species",
        )
    if len(words) != len(counts):
        raise StructureError(
            f"{len(words)} element symbols but {len(counts)} atom counts",
            where=name,
            remedy="give one count for each symbol",
        )
    numbers = np.repeat([atomic_number(_SUFFIX.split(word)[0], name) for word in words], counts)
    if mode == "D":
        return Crystal(numbers, coordinates, lattice, name)
    return Crystal.from_positions(numbers, coordinates * _scale(lines[1:5], name), lattice, name)


def _numbers(line: str, n: int, name: str, what: str) -> list[float]:
    """The first `n` numbers of a line (Fortran's `1.0D0` included)."""
    try:
        values = [float(word.replace("D", "E").replace("d", "e")) for word in line.split()[:n]]
    except ValueError:
        values = []
    if len(values) < n:
        raise StructureError(
            f"{what} '{excerpt(line)}' does not hold {n} numbers", where=name, remedy="correct that line"
        )
    return values


def _scale(lines: Sequence[str], name: str) -> NDArray[np.float64]:
    """Factors for x, y and z, (3,): one number, three, or a negative one that states the volume in Å³."""
    n = min(3, len(re.split(r"[!#]", lines[0])[0].split()))
    factors = np.array(_numbers(lines[0], 3 if n == 3 else 1, name, "the scaling factor"))
    finite = np.isfinite(factors).all()
    if finite and (factors > 0).all():
        return np.broadcast_to(factors, 3)
    if not finite or len(factors) == 3 or factors[0] == 0:
        raise StructureError(
            f"the scaling factor '{excerpt(lines[0])}' must be positive, or one negative number for the cell volume",
            where=name,
        )
    volume = abs(np.linalg.det([_numbers(line, 3, name, "the lattice vector") for line in lines[1:]]))
    if volume == 0:
        raise StructureError("the cell has no volume", where=name, remedy="give three independent lattice vectors in Å")
    return np.full(3, (-factors[0] / volume) ** (1 / 3))


def _lattice(lines: Sequence[str], name: str) -> NDArray[np.float64]:
    """Lattice vectors as rows, (3, 3), Angstrom."""
    vectors = np.array([_numbers(line, 3, name, "the lattice vector") for line in lines[1:]])
    return vectors * _scale(lines, name)


def _counts(line: str, name: str) -> list[int]:
    words = re.split(r"[!#]", line)[0].split()
    if not all(re.fullmatch(r"[0-9]{1,9}", word) for word in words) or not any(int(word) for word in words):
        raise StructureError(
            f"'{excerpt(line)}' should hold the number of atoms of each element",
            where=name,
            remedy="correct that line",
        )
    return [int(word) for word in words]


def _coordinates(body: Sequence[str], n_atoms: int, name: str) -> NDArray[np.float64]:
    """Coordinates as written, (N, 3)."""
    if len([line for line in body[:n_atoms] if line.strip()]) < n_atoms:
        raise StructureError(
            f"the file is cut short, {n_atoms} atoms are counted but fewer positions follow", where=name
        )
    if len(body) > n_atoms and re.match(r"\s*[-+.\d]\S*(\s+[-+.\d]\S*){2}", body[n_atoms]):
        raise StructureError(
            f"more positions follow than the {n_atoms} atoms counted", where=name, remedy="correct the atom counts"
        )
    return np.array([_numbers(line, 3, name, "the position") for line in body[:n_atoms]])


def _species_behind(body: Sequence[str], counts: Sequence[int], selective: bool, name: str) -> list[str]:
    """The symbol of each species of a VASP 4 file from the labels behind the coordinates; empty if there are none."""
    matches = [re.match(r"[#!\s]*([A-Z][a-z]?)\d*\b", " ".join(_label(line, selective))) for line in body]
    symbols = [match.group(1) if match else "" for match in matches]
    if not all(symbol in ATOMIC_NUMBERS for symbol in symbols):
        return []
    ends = np.cumsum(counts)
    groups = [set(symbols[end - count : end]) for count, end in zip(counts, ends, strict=True)]
    if any(len(group) > 1 for group in groups):
        raise StructureError(
            "the symbols behind the coordinates disagree with the atom counts",
            where=name,
            remedy="add a line of element symbols above the counts",
        )
    return [next(iter(group), "H") for group in groups]


def _species_above(comment: str, counts: Sequence[int]) -> list[str]:
    """The symbols that a comment line consists of, one for each count; empty if it is another text."""
    words = comment.split()
    return words if len(words) == len(counts) and all(word in ATOMIC_NUMBERS for word in words) else []


def _species_of_potcar(path: Path | None) -> list[str]:
    """The symbols of the potentials of a POTCAR, in their order; empty if there is no such file."""
    if path is None or not path.is_file():
        return []
    titles = re.findall(r"^\s*TITEL\s*=\s*\S+\s+(\S+)", read_text(path, errors="replace"), re.M)
    if not titles:
        raise StructureError("no TITEL names an element", where=str(path), remedy="copy the POTCAR again or remove it")
    return titles


def _label(line: str, selective: bool) -> list[str]:
    """What follows the coordinates (and the three flags of selective dynamics)."""
    return line.split()[6 if selective else 3 :]
