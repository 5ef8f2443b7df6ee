"""Write the example crystals (CIF) and the example tables (JSON lines) from published constants.

Run `python examples/make_examples.py` after a change here, in textbook.py, ionic.py or prototypes.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ionic
from prototypes import PROTOTYPES
from textbook import rows, splits

WYCKOFF = "R. W. G. Wyckoff, Crystal Structures, 2nd ed., vol. 1 (Interscience, 1963)"
CRC = "CRC Handbook of Chemistry and Physics, crystal structures of the elements"


@dataclass(frozen=True)
class Example:
    """A crystal to write as a CIF.

    Attributes:
        formula: formula, which is also the file name.
        name: common name.
        elements: chemical symbols in the order of the formula and of the prototype.
        prototype: key of `PROTOTYPES`.
        a: lattice constant, Angstrom, at room temperature.
        c: the other lattice constant, Angstrom; equal to `a` in cubic crystals.
        source: where the constants were published.
        parameters: free coordinates of the prototype.
    """

    formula: str
    name: str
    elements: tuple[str, ...]
    prototype: str
    a: float
    c: float
    source: str
    parameters: Mapping[str, float] = field(default_factory=dict)


EXAMPLES = (
    Example("Si", "silicon", ("Si",), "diamond", 5.4310, 5.4310, CRC),
    Example("Cu", "copper", ("Cu",), "fcc", 3.6149, 3.6149, CRC),
    Example("W", "tungsten", ("W",), "bcc", 3.1652, 3.1652, CRC),
    Example("Mg", "magnesium", ("Mg",), "hcp", 3.2094, 5.2107, CRC),
    Example("NaCl", "sodium chloride, halite", ("Na", "Cl"), "rocksalt", 5.6406, 5.6406, WYCKOFF),
    Example("GaAs", "gallium arsenide", ("Ga", "As"), "zincblende", 5.6532, 5.6532, CRC),
    Example(
        "ZnO",
        "zinc oxide, zincite",
        ("Zn", "O"),
        "wurtzite",
        3.2501,
        5.2071,
        "E. H. Kisi, M. M. Elcombe, Acta Cryst. C45, 1867 (1989)",
        {"u": 0.3817},
    ),
    Example("CaF2", "calcium fluoride, fluorite", ("Ca", "F"), "fluorite", 5.4630, 5.4630, WYCKOFF),
    Example(
        "TiO2",
        "titanium dioxide, rutile",
        ("Ti", "O"),
        "rutile",
        4.5937,
        2.9587,
        "S. C. Abrahams, J. L. Bernstein, J. Chem. Phys. 55, 3206 (1971)",
        {"u": 0.3048},
    ),
    Example(
        "SrTiO3",
        "strontium titanate",
        ("Sr", "Ti", "O"),
        "perovskite",
        3.905,
        3.905,
        "R. W. G. Wyckoff, Crystal Structures, 2nd ed., vol. 2 (Interscience, 1964)",
    ),
    Example(
        "SiO2",
        "silicon dioxide, low quartz",
        ("Si", "O"),
        "quartz",
        4.9160,
        5.4054,
        "L. Levien, C. T. Prewitt, D. J. Weidner, Am. Mineral. 65, 920 (1980)",
        # The paper counts z from the twofold axis through Si, the International Tables from 2/3 below it.
        {"x_Si": 0.4697, "x": 0.4135, "y": 0.2669, "z": 0.1191 + 2 / 3},
    ),
    Example(
        "MoS2",
        "molybdenum disulfide, molybdenite",
        ("Mo", "S"),
        "molybdenite",
        3.1604,
        12.295,
        WYCKOFF + "; z of S: R. G. Dickinson, L. Pauling, J. Am. Chem. Soc. 45, 1466 (1923)",
        {"z": 0.621},
    ),
    Example(
        "Al2O3",
        "aluminium oxide, corundum",
        ("Al", "O"),
        "corundum",
        4.7589,
        12.991,
        "R. E. Newnham, Y. M. de Haan, Z. Kristallogr. 117, 235 (1962)",
        {"z": 0.3520, "x": 0.3064},
    ),
    Example(
        "MgAl2O4",
        "magnesium aluminate, spinel",
        ("Mg", "Al", "O"),
        "spinel",
        8.0832,
        8.0832,
        "R. J. Hill, J. R. Craig, G. V. Gibbs, Phys. Chem. Minerals 4, 317 (1979)",
        {"u": 0.2624},
    ),
)

CIF = """\
# A conventional cell with every atom written out.
# Structure type {prototype}, space group of the crystal {space_group}.
data_{formula}
_chemical_name_common            '{name}'
_chemical_formula_sum            '{formula_sum}'
_publ_section_references
;
 Lattice constants and coordinates: {source}
;
_cell_length_a                   {a:.4f}
_cell_length_b                   {a:.4f}
_cell_length_c                   {c:.4f}
_cell_angle_alpha                90
_cell_angle_beta                 90
_cell_angle_gamma                {gamma}
_cell_formula_units_Z            {units}
_space_group_name_H-M_alt        'P 1'
_space_group_IT_number           1
loop_
_space_group_symop_operation_xyz
'x, y, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{sites}
"""


def cif(example: Example) -> str:
    """The text of a CIF: a conventional cell in P 1, all atoms listed."""
    prototype = PROTOTYPES[example.prototype]
    indices, coords = prototype.atoms(example.parameters)
    symbols = [example.elements[index] for index in indices]
    sites = [
        f"{symbol + str(symbols[:n].count(symbol) + 1):<5} {symbol:<2} {x:.8f} {y:.8f} {z:.8f} 1"
        for n, (symbol, (x, y, z)) in enumerate(zip(symbols, coords.tolist(), strict=True))
    ]
    counts = [symbols.count(element) for element in example.elements]
    units = math.gcd(*counts)
    sums = [
        element if count == units else f"{element}{count // units}"
        for element, count in zip(example.elements, counts, strict=True)
    ]
    return CIF.format(
        prototype=prototype.name,
        space_group=prototype.space_group,
        formula=example.formula,
        name=example.name,
        formula_sum=" ".join(sums),
        source=example.source,
        a=example.a,
        c=example.c,
        gamma=120 if prototype.hexagonal else 90,
        units=units,
        sites="\n".join(sites),
    )


def json_lines(records: list[dict[str, object]]) -> str:
    """The text of a table: one JSON object per line."""
    return "".join(json.dumps(record) + "\n" for record in records)


def tables() -> dict[str, str]:
    """The tables: file names and texts."""
    textbook = [row.record(split) for row, split in zip(rows(), splits(rows()), strict=True)]
    return {"textbook.jsonl": json_lines(textbook), "ionic.jsonl": json_lines(ionic.records())}


def contents() -> dict[str, str]:
    """Every generated file: its name and its text."""
    return {f"{example.formula}.cif": cif(example) for example in EXAMPLES} | tables()


if __name__ == "__main__":
    for file_name, text in contents().items():
        (Path(__file__).parent / file_name).write_text(text, encoding="utf-8", newline="\n")
