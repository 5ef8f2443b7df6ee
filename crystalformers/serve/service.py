"""The models with their worker and reader: what the page, the HTTP service and AI assistants have in common."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io import Rejected, check
from crystalformers.periodic import ATOMIC_NUMBERS
from crystalformers.prediction.intervals import COVERAGE
from crystalformers.prediction.model import Model
from crystalformers.prediction.predictor import Settings
from crystalformers.prediction.several import Models
from crystalformers.serve.batches import Worker
from crystalformers.serve.limits import Limits, RefusedError
from crystalformers.serve.reading import Allowance, File, Reader, plain_name
from crystalformers.serve.schemas import Atoms, StructureText
from crystalformers.serve.work import Index, Result, Structure, Work, affordable


class Service:
    """Loaded models, ready for requests.

    Args:
        models: that predict together.
        limits: of requests.
        index: known crystals, if there are any to search.

    Attributes:
        models: the models.
        limits: of requests.
        index: known crystals, or None.
        reader: reads files in a process of its own.
        worker: computes in a thread of its own.
        radius: largest of the models, Angstrom.
    """

    def __init__(self, models: Models, limits: Limits | None = None, index: Index | None = None) -> None:
        self.models, self.limits, self.index = models, limits or Limits(), index
        self.reader, self.worker = Reader(self.limits), Worker(self.limits.batch_seconds)
        self.radius = max(model.radius for model in models.models)

    def close(self) -> None:
        """Finish what waits, and end thread and process."""
        self.worker.close()
        self.reader.close()

    def read(self, given: Sequence[StructureText], allowance: Allowance) -> list[list[Structure]]:
        """The structures that each entry of a request stands for, at least one item.

        Raises:
            RefusedError: if they are more than a request may bring, take too long to read, or bytes are no base64.
        """
        entries: list[list[Structure] | File] = [_crystal_or_file(one) for one in given]
        for entry in entries:
            if isinstance(entry, list):
                allowance.take(entry)
        read = iter(self.reader.read([entry for entry in entries if isinstance(entry, tuple)], allowance))
        found: list[list[Structure]] = [entry if isinstance(entry, list) else list(next(read)) for entry in entries]
        return [[affordable(one, self.radius, self.limits.images) for one in structures] for structures in found]

    def submit(self, work: Work, structures: Sequence[Structure]) -> Future[list[Result]]:
        """The results of work, as soon as they are there."""
        return self.worker.submit(work, structures)

    def model(self, name: str | None) -> Model:
        """A loaded model by its name; the first one by default.

        Raises:
            RefusedError: if it is not loaded.
        """
        known = {model.name: model for model in self.models.models}
        if name is None:
            return self.models.models[0]
        if name not in known:
            raise RefusedError(422, f"there is no model '{name[:60]}' here", remedy=f"use one of {', '.join(known)}")
        return known[name]

    def settings(self, coverage: float | None) -> Settings:
        """How to predict; raises ConfigError if the models have no interval of that coverage."""
        self.models.doubt(coverage)
        return Settings(coverage)

    def about_predictions(self, coverage: float | None) -> dict[str, Any]:
        """Models, units and coverage of predictions."""
        intervals = any("low" in kinds for kinds in self.models.doubt(coverage).values())
        return {
            "models": [{"name": model.name, "sha256": model.fingerprint} for model in self.models.models],
            "units": self.models.units,
            "coverage": (COVERAGE if coverage is None else coverage) if intervals else None,
        }

    def about_models(self) -> list[dict[str, Any]]:
        """What each model predicts, from which data, and how far it is off."""
        return [_about(model) for model in self.models.models]


def the_only(structures: Sequence[Structure]) -> Crystal:
    """The one crystal of an entry that must hold no more.

    Raises:
        RefusedError: if it holds several.
        StructureError: if it cannot be used.
    """
    one = structures[0]
    if len(structures) > 1:
        problem = f"it holds {len(structures)} structures, one is needed"
        raise RefusedError(422, problem, where=one.name.partition("#")[0], remedy="split it")
    if isinstance(one, Rejected):
        raise one.error()
    return one


def _crystal_or_file(given: StructureText) -> list[Structure] | File:
    """The crystal of an entry of a request, or the file that holds its structures."""
    name = plain_name(given.name, given.text)
    if given.atoms is not None:
        return [crystal_of(given.atoms, name if given.name else "structure")]
    if given.text is not None:
        return name, given.text.encode("utf-8", "replace")
    try:
        return name, base64.b64decode(given.base64 or "", validate=True)
    except ValueError as error:  # or characters beyond ASCII
        raise RefusedError(422, f"the bytes are no base64 ({error})", where=name) from None


def crystal_of(atoms: Atoms, name: str) -> Structure:
    """A checked crystal, or why it cannot be used."""
    try:
        unknown = next((symbol for symbol in atoms.symbols if symbol not in ATOMIC_NUMBERS), None)
        if unknown is not None:
            raise StructureError(f"'{unknown[:20]}' is no element that the models know", where=name)
        numbers = [ATOMIC_NUMBERS[symbol] for symbol in atoms.symbols]
        return check(Crystal(numbers, atoms.frac_coords, atoms.lattice, name))  # type: ignore[arg-type] # lists
    except StructureError as error:
        return Rejected.of(name, error)


def _about(model: Model) -> dict[str, Any]:
    data, errors = model.card.get("data", {}), model.card.get("errors", {}).get("test", {})
    targets = []
    for target in model.targets:
        measured = errors.get(target.name, {})
        calibrated = model.calibration.get(target.name)
        targets.append(
            {
                "name": target.name,
                "unit": target.unit,
                "test_mae": measured.get("mae"),
                "test_crystals": measured.get("n"),
                "interval": calibrated is not None and calibrated.allows(COVERAGE),
            }
        )
    return {
        "name": model.name,
        "sha256": model.fingerprint,
        "targets": targets,
        "training_data": data.get("name"),
        "training_crystals": data.get("rows", {}).get("train"),
        "elements": sorted(model.domain.element_counts),
        "radius": model.radius,
        "dim": model.dim,
    }
