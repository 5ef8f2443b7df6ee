"""What the worker computes for the structures of requests; requests with equal work are computed as one.

Every kind of work gives one result for each structure; in place of one that cannot be used it is its `Rejected`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from crystalformers.crystal import Crystal
from crystalformers.errors import CrystalformersError
from crystalformers.explain import explain
from crystalformers.io import Rejected, formula
from crystalformers.prediction.batching import expected_images, windows
from crystalformers.prediction.model import Model
from crystalformers.prediction.predictor import WINDOW, Settings, predict_window
from crystalformers.prediction.rows import Row, as_json
from crystalformers.prediction.several import Models

Structure = Crystal | Rejected
Result = dict[str, Any]
"""The answer for one structure, in plain types; `name` and `error` of one that could not be used."""


class Work(ABC):
    """A computation; frozen, so that equal ones are recognised."""

    @abstractmethod
    def results(self, structures: Sequence[Structure]) -> list[Result]:
        """One result for each structure, in order."""


@dataclass(frozen=True)
class Predict(Work):
    """Predictions with intervals and flags.

    Attributes:
        models: that predict together.
        settings: coverage of the intervals, percentile of the flag.
    """

    models: Models
    settings: Settings

    def results(self, structures: Sequence[Structure]) -> list[Result]:
        """The rows of `crystalformers predict` as JSON."""
        rows: list[Row] = []
        for window in windows(structures, WINDOW):
            rows += predict_window(self.models, window, self.settings)
        return [as_json(row) for row in rows]


@dataclass(frozen=True)
class Embed(Work):
    """Vectors of crystals, or of their atoms.

    Attributes:
        model: that computes them.
        per_atom: one vector per atom instead of one per crystal.
    """

    model: Model
    per_atom: bool = False

    def results(self, structures: Sequence[Structure]) -> list[Result]:
        """`vector` or `vectors` of each structure."""
        crystals = [one for one in structures if isinstance(one, Crystal)]
        vectors = iter(self.model.atom_vectors(crystals))

        def of_crystal(crystal: Crystal) -> Result:
            atoms = next(vectors)
            found = {"vectors": atoms.tolist()} if self.per_atom else {"vector": atoms.mean(axis=0).tolist()}
            return {"name": crystal.name, "formula": formula(crystal), "n_atoms": len(crystal), **found}

        return _each(structures, of_crystal)


@dataclass(frozen=True)
class Explain(Work):
    """Attention of one atom, or all.

    Attributes:
        model: whose attention it is.
        atom: from 0; None for all.
        block: from 0; None for all.
        threshold: smallest weight that is listed.
        images: most that a structure may have.
    """

    model: Model
    atom: int | None
    block: int | None
    threshold: float
    images: float

    def results(self, structures: Sequence[Structure]) -> list[Result]:
        """`Explanation.to_dict` of each structure."""

        def of_crystal(crystal: Crystal) -> Result:
            return explain(self.model, crystal, self.atom, self.block).to_dict(self.threshold)

        return _each([affordable(one, self.model.radius, self.images) for one in structures], of_crystal)


class Index(Protocol):
    """Known crystals that are searched for neighbours of others."""

    def search(self, crystals: Sequence[Crystal], count: int) -> list[list[Result]]:
        """For each crystal its nearest known ones: name, formula, distance and whatever else is known of them."""


@dataclass(frozen=True)
class Search(Work):
    """The nearest known crystals.

    Attributes:
        index: that is searched.
        count: of known crystals for each structure.
    """

    index: Index
    count: int

    def results(self, structures: Sequence[Structure]) -> list[Result]:
        """`nearest` of each structure."""
        crystals = [one for one in structures if isinstance(one, Crystal)]
        found = iter(self.index.search(crystals, self.count))
        return _each(structures, lambda crystal: {"name": crystal.name, "nearest": next(found)})


def _each(structures: Sequence[Structure], of_crystal: Callable[[Crystal], Result]) -> list[Result]:
    """The result of each crystal, and the reason of each structure that cannot be used."""
    results = []
    for one in structures:
        try:
            results.append(as_json(one) if isinstance(one, Rejected) else of_crystal(one))
        except CrystalformersError as error:
            results.append({"name": one.name, "error": str(error)})
    return results


def affordable(structure: Structure, radius: float, images: float) -> Structure:
    """The structure, or why it costs too much.

    Args:
        structure: to compute.
        radius: of the model, Angstrom.
        images: most that one structure may have within that radius.
    """
    if isinstance(structure, Rejected) or (count := expected_images(structure, radius)) <= images:
        return structure
    problem = f"it has about {count:.2g} periodic images within {radius:.3g} Å, more than {images:.2g}"
    return Rejected(structure.name, problem, structure.name, "use the command line for so large a structure")
