"""Several models that predict together: models with the same target are an ensemble.

Shapes: C crystals, T targets of all models together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crystalformers.crystal import Crystal
from crystalformers.errors import BatchMemoryError, ConfigError
from crystalformers.prediction.batching import Advance, no_progress
from crystalformers.prediction.intervals import COVERAGE, union_level
from crystalformers.prediction.model import Model, network_outputs
from crystalformers.prediction.predictor import Estimates, Predictor, Settings
from crystalformers.prediction.reference import FLAG_PERCENTILE
from crystalformers.target import Target


class Models(Predictor):
    """Several models as one; made by `load_model` from a list.

    A target of several models is predicted by the mean of their values, and its `std` is the standard deviation over
    them. (The members of one ensemble file are averaged before a logarithm is undone; these values are averaged after
    it.) Each model was calibrated on rows of its own, so the interval is the mean of theirs at the coverage at which
    all of them hold at once, `intervals.union_level`: that promises what is asked for whatever the models have in
    common, and is wider than that of an ensemble that was trained as one. It needs the intervals of all.

    Args:
        models: at least one.

    Attributes:
        models: the models.
        name: the names of all.
        targets: those of all, in the order in which the models have them; of one that several predict, the mean and
            spread of the training labels are those of the first.
        units: unit of each target, by its name.

    Raises:
        ConfigError: if two of them are the same and predict the same, or predict a target in different units.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        self.models = tuple(models)
        self.name = ", ".join(model.name for model in models)
        first: dict[str, tuple[Model, Target]] = {}
        for k, model in enumerate(models):
            for target in model.targets:
                _check_same(*first.setdefault(target.name, (model, target)), model, target)
            for other in models[:k]:
                if model.fingerprint == other.fingerprint:
                    problem = f"models '{other.name}' and '{model.name}' both predict {', '.join(model.units)}"
                    raise ConfigError(f"{problem}, and are the same", remedy="name each model once")
        self.targets = tuple(target for _, target in first.values())
        self.units = {target.name: target.unit for target in self.targets}

    def __repr__(self) -> str:
        return f"Models({', '.join(map(repr, self.models))})"

    def _repr_html_(self) -> str:
        """What a notebook shows: every model."""
        return "".join(model._repr_html_() for model in self.models)

    def estimates(
        self,
        crystals: Sequence[Crystal],
        advance: Advance = no_progress,
        failed: dict[int, BatchMemoryError] | None = None,
        coverage: float | None = None,
        flag_percentile: float = FLAG_PERCENTILE,
    ) -> Estimates:
        """As of `Predictor`; the distance percentile is the largest of the models."""
        levels, doubt = self._levels(coverage), self.doubt(coverage)
        tables = [
            model.estimates_from(
                found, crystals, {t: c for t, c in levels.items() if t in model.units}, flag_percentile
            )
            for model, found in zip(self.models, network_outputs(self.models, crystals, advance, failed), strict=True)
        ]
        columns: dict[str, list[NDArray[np.float64]]] = {"values": [], "std": [], "low": [], "high": []}
        for target in self.units:
            own = [
                {kind: table[kind][:, list(model.units).index(target)] for kind in columns if kind in table}
                for model, table in zip(self.models, tables, strict=True)
                if target in model.units
            ]
            kinds = doubt.get(target, [])
            columns["values"].append(np.mean([one["values"] for one in own], axis=0))
            columns["std"].append(_spread(own) if "std" in kinds else np.full(len(crystals), np.nan))
            for kind in ("low", "high"):
                ends = [one[kind] for one in own] if kind in kinds else [np.full(len(crystals), np.nan)]
                columns[kind].append(np.mean(ends, axis=0))
        estimates: Estimates = {kind: np.stack(found, axis=-1) for kind, found in columns.items()}
        percentiles = [table["distance_percentile"] for table in tables if "distance_percentile" in table]
        if percentiles:
            estimates["distance_percentile"] = np.max(percentiles, axis=0)
        flags = [self._flag([table["flag"][k] for table in tables]) for k in range(len(crystals))]
        return {**estimates, "flag": np.array(flags, dtype=object)}

    def doubt(self, coverage: float | None = None) -> dict[str, list[str]]:
        """As of `Predictor`."""
        levels = self._levels(coverage)
        kinds = {}
        for target in self.units:
            owners = self._owners(target)
            std = len(owners) > 1 or len(owners[0].network.members) > 1
            kinds[target] = [*(["std"] if std else []), *(["low", "high"] if target in levels else [])]
        return {target: found for target, found in kinds.items() if found}

    @property
    def knows_distances(self) -> bool:
        """As of `Predictor`: whether a model does."""
        return any(model.knows_distances for model in self.models)

    def about(self, settings: Settings) -> dict[str, Any]:
        """How the models predict: all that an interrupted run must find unchanged, as JSON."""
        doubt, first = self.doubt_columns(settings.coverage), self.models[0]
        intervals = any("low" in kinds for kinds in doubt.values())
        return {
            "models": [{"name": model.name, "sha256": model.fingerprint} for model in self.models],
            "units": self.units,
            "tolerance": first.tolerance,
            "dtype": str(first.dtype).removeprefix("torch."),
            "strict": settings.strict,
            **({"doubt": doubt} if doubt else {}),
            **({"coverage": COVERAGE if settings.coverage is None else settings.coverage} if intervals else {}),
            **({"flag_percentile": settings.flag_percentile} if self.knows_distances else {}),
        }

    def _levels(self, coverage: float | None) -> dict[str, float]:
        """Coverage of the intervals that each model gives for a target, as far as all of its models have any."""
        levels = {}
        for target in self.units:
            owners = self._owners(target)
            level = union_level(COVERAGE if coverage is None else coverage, len(owners))
            without = [model for model in owners if target not in model.calibration]
            if not without:
                if coverage is None and not all(model.calibration[target].allows(level) for model in owners):
                    continue
                levels[target] = level
                for model in owners:
                    _check_rows(model, target, level)
            elif coverage is not None and len(without) < len(owners):
                problem = f"{without[0].name} has no intervals of {target}, so its ensemble with others has none"
                raise ConfigError(problem, where="coverage", remedy="leave out the coverage, or that model")
        if coverage is not None and not levels:
            raise ConfigError("no model here has intervals", where="coverage", remedy="leave it out")
        return levels

    def _owners(self, target: str) -> list[Model]:
        return [model for model in self.models if target in model.units]

    def _flag(self, flags: Sequence[str]) -> str:
        """The reasons of all models, each with its name if there are several."""
        if len(self.models) == 1:
            return flags[0]
        return "; ".join(f"{model.name}: {flag}" for model, flag in zip(self.models, flags, strict=True) if flag)


def _spread(own: Sequence[dict[str, NDArray[np.float64]]]) -> NDArray[np.float64]:
    """Standard deviation over several models, or that over the members of the only one, (C,)."""
    if len(own) == 1:
        return own[0]["std"]
    return np.asarray(np.std([one["values"] for one in own], axis=0, ddof=1))


def _check_rows(model: Model, target: str, level: float) -> None:
    try:
        model.calibration[target].half_width(level)
    except ConfigError as error:
        raise ConfigError.within(model.name, error) from None


def _check_same(first: Model, before: Target, model: Model, now: Target) -> None:
    for field in ("unit", "basis"):
        if getattr(before, field) != getattr(now, field):
            raise ConfigError(
                f"'{first.name}' predicts {now.name} with {field} '{getattr(before, field)}', '{model.name}' with "
                f"'{getattr(now, field)}'",
                remedy="run them one by one",
            )
