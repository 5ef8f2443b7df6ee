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
