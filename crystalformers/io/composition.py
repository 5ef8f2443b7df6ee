"""Chemical symbols and formulas: what a file says its crystal is made of, compared with the atoms it lists."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from functools import lru_cache
from math import gcd

import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.periodic import ATOMIC_NUMBERS, ELECTRONEGATIVITY, SYMBOLS

COUNT_TOLERANCE = 0.1
"""Atoms per cell by which a formula, scaled to the cell, may miss a count (formulas such as `Li0.333` round)."""

OCCUPANCY_TOLERANCE = 0.002
"""Difference from 1 up to which a site counts as fully occupied: refinements end at 0.999."""

IONIC = 1.65
"""Difference of electronegativities from which on two elements at the end of a formula are no group such as PO4."""

WHOLE = {f"{metal}O": f"{metal}2O2" for metal in ("H", "Li", "Na", "K", "Rb", "Cs")}
WHOLE |= {symbol: f"{symbol}2" for symbol in ("H", "N", "O", "F", "Cl")}
"""Peroxides and molecules whose formula is that of two."""

_TOKEN = re.compile(r"([A-Z][a-z]?|[(\[{]|[)\]}])([0-9]*\.?[0-9]*)|[\s'\"]+")


def atomic_number(symbol: str, where: str) -> int:
    """Atomic number of a chemical symbol, any case (`Fe`, `FE`); raises a StructureError about `where`."""
    number = ATOMIC_NUMBERS.get(symbol.strip().title())
    if number is None:
        raise StructureError(
            f"'{symbol}' is not an element the models know (H to {SYMBOLS[-1]})",
            where=where,
            remedy="replace it by a chemical symbol or remove the atom",
        )
    return number


def formula(crystal: Crystal) -> str:
    """Reduced formula, e.g. `SrTiO3`."""
    return reduced_formula(Counter(crystal.symbols))


def reduced_formula(counts: Mapping[str, int]) -> str:
    """A formula in the smallest whole numbers as pymatgen prints it: `SrTiO3`, `Ca3(PO4)2`, `O2`.

    The elements follow each other by electronegativity. The last two of three or more are in brackets if they occur
    several times together, unless their electronegativities differ by `IONIC`. Molecules and peroxides stay whole.

    Args:
        counts: atoms of each element, by symbol.
    """
    order = sorted(counts, key=lambda symbol: (ELECTRONEGATIVITY[symbol], symbol))
    divisor = gcd(*counts.values())
    amounts = [(symbol, counts[symbol] // divisor) for symbol in order]
    text, group = "", amounts[-2:]
    times = gcd(*(amount for _, amount in group))
    if len(order) > 2 and times > 1 and ELECTRONEGATIVITY[order[-1]] - ELECTRONEGATIVITY[order[-2]] < IONIC:
        inner = "".join(f"{symbol}{_count(amount // times)}" for symbol, amount in group)
        amounts, text = amounts[:-2], f"({inner}){times}"
    text = "".join(f"{symbol}{_count(amount)}" for symbol, amount in amounts) + text
    return WHOLE.get(text, text)


def _count(amount: int) -> str:
    return "" if amount == 1 else str(amount)


@lru_cache(maxsize=65536)
def parse_formula(text: str) -> dict[int, float] | None:
    """Atomic number -> count of a formula such as `Ca3(PO4)2` or `C6 H12 O6`; None if it is not such a formula."""
    stack = [defaultdict[int, float](float)]
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            return None
        position = match.end()
        token, digits = match.groups()
        if token is None:
            continue
        count = float(digits) if digits.strip(".") else 1.0
        if token in "([{":
            stack.append(defaultdict(float))
        elif token in ")]}":
            if len(stack) < 2:
                return None
            for z, n in stack.pop().items():
                stack[-1][z] += n * count
        elif token in ATOMIC_NUMBERS:
            stack[-1][ATOMIC_NUMBERS[token]] += count
        else:
            return None
    counts = {z: n for z, n in stack[0].items() if n > 0}
    return counts if counts and len(stack) == 1 else None


def contradicts(counts: dict[int, float], numbers: NDArray[np.int64]) -> bool:
    """Whether the atoms of a cell are not a multiple of a formula's counts, within `COUNT_TOLERANCE` atoms."""
    found = dict(zip(*(column.tolist() for column in np.unique(numbers, return_counts=True)), strict=True))
    if found.keys() != counts.keys():
        return True
    scale = len(numbers) / sum(counts.values())
    return any(abs(found[z] - scale * count) > COUNT_TOLERANCE for z, count in counts.items())
