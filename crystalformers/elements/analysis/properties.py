"""Properties of the elements that no table was trained on, and their place in the periodic table.

Values: pymatgen's `Element` (Pauling electronegativities, Slater's atomic radii, NIST ionisation energies...).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
HELIUM = 2


@dataclass(frozen=True)
class Property:
    """A number that every element has.

    Attributes:
        name: as shown.
        unit: as shown; empty if there is none.
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
"""What the probes predict."""


def values(numbers: Integers, properties: tuple[Property, ...] = PROPERTIES) -> Floats:
    """Values of properties, (E, P); NaN where nobody has measured one."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        # pymatgen warns of every value it does not have; here the NaN says so.
        warnings.simplefilter("ignore", UserWarning)
        rows = [[getattr(Element.from_Z(int(z)), p.attribute) for p in properties] for z in numbers]
    return np.array([[np.nan if value is None else float(value) for value in row] for row in rows])


@dataclass(frozen=True, eq=False)
class Places:
    """Where elements stand in the periodic table.

    Attributes:
        period: 1 to 7, (E,).
        group: 1 to 18, (E,); the lanthanides and actinides all in 3.
        block: s, p, d or f, (E,); helium in s.
    """

    period: Integers
    group: Integers
    block: NDArray[np.str_]


def places(numbers: Integers) -> Places:
    """Period, group and block of elements, (E,) each."""
    from pymatgen.core import Element

    elements = [Element.from_Z(int(z)) for z in numbers]
    blocks = ["s" if element.Z == HELIUM else str(element.block) for element in elements]
    return Places(
        np.array([element.row for element in elements]),
        np.array([element.group for element in elements]),
        np.array(blocks),
    )
