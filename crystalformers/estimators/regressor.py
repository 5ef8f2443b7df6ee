"""`CrystalRegressor`: train a model on structures and values, as scikit-learn does.

Shapes: n entries of X.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import assert_all_finite, check_is_fitted

from crystalformers.crystal import Crystal
from crystalformers.data.split import SPLIT_COLUMN
from crystalformers.data.table import open_table
from crystalformers.errors import ConfigError, TableError
from crystalformers.estimators.base import FittedModel, checked_collection, warn_of_rejected
from crystalformers.io.pandas_tables import is_frame, is_series, structures_of
from crystalformers.io.source import NO_LABELS
from crystalformers.prediction.intervals import COVERAGE
from crystalformers.prediction.rows import Prediction
from crystalformers.target import Basis, Target, Transform
from crystalformers.training import Recipe, fit, fit_ensemble
from crystalformers.training.recipe import accelerator_of
from crystalformers.training.yaml_settings import with_overrides

if TYPE_CHECKING:
    import pandas as pd

TARGET = "target"
"""Name of the target if y has none."""


class CrystalRegressor(RegressorMixin, FittedModel):  # type: ignore[misc] # scikit-learn has no types
    """Train a model on structures and the values of one property, and predict it.

    >>> from crystalformers import CrystalRegressor
    >>> model = CrystalRegressor(init="materials-project", members=5, unit="GPa")
    >>> model.fit(frame["structure"], frame["bulk_modulus"])  # doctest: +SKIP
    >>> mean, low, high = model.predict_interval(structures, coverage=0.9)  # doctest: +SKIP

    `clone`, `GridSearchCV`, `cross_val_predict`, pipelines, `pickle` and joblib work as with any regressor. A structure
    that cannot be used costs its own row: it is named in a warning, left out of `fit`, and predicted as NaN.

    Args:
        init: model to start from (fine-tuning), as `load_model` takes it; None for random weights.
        members: models to train; an ensemble, and hence intervals, if there are several.
        unit: unit of y. A model to start from that predicts the target in another unit is refused.
        target: name of the target; None for that of y if it is a Series, else `TARGET`.
        basis: of y, as of `Target`.
        y_transform: of y before learning, `none` or `log10`.
        epochs: passes over the data; None for the default of the recipe, as for the following.
        batch_size: crystals per step.
        lr: peak learning rate.
        seed: of all randomness; the same seed gives the same model.
        settings: any other settings of a `Recipe`, `{"init.freeze": 2, "model": {"dim": 64}}`.
        device: where to compute, `cpu` or `cuda`.
        threads: CPU threads of training.

    Attributes:
        weights_: the weight file (safetensors), as `train` writes it.
        model_: the trained `Model`.
    """

    def __init__(  # noqa: PLR0913, PLR0917 - a parameter of scikit-learn is an argument
        self,
        init: str | os.PathLike[str] | None = None,
        members: int = 1,
        unit: str = "dimensionless",
        target: str | None = None,
        basis: Basis = "intensive",
        y_transform: Transform = "none",
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self.init = init
        self.members = members
        self.unit = unit
        self.target = target
        self.basis = basis
        self.y_transform = y_transform
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.seed = seed
        self.settings = settings
        self.device = device
        self.threads = threads

    def fit(self, X: Any, y: ArrayLike) -> Self:
        """Train on all rows: no test rows are set aside, and `members` divide the rows among them.

        Args:
            X: n structures.
            y: n values in `unit`, finite.

        Raises:
            ValueError: if X and y differ in length, or y holds NaN or is not one-dimensional.
            ConfigError: if a setting is unknown or out of range.
            TableError: if there are too few rows.
            TargetError: if all values are equal.
        """
        import pandas as pd

        values = _checked_labels(X, y)
        name = self.target or str(getattr(y, "name", None) or TARGET)
        if name in {SPLIT_COLUMN, *NO_LABELS}:
            raise ConfigError(f"a target cannot be called '{name}'", where="target", remedy="give it another name")
        target = Target(name, self.unit, self.basis, self.y_transform)
        found = list(structures_of(X))
        warn_of_rejected(found)
        good = [k for k, one in enumerate(found) if isinstance(one, Crystal)]
        rows = {"id": [str(k) for k in good], "structure": [found[k] for k in good], target.name: values[good]}
        table, recipe = open_table(pd.DataFrame(rows)), self._recipe()
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            if self.members > 1:
                weights = fit_ensemble(table, [target], run, recipe, self.members)
            else:
                weights = fit(table, [target], run, recipe)
            self._use(weights.read_bytes())
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Values in `unit`, (n,); NaN for a structure that cannot be used.

        It is an array also for a Series, since tools of scikit-learn, such as `TransformedTargetRegressor`, need one.
        """
        return self._estimates(X, None)[0]

    def predict_interval(self, X: Any, coverage: float = COVERAGE) -> tuple[Any, Any, Any]:
        """Values, and the lower and upper ends of intervals that hold the true value for a share of crystals.

        Args:
            X: n structures.
            coverage: that share, for crystals drawn like those of `fit`.

        Returns:
            Three arrays (n,) in `unit`; if X is a Series or frame, three Series with its index.

        Raises:
            ConfigError: if the model was trained on too few rows for that coverage. An ensemble needs fewer: every row
                is held out once.
        """
        check_is_fitted(self)
        if not self.model_.calibration:
            problem = "too few rows were held out for intervals"
            raise ConfigError(problem, where="predict_interval", remedy="fit with members=5, or more rows")
        return tuple(_with_index(values, X) for values in self._estimates(X, coverage))  # type: ignore[return-value]

    def _estimates(self, X: Any, coverage: float | None) -> list[NDArray[np.float64]]:
        """Values, lower and upper ends, each (n,)."""
        check_is_fitted(self)
        found = list(structures_of(checked_collection(X)))
        warn_of_rejected(found)
        crystals = [one for one in found if isinstance(one, Crystal)]
        rows = self.model_.predict(crystals, errors="report", coverage=coverage)
        warn_of_rejected(rows)
        columns = np.full((3, len(found)), np.nan)
        places = [k for k, one in enumerate(found) if isinstance(one, Crystal)]
        for place, row in zip(places, rows, strict=True):
            if isinstance(row, Prediction):
                (target,) = row.units
                columns[:, place] = [kind.get(target, np.nan) for kind in (row.values, row.low, row.high)]  # noqa: PD011
        return list(columns)

    def _recipe(self) -> Recipe:
        """The settings of the run; every row is for training unless `settings` say otherwise."""
        named: dict[str, Any] = {
            name: getattr(self, name) for name in ("epochs", "batch_size", "lr", "seed", "threads")
        }
        named["init.model"] = None if self.init is None else str(self.init)
        given = {name: value for name, value in named.items() if value is not None}
        start = {"test_fraction": 0.0, "accelerator": accelerator_of(self.device)}
        return Recipe.parse(with_overrides(with_overrides(start, dict(self.settings or {})), given))


def _checked_labels(X: Any, y: ArrayLike) -> NDArray[np.float64]:
    if y is None:
        raise ValueError("This CrystalRegressor estimator requires y to be passed, but the target y is None")
    check_consistent_length(checked_collection(X), y)
    values: NDArray[np.float64] = column_or_1d(y, warn=True, dtype=np.float64)
    assert_all_finite(values, input_name="y")
    if len(values) < 2:
        raise TableError(f"{len(values)} samples are too few to train on (n_samples = {len(values)})", where="X")
    return values


def _with_index(values: NDArray[np.float64], X: Any) -> NDArray[np.float64] | pd.Series[float]:
    import pandas as pd

    return pd.Series(values, index=X.index) if is_frame(X) or is_series(X) else values
