"""From structures to rows of predictions, for one model or several: reading, windows, values, doubt and flags.

Shapes: C crystals, T targets.
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.errors import BatchMemoryError, ConfigError, StructureError
from crystalformers.io import Rejected, as_crystal, formula, read_structures
from crystalformers.io.pandas_tables import is_frame, is_series, structures_of
from crystalformers.prediction.batching import Advance, no_progress, windows
from crystalformers.prediction.intervals import check_coverage
from crystalformers.prediction.progress import progress_bar
from crystalformers.prediction.reference import FLAG_PERCENTILE
from crystalformers.prediction.rows import Prediction, Row, predictions_frame
from crystalformers.target import Target

if TYPE_CHECKING:
    import pandas as pd

WINDOW = 512
"""Structures that are sorted by size together. Results come in input order, one window after the other."""


@dataclass(frozen=True)
class Settings:
    """What a user chooses about predictions, besides the models.

    Attributes:
        coverage: share of crystals whose interval shall hold the true value; None: `intervals.COVERAGE` for the
            targets that have enough calibration rows.
        strict: whether a structure unlike the training data is refused instead of flagged.
        flag_percentile: a structure is flagged if it is farther from the training crystals than this percentage of the
            held-out ones.

    Raises:
        ConfigError: if the coverage does not lie between 0 and 1, or the percentile between 0 and 100.
    """

    coverage: float | None = None
    strict: bool = False
    flag_percentile: float = FLAG_PERCENTILE

    def __post_init__(self) -> None:
        if self.coverage is not None:
            check_coverage(self.coverage)
        if not 0 <= self.flag_percentile <= 100:
            problem = f"{self.flag_percentile:g} does not lie between 0 and 100"
            raise ConfigError(problem, where="flag_percentile", remedy=f"use {FLAG_PERCENTILE:g}")


Estimates = dict[str, NDArray[Any]]
"""`values` and, where they are known, `std`, `low` and `high`, all (C, T) in physical units, NaN for a target that has
none; `flag`, (C,), why a crystal is unlike the training data; where it is known, `distance_percentile`, (C,)."""


class Predictor(ABC):
    """What predicts targets with units for structures.

    Attributes:
        name: how messages call it.
        targets: what it predicts.
        units: unit of each target, by its name.
    """

    name: str
    targets: tuple[Target, ...]
    units: dict[str, str]

    @abstractmethod
    def estimates(
        self,
        crystals: Sequence[Crystal],
        advance: Advance = no_progress,
        failed: dict[int, BatchMemoryError] | None = None,
        coverage: float | None = None,
        flag_percentile: float = FLAG_PERCENTILE,
    ) -> Estimates:
        """Values, and what is known of the doubt about them.

        Args:
            crystals: what to predict.
            advance: called with the number of crystals in each batch that is done.
            failed: if given, it receives the index and error of each crystal that does not fit into memory, whose
                values are NaN.
            coverage: as of `predict`.
            flag_percentile: as of `predict`.

        Raises:
            BatchMemoryError: if a crystal does not fit into memory and `failed` is not given.
            ConfigError: if there is no interval of that coverage.
        """

    @abstractmethod
    def doubt(self, coverage: float | None = None) -> dict[str, list[str]]:
        """What `estimates` gives for each target besides the value: `std`, `low`, `high`.

        Raises:
            ConfigError: if there is no interval of that coverage.
        """

    @property
    @abstractmethod
    def knows_distances(self) -> bool:
        """Whether `estimates` gives the distance to the training crystals."""

    def doubt_columns(self, coverage: float | None = None) -> dict[str, list[str]]:
        """`doubt`, and under the empty name what is known of the structure itself, for `rows.columns`."""
        return self.doubt(coverage) | ({"": ["distance_percentile"]} if self.knows_distances else {})

    @overload
    def predict(
        self,
        structures: pd.DataFrame,
        *,
        errors: Literal["raise", "report"] = "raise",
        as_frame: bool = True,
        coverage: float | None = None,
        strict: bool = False,
        flag_percentile: float = FLAG_PERCENTILE,
        progress: bool = False,
    ) -> pd.DataFrame: ...
    @overload
    def predict(
        self,
        structures: Any,
        *,
        errors: Literal["raise"] = "raise",
        coverage: float | None = None,
        strict: bool = False,
        flag_percentile: float = FLAG_PERCENTILE,
        progress: bool = False,
    ) -> list[Prediction]: ...
    @overload
    def predict(
        self,
        structures: Any,
        *,
        errors: Literal["report"],
        coverage: float | None = None,
        strict: bool = False,
        flag_percentile: float = FLAG_PERCENTILE,
        progress: bool = False,
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
        flag_percentile: float = FLAG_PERCENTILE,
        progress: bool = False,
    ) -> pd.DataFrame: ...
    def predict(
        self,
        structures: Any,
        *,
        errors: Literal["raise", "report"] = "raise",
        as_frame: bool = False,
        coverage: float | None = None,
        strict: bool = False,
        flag_percentile: float = FLAG_PERCENTILE,
        progress: bool = False,
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
                `target_std`, `target_low` and `target_high`, and models that know where their training crystals lie
                the column `distance_percentile`. The index of a frame or Series of structures stays.
            coverage: as of `Settings`.
            strict: as of `Settings`; by default a structure unlike the training data has a flag that says why.
            flag_percentile: as of `Settings`.
            progress: show a bar, in a terminal or a notebook.

        The other structures of a batch change a prediction by rounding only (1e-6 of the spread in float32).

        Raises:
            StructureError: naming the index of the structure that cannot be used.
            ConfigError: if `errors` is neither, or there is no interval of that coverage.
        """
        if errors not in ("raise", "report"):
            raise ConfigError(f"'{errors}' is neither 'raise' nor 'report'", where="errors")
        settings, doubt = Settings(coverage, strict, flag_percentile), self.doubt_columns(coverage)
        found = collect(structures, errors)
        with progress_bar(sum(isinstance(one, Crystal) for one in found), shown=progress) as advance:
            rows = [row for window in windows(found, WINDOW) for row in predict_window(self, window, settings, advance)]
        if errors == "raise":
            _raise_first_rejected(rows)
        if not as_frame and not is_frame(structures):
            return rows
        frame = predictions_frame(rows, self.units, doubt, report=errors == "report")
        if is_frame(structures) or is_series(structures):
            frame.index = structures.index
        return frame


def predict_window(
    predictor: Predictor, window: Sequence[Crystal | Rejected], settings: Settings, advance: Advance = no_progress
) -> list[Row]:
    """The predictions for the crystals of a window, with the rejected structures in their places.

    Args:
        predictor: one model, or several.
        window: what `read_structures` yields.
        settings: coverage, flags.
        advance: called with the number of structures in each batch that is done.
    """
    crystals = [row for row in window if isinstance(row, Crystal)]
    failed: dict[int, BatchMemoryError] = {}
    found = predictor.estimates(crystals, advance, failed, settings.coverage, settings.flag_percentile)
    columns = {kind: array.tolist() for kind, array in found.items()}
    rows: Iterator[Row] = (
        _row(crystal, {kind: column[k] for kind, column in columns.items()}, predictor.units, failed.get(k))
        for k, crystal in enumerate(crystals)
    )
    if settings.strict:
        rows = (_refused_if_flagged(row) for row in rows)
    return [row if isinstance(row, Rejected) else next(rows) for row in window]


def _refused_if_flagged(row: Row) -> Row:
    if isinstance(row, Rejected) or not row.flag:
        return row
    return Rejected(row.name, f"it is unlike the training data ({row.flag})", remedy="predict it without strict")


def _row(crystal: Crystal, found: dict[str, Any], units: dict[str, str], error: BatchMemoryError | None) -> Row:
    if error is not None:
        return Rejected.of(crystal.name, error)
    values = dict(zip(units, found["values"], strict=True))
    not_finite = [target for target, value in values.items() if not math.isfinite(value)]
    if not_finite:
        problem = f"the prediction of {', '.join(not_finite)} is not finite"
        return Rejected(crystal.name, problem, remedy="check the cell")
    doubt: dict[str, Any] = {
        kind: {target: value for target, value in zip(units, found[kind], strict=True) if not math.isnan(value)}
        for kind in ("std", "low", "high")
        if kind in found
    }
    about = (crystal.name, formula(crystal), len(crystal), values, units, found["flag"])
    return Prediction(*about, **doubt, distance_percentile=found.get("distance_percentile"), crystal=crystal)


def collect(structures: Any, errors: Literal["raise", "report"]) -> list[Crystal | Rejected]:
    """The crystals that are given in whatever form, as of `Predictor.predict`.

    Raises:
        StructureError: with `raise`, naming the index of the structure that cannot be used.
    """
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
