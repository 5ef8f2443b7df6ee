"""Element vectors to compare with: one-hot and random vectors, physical properties, published embeddings.

Published vectors are read from the packages that ship them, so that they are what their authors released: the tables
of ElementEmbeddings (Onwuli et al., Digital Discovery 2023) under that package's names, and the binary features of
CGCNN (Xie and Grossman, PRL 2018) from jarvis-tools.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.elements.analysis.properties import values
from crystalformers.elements.table import ElementTable
from crystalformers.errors import TableError
from crystalformers.extras import optional
from crystalformers.periodic import ELEMENTS, NUMBER_OF

HIGHEST = 100
"""The computed tables end with fermium, as those of CGCNN and CrystalTransformer do."""

RANDOM_DIM = 128
"""Width of `random-SEED`."""

PROPERTIES = {
    "group": "group",
    "row": "row",
    "mendeleev_no": "Mendeleev number",
    "atomic_mass": "atomic mass, amu",
    "X": "electronegativity (Pauling)",
    "atomic_radius": "atomic radius, Å",
    "van_der_waals_radius": "van der Waals radius, Å",
    "ionization_energy": "first ionisation energy, eV",
    "electron_affinity": "electron affinity, eV",
    "melting_point": "melting point, K",
    "molar_volume": "molar volume, cm³",
}
"""Columns of `physical`: attribute of pymatgen's `Element` -> description."""

PUBLISHED = (
    *("cgnf", "chemeleon", "chgnet", "crystallm", "mace_mp0", "magpie", "magpie_sc", "mat2vec", "matscholar"),
    *("matscibert", "megnet16", "oliynyk", "oliynyk_sc", "orb_v2", "sevennet", "skipatom", "xenonpy"),
)
"""Tables of the package ElementEmbeddings by its names, except its one-hot and random ones."""


def one_hot() -> ElementTable:
    """The unit vectors, (100, 100): all elements are equally far apart."""
    return _table("one-hot", np.eye(HIGHEST))


def random(seed: int, dim: int = RANDOM_DIM) -> ElementTable:
    """Independent normal numbers, (100, dim), of expected squared length 1: they identify elements and nothing else."""
    return _table(f"random-{seed}", np.random.default_rng(seed).normal(scale=dim**-0.5, size=(HIGHEST, dim)))


def physical() -> ElementTable:
    """`PROPERTIES` and the numbers of outer s, p, d and f electrons, from pymatgen, (100, 15), standardised.

    Values that pymatgen lacks are replaced by the mean of their column; `metadata["imputed"]` lists them.
    """
    numbers = np.arange(1, HIGHEST + 1)
    columns = [*PROPERTIES.values(), *(f"outer {orbital} electrons" for orbital in "spdf")]
    known = np.column_stack([values(numbers, tuple(PROPERTIES)), *(_electrons(numbers, orbital) for orbital in "spdf")])
    missing = np.isnan(known)
    metadata = {
        "columns": columns,
        "imputed": {name: [ELEMENTS[row] for row in np.flatnonzero(missing[:, k])] for k, name in enumerate(columns)},
        "source": "pymatgen",
    }
    return _table("physical", np.where(missing, np.nanmean(known, axis=0), known), metadata).standardised()


def _electrons(numbers: NDArray[np.int64], orbital: str) -> NDArray[np.float64]:
    """Electrons in the outermost s and p shells, the d shell one below and the f shell two below."""
    with optional("elements", "the table 'physical'"):
        from pymatgen.core import Element

    elements = [Element.from_Z(int(number)) for number in numbers]
    depth = {"s": 0, "p": 0, "d": 1, "f": 2}[orbital]
    shells = [{(n, kind): count for n, kind, count in element.full_electronic_structure} for element in elements]
    return np.array([float(shell.get((e.row - depth, orbital), 0)) for e, shell in zip(elements, shells, strict=True)])


def cgcnn() -> ElementTable:
    """The 92 binary features of CGCNN; some neighbouring lanthanides and actinides have the same."""
    from crystalformers.elements.formats import read

    table = read(_folder("jarvis", "jarvis-tools", "cgcnn") / "core" / "atom_init.json")
    return ElementTable("cgcnn", table.numbers, table.vectors, None, {"source": "jarvis-tools"})


def published(name: str) -> ElementTable:
    """A table of ElementEmbeddings; `metadata["left_out"]` lists its symbols that are no element (`Null`, `Uuh`)."""
    from crystalformers.elements.formats import vectors_of_text

    folder = _folder("elementembeddings", "ElementEmbeddings", name)
    from elementembeddings.utils.config import CITATIONS, DEFAULT_ELEMENT_EMBEDDINGS

    path = folder / "data" / "element_representations" / DEFAULT_ELEMENT_EMBEDDINGS[name]
    rows = vectors_of_text(path)
    metadata = {
        "source": "ElementEmbeddings",
        "citation": CITATIONS.get(name, []),
        "left_out": sorted(rows.keys() - NUMBER_OF.keys()),
        "shared_vectors": True,
    }
    return ElementTable.of(name, {symbol: row for symbol, row in rows.items() if symbol in NUMBER_OF}, metadata)


def _folder(module: str, package: str, name: str) -> Path:
    """The folder of an installed package, found without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        problem = f"The table '{name}' comes with {package}"
        raise TableError(problem, remedy="pip install 'crystalformers[elements]'")
    return Path(spec.submodule_search_locations[0])


def _table(name: str, vectors: NDArray[np.float64], metadata: dict[str, Any] | None = None) -> ElementTable:
    return ElementTable(name, np.arange(1, len(vectors) + 1), vectors.astype(np.float32), None, metadata or {})


OTHERS: dict[str, Callable[[], ElementTable]] = {"one-hot": one_hot, "physical": physical, "cgcnn": cgcnn}
"""Functions that give the tables outside ElementEmbeddings, except the random ones."""


def names() -> list[str]:
    """All names that `load` takes; SEED in `random-SEED` is any whole number."""
    return [*OTHERS, "random-SEED", *PUBLISHED]


def is_known(name: str) -> bool:
    """Whether `load` takes this name."""
    return name in OTHERS or name in PUBLISHED or re.fullmatch(r"random-\d+", name) is not None


def load(name: str) -> ElementTable:
    """The table of a name for which `is_known` is true.

    Raises:
        TableError: if the package that ships it is not installed.
    """
    if name in OTHERS:
        return OTHERS[name]()
    return published(name) if name in PUBLISHED else random(int(name.removeprefix("random-")))
