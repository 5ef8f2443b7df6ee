"""Properties of the elements for probes, and their periods, groups and blocks, from pymatgen's `Element`.

Electronegativities are Pauling's, atomic radii Slater's, ionisation energies those of NIST.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crystalformers.extras import optional

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
HELIUM = 2


@dataclass(frozen=True)
class Property:
    """A property of the elements.

    Attributes:
        name: for reports.
        unit: for reports; empty if there is none.
        attribute: of pymatgen's `Element`.
    """

    name: str
    unit: str
    attribute: str

    @property
    def label(self) -> str:
        """Name with unit."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


PROPERTIES = (
    Property("electronegativity", "Pauling", "X"),
    Property("atomic radius", "Å", "atomic_radius"),
    Property("ionisation energy", "eV", "ionization_energy"),
    Property("electron affinity", "eV", "electron_affinity"),
    Property("melting point", "K", "melting_point"),
    Property("Mendeleev number", "", "mendeleev_no"),
)
"""The properties that are probed."""


ATTRIBUTES = tuple(quantity.attribute for quantity in PROPERTIES)


def values(numbers: Integers, attributes: Sequence[str] = ATTRIBUTES) -> Floats:
    """Attributes of pymatgen's `Element` of the elements with these atomic numbers, (E, P); NaN where it has none."""
    with optional("elements", "a report"):
        from pymatgen.core import Element

    with warnings.catch_warnings():
        # pymatgen warns of every value that it lacks; here the value is NaN.
        warnings.simplefilter("ignore", UserWarning)
        rows = [[getattr(Element.from_Z(int(z)), attribute) for attribute in attributes] for z in numbers]
    return np.array([[np.nan if value is None else float(value) for value in row] for row in rows])


@dataclass(frozen=True, eq=False)
class Places:
    """Places of elements in the periodic table.

    Attributes:
        period: 1 to 7, (E,).
        group: 1 to 18, (E,); 3 for all lanthanides and actinides.
        block: s, p, d or f, (E,); s for helium.
    """

    period: Integers
    group: Integers
    block: NDArray[np.str_]


def places(numbers: Integers) -> Places:
    """Periods, groups and blocks of the elements with these atomic numbers, (E,) each."""
    with optional("elements", "a report"):
        from pymatgen.core import Element

    elements = [Element.from_Z(int(z)) for z in numbers]
    rows = [(e.row, e.group, "s" if e.Z == HELIUM else str(e.block)) for e in elements]
    return Places(*map(np.array, zip(*rows, strict=True)))
