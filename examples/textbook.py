"""Published constants of simple crystals and the table of experimental labels made from them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from dataclasses import dataclass

from prototypes import PROTOTYPES

from crystalformers.periodic import SYMBOLS

KJ_PER_MOL_PER_EV = 96.48533212
"""Avogadro constant times elementary charge, kJ/mol: exact in the SI of 2019 to the digits given."""

SPLIT_SEED = "textbook-1"
HELD_OUT = {"test": 0.12, "val": 0.12}

SOURCES = {
    "lattice": {
        "W": "R. W. G. Wyckoff, Crystal Structures, 2nd ed., vol. 1 (Interscience, 1963)",
        "C": "CRC Handbook of Chemistry and Physics: crystal structures of the elements, properties of semiconductors",
        "T": "L. E. Toth, Transition Metal Carbides and Nitrides (Academic Press, 1971)",
        "V": "P. Villars, L. D. Calvert, Pearson's Handbook of Crystallographic Data for Intermetallic "
        "Phases, 2nd ed. (ASM, 1991)",
        "M": "O. Madelung, Semiconductors: Data Handbook, 3rd ed. (Springer, 2004)",
        "E": "E. H. Kisi, M. M. Elcombe, Acta Cryst. C45, 1867 (1989)",
    },
    "enthalpy": {
        "C": "CRC Handbook of Chemistry and Physics: standard thermodynamic properties of chemical substances",
        "J": "NIST-JANAF Thermochemical Tables, 4th ed., J. Phys. Chem. Ref. Data Monograph 9 (1998)",
        "N": "D. D. Wagman et al., NBS Tables of Chemical Thermodynamic Properties, J. Phys. Chem. Ref. Data "
        "11, Suppl. 2 (1982)",
        "D": "by definition: the element in its reference state",
    },
    "band gap": {
        "K": "C. Kittel, Introduction to Solid State Physics, 8th ed. (Wiley, 2005), chapter 8",
        "P": "R. T. Poole, J. G. Jenkin, J. Liesegang, R. C. G. Leckey, Phys. Rev. B 11, 5179 (1975)",
        "H": "R. C. Whited, C. J. Flaten, W. C. Walker, Solid State Commun. 13, 1903 (1973)",
        "R": "G. W. Rubloff, Phys. Rev. B 5, 662 (1972)",
        "S": "G. A. Sawatzky, J. W. Allen, Phys. Rev. Lett. 53, 2339 (1984)",
        "M": "metal",
        "-": "not given",
    },
}

TABLE = """
formula prototype        a       c       u   dfH/(kJ/mol)  gap/eV  sources

Al    fcc           4.0496      -       -         0       0      C D M
Cu    fcc           3.6149      -       -         0       0      C D M
Ag    fcc           4.0857      -       -         0       0      C D M
Na    bcc           4.2906      -       -         0       0      C D M
Fe    bcc           2.8665      -       -         0       0      C D M
Mg    hcp           3.2094  5.2107      -         0       0      C D M
Ti    hcp           2.9508  4.6855      -         0       0      C D M
Si    diamond       5.4310      -       -         0       1.11   C D K
Ge    diamond       5.6575      -       -         0       0.66   C D K
C     diamond       3.5668      -       -         1.9     5.4    C C K

LiF   rocksalt      4.0173      -       -      -616.0    13.6    W C P
LiCl  rocksalt      5.1295      -       -      -408.6     9.4    W C P
LiBr  rocksalt      5.5013      -       -      -351.2     7.6    W C P
LiI   rocksalt      6.000       -       -      -270.4      -     W C -
NaF   rocksalt      4.62        -       -      -576.6    11.6    W C P
NaCl  rocksalt      5.6406      -       -      -411.2     8.5    W C P
NaBr  rocksalt      5.9732      -       -      -361.1     7.5    W C P
NaI   rocksalt      6.4728      -       -      -287.8      -     W C -
KF    rocksalt      5.347       -       -      -567.3    10.7    W C P
KCl   rocksalt      6.2929      -       -      -436.5     8.4    W C P
KBr   rocksalt      6.600       -       -      -393.8     7.4    W C P
KI    rocksalt      7.0656      -       -      -327.9      -     W C -
RbF   rocksalt      5.64        -       -      -557.7    10.3    W C P
RbCl  rocksalt      6.581       -       -      -435.4     8.2    W C P
RbBr  rocksalt      6.854       -       -      -394.6     7.4    W C P
RbI   rocksalt      7.342       -       -      -333.8      -     W C -
CsF   rocksalt      6.01        -       -      -553.5      -     W C -
AgCl  rocksalt      5.547       -       -      -127.0     3.2    W C K
AgBr  rocksalt      5.7745      -       -      -100.4      -     W C -
LiH   rocksalt      4.085       -       -       -90.5      -     W C -
NaH   rocksalt      4.880       -       -       -56.3      -     W C -
KH    rocksalt      5.700       -       -       -57.7      -     W C -
MgO   rocksalt      4.2112      -       -      -601.6     7.83   W C H
CaO   rocksalt      4.8105      -       -      -634.9     7.09   W C H
SrO   rocksalt      5.1602      -       -      -592.0      -     W C -
BaO   rocksalt      5.523       -       -      -548.0      -     W C -
CdO   rocksalt      4.6953      -       -      -258.4      -     W C -
MnO   rocksalt      4.4448      -       -      -385.2      -     W C -
CoO   rocksalt      4.2667      -       -      -237.9      -     W C -
NiO   rocksalt      4.1684      -       -      -239.7     4.3    W N S
MgS   rocksalt      5.2033      -       -      -346.0      -     W C -
CaS   rocksalt      5.6903      -       -      -482.4      -     W C -
SrS   rocksalt      6.0198      -       -      -472.4      -     W C -
BaS   rocksalt      6.3875      -       -      -460.0      -     W C -
MnS   rocksalt      5.2236      -       -      -214.2      -     W C -
PbS   rocksalt      5.9362      -       -      -100.4     0.37   W C K
PbSe  rocksalt      6.1243      -       -      -102.9     0.27   W C K
PbTe  rocksalt      6.454       -       -       -70.7     0.29   W C K
TiC   rocksalt      4.328       -       -      -184.1     0      T J M
TiN   rocksalt      4.240       -       -      -337.65    0      T J M
ZrC   rocksalt      4.698       -       -      -196.65    0      T J M
ZrN   rocksalt      4.577       -       -      -365.26    0      T J M
TaC   rocksalt      4.456       -       -      -144.1     0      T J M

CsCl  cscl          4.123       -       -      -443.0      -     W C -
CsBr  cscl          4.286       -       -      -405.8      -     W C -
CsI   cscl          4.5667      -       -      -346.6      -     W C -
TlCl  cscl          3.834       -       -      -204.1      -     W C -
TlBr  cscl          3.97        -       -      -173.2      -     W C -

BeS   zincblende    4.865       -       -      -234.3      -     C C -
ZnS   zincblende    5.4093      -       -      -206.0      -     W C -
ZnSe  zincblende    5.6676      -       -      -163.0      -     W C -
CdTe  zincblende    6.480       -       -       -92.5     1.44   W C K
CuCl  zincblende    5.4057      -       -      -137.2      -     W C -
CuBr  zincblende    5.6905      -       -      -104.6      -     W C -
CuI   zincblende    6.0427      -       -       -67.8      -     W C -
AlP   zincblende    5.451       -       -      -166.5      -     C C -
GaP   zincblende    5.4505      -       -       -88.0     2.25   C C K
GaAs  zincblende    5.6532      -       -       -71.0     1.43   C C K
GaSb  zincblende    6.0954      -       -       -41.8     0.68   C C K
InP   zincblende    5.8688      -       -       -88.7     1.27   C C K
InAs  zincblende    6.0584      -       -       -58.6     0.36   C C K
InSb  zincblende    6.4788      -       -       -30.5     0.17   C C K
SiC   zincblende    4.3596      -       -       -73.22     -     M J -

BeO   wurtzite      2.698   4.380   0.378      -609.4      -     W C -
ZnO   wurtzite      3.2501  5.2071  0.3817     -350.5     3.44   E C K
CdS   wurtzite      4.1348  6.7490  0.375      -161.9     2.42   W C K
AlN   wurtzite      3.111   4.978   0.385      -318.0      -     W C -
AgI   wurtzite      4.580   7.494   0.375       -61.8     2.8    W C K

CaF2  fluorite      5.4630      -       -     -1228.0    12.1    W C R
SrF2  fluorite      5.7996      -       -     -1216.3    11.25   W C R
BaF2  fluorite      6.2001      -       -     -1207.1    11.0    W C R
CdF2  fluorite      5.3880      -       -      -700.4      -     W C -
SrCl2 fluorite      6.9767      -       -      -828.9      -     W C -
CeO2  fluorite      5.4110      -       -     -1088.7      -     W C -
Li2O  antifluorite  4.619       -       -      -597.9      -     W C -
Na2O  antifluorite  5.55        -       -      -414.2      -     W C -
K2O   antifluorite  6.436       -       -      -361.5      -     W C -
Li2S  antifluorite  5.708       -       -      -441.4      -     W C -
Na2S  antifluorite  6.526       -       -      -364.8      -     W C -
K2S   antifluorite  7.391       -       -      -380.7      -     W C -
Mg2Si antifluorite  6.351       -       -       -77.8      -     V J -

MgF2  rutile        4.623   3.052   0.303     -1124.2      -     W C -
FeF2  rutile        4.6966  3.3091  0.300      -711.3      -     W C -
NiF2  rutile        4.6506  3.0836  0.302      -651.4      -     W C -
ZnF2  rutile        4.7034  3.1335  0.303      -764.4      -     W C -
TiO2  rutile        4.5937  2.9581  0.305      -944.0     3.03   W C K
GeO2  rutile        4.395   2.859   0.307      -580.0      -     W C -
SnO2  rutile        4.7373  3.1864  0.307      -577.6      -     W C -
MnO2  rutile        4.396   2.871   0.302      -520.0      -     W C -
MgH2  rutile        4.5168  3.0205  0.306       -75.3      -     W C -
"""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        formula: chemical formula, e.g. ``CaF2``.
        prototype: key of `PROTOTYPES`.
        a: lattice constant, Angstrom.
        c: the other lattice constant, Angstrom; equal to `a` in cubic crystals.
        u: free coordinate of the prototype, None where it has none.
        enthalpy: standard enthalpy of formation at 298.15 K, kJ per mole of formula units.
        band_gap: measured band gap, eV, None where not given.
    """

    formula: str
    prototype: str
    a: float
    c: float
    u: float | None
    enthalpy: float
    band_gap: float | None

    @property
    def id(self) -> str:
        """Name of the row: the formula and the structure type."""
        return f"{self.formula}-{self.prototype}"

    @property
    def counts(self) -> dict[str, int]:
        """Atoms of each element in the formula unit, in the order of the formula."""
        pairs = re.findall(r"([A-Z][a-z]?)(\d*)", self.formula)
        return {symbol: int(count or 1) for symbol, count in pairs}

    @property
    def formation_energy_per_atom(self) -> float:
        """Experimental formation enthalpy, eV/atom."""
        return ev_per_atom(self.enthalpy, sum(self.counts.values()))

    def record(self, split: str) -> dict[str, object]:
        """The row as a JSON record: a primitive cell, then the labels."""
        parameters = {} if self.u is None else {"u": self.u}
        elements, coords, lattice = PROTOTYPES[self.prototype].primitive(self.a, self.c, parameters)
        symbols = list(self.counts)
        return {
            "id": self.id,
            "formula": self.formula,
            "atomic_numbers": [SYMBOLS.index(symbols[element]) + 1 for element in elements],
            "lattice": (lattice.round(6) + 0.0).ravel().tolist(),
            "frac_coords": coords.ravel().tolist(),
            "formation_energy_per_atom": round(self.formation_energy_per_atom, 6) + 0.0,
            "band_gap": self.band_gap,
            "split": split,
        }


def ev_per_atom(kj_per_mol: float, atoms: int) -> float:
    """Convert kJ per mole of formula units of so many atoms to eV/atom."""
    return kj_per_mol / KJ_PER_MOL_PER_EV / atoms


def rows() -> list[Row]:
    """The table, line by line."""
    lines = [line.split() for line in TABLE.split("\n") if line.strip()]
    return [_row(words) for words in lines[1:]]


def _row(words: list[str]) -> Row:
    formula, prototype, a, c, u, enthalpy, gap, *sources = words
    for kind, letter in zip(SOURCES, sources, strict=True):
        if letter not in SOURCES[kind]:
            raise ValueError(f"{formula}: '{letter}' is not a source of the {kind}.")
    return Row(
        formula,
        prototype,
        float(a),
        float(a if c == "-" else c),
        None if u == "-" else float(u),
        float(enthalpy),
        None if gap == "-" else float(gap),
    )


def splits(table: list[Row]) -> list[str]:
    """Assign train, val or test.

    The rows are visited in the order of the SHA-256 of the seed and their id. The first ones that can be
    spared are held out; one that holds the last training crystal of an element stays in training.
    """
    order = sorted(table, key=lambda row: hashlib.sha256(f"{SPLIT_SEED} {row.id}".encode()).hexdigest())
    wanted = [name for name, share in HELD_OUT.items() for _ in range(round(share * len(table)))]
    remaining = Counter(symbol for row in table for symbol in row.counts)
    split = {}
    for row in order:
        if wanted and all(remaining[symbol] > 1 for symbol in row.counts):
            remaining.subtract(row.counts.keys())
            split[row.id] = wanted.pop(0)
    return [split.get(row.id, "train") for row in table]
