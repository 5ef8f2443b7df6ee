"""The elements by number and symbol; imports nothing but the errors, so that it costs nothing to import."""

from __future__ import annotations

from collections.abc import Iterable

from crystalformers.errors import TableError

ELEMENTS = tuple(
    """H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
    Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu
    Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf
    Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og""".split()
)
"""Symbols of all named elements; the atomic number is the index plus one."""

NUMBER_OF = {symbol: number for number, symbol in enumerate(ELEMENTS, start=1)}
"""Atomic number of each symbol."""

MAX_ATOMIC_NUMBER = NUMBER_OF["Cf"]
"""Atomic number of the heaviest element that the models know."""

SYMBOLS = ELEMENTS[:MAX_ATOMIC_NUMBER]
"""Symbols of the elements that the models know; the atomic number is the index plus one."""

ELECTRONEGATIVITY = {
    symbol: float(value)
    for symbol, value in zip(
        SYMBOLS,
        """2.20 inf 0.98 1.57 2.04 2.55 3.04 3.44 3.98 inf 0.93 1.31 1.61 1.90 2.19 2.58 3.16 inf
        0.82 1.00 1.36 1.54 1.63 1.66 1.55 1.83 1.88 1.91 1.90 1.65 1.81 2.01 2.18 2.55 2.96 3.00
        0.82 0.95 1.22 1.33 1.60 2.16 1.90 2.20 2.28 2.20 1.93 1.69 1.78 1.96 2.05 2.10 2.66 2.60
        0.79 0.89 1.10 1.12 1.13 1.14 1.13 1.17 1.20 1.20 1.10 1.22 1.23 1.24 1.25 1.10 1.27
        1.30 1.50 2.36 1.90 2.20 2.20 2.28 2.54 2.00 1.62 2.33 2.02 2.00 2.20 2.20
        0.70 0.90 1.10 1.30 1.50 1.38 1.36 1.28 1.30 1.30 1.30 1.30""".split(),
        strict=True,
    )
}
"""On Pauling's scale, by symbol, as pymatgen lists them; infinite for He, Ne and Ar, which have none."""

ATOMIC_NUMBERS = {symbol: NUMBER_OF[symbol] for symbol in SYMBOLS} | {"D": 1, "T": 1}
"""Atomic number of each symbol that a structure may use. Deuterium and tritium are hydrogen: the models know elements,
not isotopes."""


def element_number(element: str | int, where: str) -> int:
    """Atomic number of a symbol (`Fe`) or number (26).

    Raises:
        TableError: about `where`, if there is no such element.
    """
    number = NUMBER_OF.get(element) if isinstance(element, str) else int(element)
    if number is None or not 1 <= number <= len(ELEMENTS):
        raise TableError(
            f"'{element}' is no element", where=where, remedy="write a symbol such as Fe, or its atomic number"
        )
    return number


def named(numbers: Iterable[int]) -> str:
    """`Fe, Co and 3 more`: the first of some elements in a message."""
    symbols = [ELEMENTS[number - 1] for number in map(int, numbers)]
    listed = ", ".join(symbols[:20])
    return listed if len(symbols) <= 20 else f"{listed} and {len(symbols) - 20} more"
