"""A trained model as a user meets it: structures in, values with units or vectors out.

Shapes: A atoms, C crystals, N atoms of one crystal, T targets, D width of an atom vector. Lengths in Angstrom.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crystalformers.checkpoint import Checkpoint
from crystalformers.crystal import Crystal
from crystalformers.errors import BatchMemoryError, ConfigError, StructureError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.io import Rejected, as_crystal, formula, read_structures
from crystalformers.io.pandas_tables import is_frame, is_series, structures_of
from crystalformers.models import CrystalModel
from crystalformers.prediction.batching import Advance, Budget, expected_images, no_progress, windows
from crystalformers.prediction.domain import Domain
from crystalformers.prediction.intervals import COVERAGE, Calibration
from crystalformers.prediction.rows import Prediction, Row, predictions_frame
from crystalformers.target import Target

if TYPE_CHECKING:
    import pandas as pd

Vectors = NDArray[np.float32]

WINDOW = 512
"""Structures that are sorted by size together. Results come in input order, one window after the other."""

IMAGES_PER_BATCH = 400_000
"""Expected images of one batch, which bounds its memory (about 1 GB); a larger crystal is a batch of its own."""


class Model:
    """A trained model with its targets; made by `load_model`.

    Attributes:
        name: bundled name, or the file or run folder it was loaded from.
        fingerprint: SHA-256 of the weight file.
        targets: what it predicts.
        units: unit of each target, by its name.
        card: how the model was made, and its measured errors.
        domain: what its training crystals were like.
        calibration: how far predictions were off for rows that the model had not seen, of the targets for which that
            is known.
        radius: distance up to which images are taken into account (Angstrom); follows from `tolerance`.
        directions: whether the network uses directions besides distances.
        dim: width D of the vectors of `embed`.
        budget: images in a batch; shrinks where memory does not suffice.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        name: str,
        fingerprint: str,
        device: str = "cpu",
        tolerance: float = 1e-7,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if not isinstance(tolerance, int | float) or not 0 < tolerance < 1:
            raise ConfigError(f"{tolerance!r} does not lie between 0 and 1", where="tolerance", remedy="use 1e-7")
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ConfigError(f"{dtype!r} is not a floating-point type", where="dtype", remedy="use torch.float32")
        self.name, self.fingerprint = name, fingerprint
        self.targets: tuple[Target, ...] = tuple(checkpoint.targets)
        self.units = {target.name: target.unit for target in self.targets}
        self.card: dict[str, Any] = checkpoint.card
        self.domain = Domain.from_card(self.card)
        self.calibration = {name: Calibration.from_dict(one) for name, one in self.card.get("calibration", {}).items()}
        self.device, self.dtype, self.tolerance = _device(device), dtype, tolerance
        self.network: CrystalModel = checkpoint.model.to(self.device, dtype).eval()
        self.radius = self.network.radius(tolerance)
        self.directions = self.network.needs_directions
        self.dim = self.network.dim
        self.budget = Budget(IMAGES_PER_BATCH)

    def __repr__(self) -> str:
        targets = ", ".join(f"{target.name} ({target.unit})" for target in self.targets)
        return f"Model({self.name}: {targets})"

    @overload
    def predict(
        self,
        structures: pd.DataFrame,
        *,
        errors: Literal["raise", "report"] = "raise",
        as_frame: bool = True,
        coverage: float | None = None,
        strict: bool = False,
    ) -> pd.DataFrame: ...
    @overload
    def predict(
        self,
        structures: Any,
        *,
        errors: Literal["raise"] = "raise",
        coverage: float | None = None,
        strict: bool = False,
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self, structures: Any, *, errors: Literal["report"], coverage: float | None = None, strict: bool = False
    ) -> list[Prediction | Rejected]: ...
    @overload
    def predict(
        self,
        structures: Any,
        *,
        errors: Literal["raise", "report"] = "raise",
        as_frame: Literal[True],
        coverage: float | None = None,
        strict: bool = False,
    ) -> pd.DataFrame: ...
    def predict(
        self,
        structures: Any,
        *,
        errors: Literal["raise", "report"] = "raise",
        as_frame: bool = False,
        coverage: float | None = None,
        strict: bool = False,
    ) -> Any:
        """Predict every target for one or many structures, in the order given.

        Args:
            structures: one or an iterable of pymatgen `Structure`, ASE `Atoms`, `Crystal` or paths (structure
                file, directory, table; such a path may stand for many structures). A pandas frame with a column
                `structure` or `cif` gives a frame.
            errors: with `raise`, one structure that cannot be used ends the call before anything is computed; with
                `report`, the others are predicted and a `Rejected` (in a frame: a column `error`) takes its place.
            as_frame: return a pandas frame with the columns name, formula, n_atoms and `target (unit)`; the
                units are also in `frame.attrs["units"]`. Ensembles and calibrated models have more columns,
                `target_std`, `target_low` and `target_high`. The index of a frame or Series of structures stays.
            coverage: share of crystals whose interval shall hold the true value; default: `intervals.COVERAGE` for
                the targets that have enough calibration rows.
            strict: refuse a structure that is unlike the training data; by default its prediction has a flag that
                says why.

        The other structures of a batch change a prediction by rounding only (1e-6 of the spread in float32).

        Raises:
            StructureError: naming the index of the structure that cannot be used.
            ConfigError: if `errors` is neither, or there is no interval of that coverage.
        """
        if errors not in ("raise", "report"):
            raise ConfigError(f"'{errors}' is neither 'raise' nor 'report'", where="errors")
        if coverage is not None and not self.calibration:
            problem = f"{self.name} has no intervals"
            raise ConfigError(problem, where="coverage", remedy="train an ensemble, or leave out the coverage")
        found = self._collect(structures, errors)
        rows = [
            row
            for window in windows(found, WINDOW)
            for row in predict_window([self], window, coverage=coverage, strict=strict)
        ]
        if errors == "raise":
            _raise_first_rejected(rows)
        doubt = self.doubt(coverage)
        if not as_frame and not is_frame(structures):
            return rows
        frame = predictions_frame(rows, self.units, doubt, report=errors == "report")
        if is_frame(structures) or is_series(structures):
            frame.index = structures.index
        return frame

    @overload
    def embed(self, structures: Any, *, per_atom: Literal[False] = False) -> Vectors: ...
    @overload
    def embed(self, structures: Any, *, per_atom: Literal[True]) -> list[Vectors]: ...
    def embed(self, structures: Any, *, per_atom: bool = False) -> Vectors | list[Vectors]:
        """Vectors of the structures, as the network computes them before its property head.

        Returns:
            float32 array (C, D), the mean over the atoms of each crystal; with `per_atom` a list of (N, D).

        Raises:
            StructureError: naming the index of the structure that cannot be used.
        """
        crystals = [row for row in self._collect(structures, "raise") if isinstance(row, Crystal)]
        vectors = self.atom_vectors(crystals)
        if per_atom:
            return vectors
        return np.array([atoms.mean(axis=0) for atoms in vectors], np.float32).reshape(-1, self.dim)

    def values(
        self,
        crystals: Sequence[Crystal],
        advance: Advance = no_progress,
        failed: dict[int, BatchMemoryError] | None = None,
    ) -> NDArray[np.float64]:
        """Physical values, (C, T), in the order given.

        Args:
            crystals: what to predict.
            advance: called with the number of crystals in each batch that is done.
            failed: if given, it receives the index and error of each crystal that does not fit into memory, whose
                values are NaN.

        Raises:
            BatchMemoryError: if a crystal does not fit into memory and `failed` is not given.
        """
        return self._physical(self._standardised(crystals, advance, failed).mean(-1), crystals)

    def estimates(
        self,
        crystals: Sequence[Crystal],
        advance: Advance = no_progress,
        failed: dict[int, BatchMemoryError] | None = None,
        coverage: float | None = None,
    ) -> dict[str, NDArray[np.float64]]:
        """Values, and what is known of the doubt about them.

        Args:
            crystals: what to predict.
            advance: as of `values`.
            failed: as of `values`.
            coverage: as of `predict`.

        Returns:
            Arrays (C, T) in physical units: `values`; of an ensemble `std`, the standard deviation over its members;
            of a calibrated model `low` and `high`, NaN for a target without calibration.

        Raises:
            BatchMemoryError: if a crystal does not fit into memory and `failed` is not given.
            ConfigError: if there is no interval of that coverage.
        """
        widths = self._half_widths(coverage)
        members = self._standardised(crystals, advance, failed)
        mean = members.mean(-1)
        found = {"values": self._physical(mean, crystals)}
        if members.shape[-1] > 1:
            each = [self._physical(members[..., k], crystals) for k in range(members.shape[-1])]
            found["std"] = np.std(each, axis=0, ddof=1)
        if widths:
            width = np.array([widths.get(target.name, np.nan) for target in self.targets])
            found |= {"low": self._physical(mean - width, crystals), "high": self._physical(mean + width, crystals)}
        return found

    def doubt(self, coverage: float | None = None) -> dict[str, list[str]]:
        """What `estimates` gives for each target besides the value: `std`, `low`, `high`."""
        std, widths = ["std"] if len(self.network.members) > 1 else [], self._half_widths(coverage)
        kinds = {name: [*std, *(["low", "high"] if name in widths else [])] for name in self.units}
        return {name: found for name, found in kinds.items() if found}

    def _half_widths(self, coverage: float | None) -> dict[str, float]:
        """Half the width of the interval of each target, in standardised units."""
        if coverage is None:
            return {name: one.half_width(COVERAGE) for name, one in self.calibration.items() if one.allows(COVERAGE)}
        return {name: one.half_width(coverage) for name, one in self.calibration.items()}

    def _standardised(
        self, crystals: Sequence[Crystal], advance: Advance, failed: dict[int, BatchMemoryError] | None
    ) -> NDArray[np.float64]:
        """Predictions of each member in standardised units, (C, T, M)."""
        networks = self.network.members
        standardised = np.full((len(crystals), len(self.targets), len(networks)), np.nan)

        def predict(batch: CrystalBatch) -> Tensor:
            return torch.stack([network(batch) for network in networks], dim=-1)

        for rows, result in self._results(predict, crystals, failed):
            if result is not None:
                standardised[rows] = result
            advance(len(rows))
        return standardised

    def _physical(self, standardised: NDArray[np.float64], crystals: Sequence[Crystal]) -> NDArray[np.float64]:
        """Physical values of standardised ones, both (C, T)."""
        n_atoms = np.array([len(crystal) for crystal in crystals])
        return np.stack(
            [target.physical(standardised[:, k], n_atoms) for k, target in enumerate(self.targets)], axis=-1
        )

    def atom_vectors(self, crystals: Sequence[Crystal], advance: Advance = no_progress) -> list[Vectors]:
        """Vectors of the atoms of each crystal, arrays of shape (N, D), in the order given.

        Raises:
            BatchMemoryError: if a crystal does not fit into memory.
        """
        vectors: list[Vectors] = [np.empty((0, 0), np.float32)] * len(crystals)
        for rows, atoms in self._results(self.network.encode, crystals):
            assert atoms is not None
            ends = np.cumsum([len(crystals[row]) for row in rows])
            for row, part in zip(rows, np.split(atoms.astype(np.float32), ends[:-1]), strict=True):
                vectors[row] = part
            advance(len(rows))
        return vectors

    def _results(
        self,
        function: Callable[[CrystalBatch], Tensor],
        crystals: Sequence[Crystal],
        failed: dict[int, BatchMemoryError] | None = None,
    ) -> Iterator[tuple[list[int], NDArray[np.float64] | None]]:
        """Indices of the crystals of each batch and the function's result; None for one that does not fit."""

        @torch.inference_mode()
        def run(rows: list[int]) -> NDArray[np.float64]:
            batch = CrystalBatch.from_crystals([crystals[row] for row in rows]).to(self.device)
            # Images come from float64 coordinates: in float32 an atom far from the origin would be misplaced.
            batch = with_images(batch, self.radius, directions=self.directions).to(self.dtype)
            return function(batch).double().cpu().numpy()

        costs = [expected_images(crystal, self.radius) for crystal in crystals]
        for rows, result in self.budget.results(costs, run):
            if result is None:
                crystal, images = crystals[rows[0]], costs[rows[0]]
                size = f"{len(crystal)} atoms, about {images:.2g} periodic images"
                problem = f"out of memory with this structure alone ({size})"
                remedy = "use a machine with more memory or a larger tolerance"
                if failed is None:
                    raise BatchMemoryError(problem, where=crystal.name or "structure", remedy=remedy)
                failed[rows[0]] = BatchMemoryError(problem, remedy=remedy)
            yield rows, result

    def _collect(self, structures: Any, errors: Literal["raise", "report"]) -> list[Crystal | Rejected]:
        rows: list[Crystal | Rejected] = []
        if is_frame(structures):
            rows = list(structures_of(structures))
            if errors == "raise":
                _raise_first_rejected(rows)
            return rows
        for index, structure in enumerate(_as_iterable(structures)):
            found = list(_crystals_of(structure, f"structure {index}"))
            if errors == "raise":
                _raise_first_rejected(found, index)
            rows.extend(found)
        return rows


def predict_window(
    models: Sequence[Model],
    window: Sequence[Crystal | Rejected],
    advance: Advance = no_progress,
    coverage: float | None = None,
    *,
    strict: bool = False,
) -> list[Row]:
    """The predictions of all models for the crystals of a window, with the rejected structures in their places.

    Args:
        models: models whose targets have different names.
        window: what `read_structures` yields.
        advance: called with the number of structures in each batch that the last model has done.
        coverage: of the intervals, as of `Model.predict`.
        strict: whether a structure unlike the training data is refused instead of flagged.
    """
    crystals = [row for row in window if isinstance(row, Crystal)]
    units = {name: unit for model in models for name, unit in model.units.items()}
    failed: dict[int, BatchMemoryError] = {}
    tables = [
        model.estimates(crystals, advance if model is models[-1] else no_progress, failed, coverage) for model in models
    ]
    columns = {
        kind: np.concatenate([table.get(kind, 0 * table["values"] + np.nan) for table in tables], axis=-1).tolist()
        for kind in ("values", "std", "low", "high")
    }
    flags = flags_of(models, crystals)
    rows = (
        _row(crystal, {kind: column[k] for kind, column in columns.items()}, units, flags[k], failed.get(k))
        for k, crystal in enumerate(crystals)
    )
    if strict:
        rows = (_refused_if_flagged(row) for row in rows)
    return [row if isinstance(row, Rejected) else next(rows) for row in window]


def _refused_if_flagged(row: Row) -> Row:
    if isinstance(row, Rejected) or not row.flag:
        return row
    return Rejected(row.name, f"it is unlike the training data ({row.flag})", remedy="predict it without strict")


def flags_of(models: Sequence[Model], crystals: Sequence[Crystal]) -> list[str]:
    """For each crystal, why it is unlike the training data of the models; of several models, of which one."""
    found = {model.name: model.domain.flags(crystals) for model in models}
    if len(models) == 1:
        return found[models[0].name]
    return ["; ".join(f"{name}: {flags[k]}" for name, flags in found.items() if flags[k]) for k in range(len(crystals))]


def _row(
    crystal: Crystal, numbers: dict[str, list[float]], units: dict[str, str], flag: str, error: BatchMemoryError | None
) -> Row:
    if error is not None:
        return Rejected.of(crystal.name, error)
    values = dict(zip(units, numbers.pop("values"), strict=True))
    not_finite = [target for target, value in values.items() if not math.isfinite(value)]
    if not_finite:
        problem = f"the prediction of {', '.join(not_finite)} is not finite"
        return Rejected(crystal.name, problem, remedy="check the cell")
    doubt = {
        kind: {target: value for target, value in zip(units, found, strict=True) if not math.isnan(value)}
        for kind, found in numbers.items()
    }
    return Prediction(crystal.name, formula(crystal), len(crystal), values, units, flag=flag, **doubt)


def _as_iterable(structures: Any) -> Iterable[Any]:
    # A pymatgen Structure and ASE Atoms are themselves iterable, over sites, which is never meant here.
    single = (
        isinstance(structures, str | bytes | os.PathLike | Mapping)
        or not isinstance(structures, Iterable)
        or any(hasattr(structures, attribute) for attribute in ("lattice", "cell"))
    )
    return [structures] if single else structures


def _crystals_of(structure: Any, name: str) -> Iterator[Crystal | Rejected]:
    if isinstance(structure, str | os.PathLike):
        yield from read_structures([Path(structure)])
        return
    try:
        yield as_crystal(structure, getattr(structure, "name", "") or name)
    except StructureError as error:
        yield Rejected.of(name, error)


def _raise_first_rejected(rows: Iterable[Any], index: int | None = None) -> None:
    """Raise a StructureError for the first rejected structure, with its position or the index that all rows share."""
    for position, row in enumerate(rows):
        if isinstance(row, Rejected):
            label = f"structure {position if index is None else index}"
            where = f"{label}: {row.where}" if row.where not in {"", label} else label
            raise StructureError(row.problem, where=where, remedy=row.remedy)


def _device(name: str) -> torch.device:
    name = str(name)  # a torch.device as well
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ConfigError(f"'{name}' is unknown", where="device", remedy="use cpu, cuda or cuda:0")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        problem = f"'{name}' is not available: PyTorch sees {torch.cuda.device_count()} CUDA devices"
        raise ConfigError(problem, where="device", remedy="use cpu")
    return device
