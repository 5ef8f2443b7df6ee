"""The scikit-learn face: scikit-learn's own checks, its tools, pickles, intervals, and what is not an array."""

from __future__ import annotations

import io
import pickle
import pickletools
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from samples import many, rock_salt
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import validate_data

from crystalformers import CrystalEmbedder, CrystalRegressor, Recipe, Target, load_model, open_table
from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError, TableError
from crystalformers.training import fit_ensemble

TINY: dict[str, Any] = {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 16, "radial_functions": 8}
SETTINGS: dict[str, Any] = {"model": TINY, "tolerance": 1e-3, "average_epochs": 1}
QUICK: dict[str, Any] = {"settings": SETTINGS, "epochs": 2, "batch_size": 8, "threads": 1}


def crystals_of(X: Any) -> list[Crystal]:
    """A crystal for each row of numbers, two rows alike only if their crystals are."""
    edges = 4.5 + 0.5 * np.tanh(np.asarray(X, dtype=np.float64) @ np.linspace(0.5, 1.5, X.shape[1]) / 10)
    return [rock_salt(a=float(edge), name=str(k)) for k, edge in enumerate(edges)]


class OnArrays:
    """Lets scikit-learn's checks, which make arrays of numbers, reach an estimator of crystals."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array = True
        return tags


class RegressorOnArrays(OnArrays, CrystalRegressor):
    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.regressor_tags.poor_score = True  # a model of few numbers, trained for two epochs
        return tags

    def fit(self, X: Any, y: Any) -> Any:
        return super().fit(crystals_of(validate_data(self, X, dtype=np.float64)), y)

    def _estimates(self, X: Any, coverage: float | None) -> Any:
        return super()._estimates(crystals_of(validate_data(self, X, dtype=np.float64, reset=False)), coverage)


class EmbedderOnArrays(OnArrays, CrystalEmbedder):
    def fit(self, X: Any, y: Any = None) -> Any:
        return super().fit(crystals_of(validate_data(self, X, dtype=np.float64)), y)

    def transform(self, X: Any) -> Any:
        return super().transform(crystals_of(validate_data(self, X, dtype=np.float64, reset=False)))


EXCEPTIONS: dict[str, dict[str, str]] = {
    "EmbedderOnArrays": {
        "check_methods_subset_invariance": "asks for 1e-7; the other crystals of a batch change float32 by 1e-6"
    },
}
"""The checks of scikit-learn that cannot be passed, and why. The adapters above are the other exception: arrays of
numbers are no structures."""


@parametrize_with_checks(
    [RegressorOnArrays(**QUICK), EmbedderOnArrays()],
    expected_failed_checks=lambda estimator: EXCEPTIONS.get(type(estimator).__name__, {}),
)
def test_scikit_learn_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def regressor(**changes: Any) -> CrystalRegressor:
    return CrystalRegressor(**{**QUICK, **changes})


@pytest.fixture(scope="module")
def data() -> tuple[list[Crystal], np.ndarray]:
    crystals = many(24)
    return crystals, np.array([float(crystal.numbers[0] % 7) for crystal in crystals])


@pytest.fixture(scope="module")
def fitted(data: Any) -> CrystalRegressor:
    return regressor(members=3).fit(*data)


def test_it_is_the_ensemble_of_the_library(data: Any, fitted: CrystalRegressor, tmp_path: Path) -> None:
    """The same weights as `fit_ensemble` gives for the same table and recipe."""
    frame = pd.DataFrame({"id": [str(k) for k in range(24)], "structure": data[0], "target": data[1]})
    options = {**SETTINGS, "epochs": 2, "batch_size": 8, "threads": 1, "accelerator": "cpu", "test_fraction": 0.0}
    target = Target("target", "dimensionless")
    path = fit_ensemble(open_table(frame), [target], tmp_path / "run", Recipe.parse(options), 3)
    assert path.read_bytes() == fitted.weights_
    expected = load_model(path).estimates(data[0], coverage=0.8)
    found = fitted.predict_interval(data[0], coverage=0.8)
    for values, kind in zip(found, ("values", "low", "high"), strict=True):
        assert np.array_equal(values, expected[kind][:, 0])
    assert np.array_equal(fitted.predict(data[0]), expected["values"][:, 0])


def test_fine_tuning_starts_from_the_model_that_is_named(data: Any) -> None:
    model = regressor(init="materials-project", settings={"average_epochs": 1, "init.freeze": 3}, epochs=1)
    model.fit(data[0][:12], data[1][:12])
    assert model.model_.card["init"]["model"] == "materials-project"
    assert model.model_.dim == load_model("materials-project").dim


@pytest.mark.parametrize("dump", ["pickle", "joblib"])
def test_a_pickle_holds_weights_and_no_module(data: Any, fitted: CrystalRegressor, dump: str) -> None:
    for estimator, method in ((fitted, "predict"), (CrystalEmbedder().fit(), "transform")):
        before = getattr(estimator, method)(data[0])
        file = io.BytesIO()
        (pickle if dump == "pickle" else joblib).dump(estimator, file)
        named = {name for _, name, _ in pickletools.genops(file.getvalue()) if isinstance(name, str)}
        assert not any(name.startswith("torch") for name in named), named
        again = (pickle.loads if dump == "pickle" else lambda content: joblib.load(io.BytesIO(content)))(
            file.getvalue()
        )
        assert again.weights_ == estimator.weights_
        assert np.array_equal(getattr(again, method)(data[0]), before)


def test_tools_of_scikit_learn(data: Any) -> None:
    X, y = data
    search = GridSearchCV(regressor(), {"lr": [1e-3, 1e-2]}, cv=2, scoring="neg_mean_absolute_error").fit(X, y)
    assert search.best_params_["lr"] in {1e-3, 1e-2}
    assert search.predict(X).shape == (24,)
    assert np.isfinite(cross_val_score(regressor(), X, y, cv=2)).all()
    held_out = cross_val_predict(regressor(), pd.Series(X), y, cv=2)
    assert np.array_equal(held_out[:12], regressor().fit(X[12:], y[12:]).predict(X[:12]))
    log = TransformedTargetRegressor(regressor(), func=np.log1p, inverse_func=np.expm1).fit(pd.Series(X), y)
    assert log.predict(pd.Series(X)).shape == (24,)


def test_a_clone_is_not_fitted_and_has_the_same_parameters(fitted: CrystalRegressor) -> None:
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(many(2))


def test_vectors_are_those_of_the_library(data: Any) -> None:
    X, y = data
    embedder = CrystalEmbedder().fit(X)
    expected = load_model("materials-project").embed(X)
    assert np.array_equal(embedder.transform(X), expected)
    names = embedder.get_feature_names_out()
    assert (len(names), names[0]) == (expected.shape[1], "crystalembedder0")
    pipeline = make_pipeline(CrystalEmbedder(), Ridge()).fit(pd.Series(X), y)
    assert pipeline.score(X, y) > 0.9
    series = pd.Series(X, index=[f"row {k}" for k in range(24)])
    frame = embedder.set_output(transform="pandas").transform(series)
    assert list(frame.index) == list(series.index)
    assert list(frame.columns) == list(names)


def test_the_index_of_a_series_is_that_of_its_intervals(data: Any, fitted: CrystalRegressor) -> None:
    series = pd.Series(data[0], index=range(100, 124), name="structure")
    for table in (series, series.to_frame()):
        mean, low, high = fitted.predict_interval(table, coverage=0.5)
        assert list(mean.index) == list(low.index) == list(high.index) == list(series.index)
        assert np.array_equal(mean.to_numpy(), fitted.predict(data[0]))
        assert ((low < mean) & (mean < high)).all()
    assert isinstance(fitted.predict(series), np.ndarray)


def test_intervals_need_held_out_rows(data: Any, fitted: CrystalRegressor) -> None:
    with pytest.raises(ConfigError, match="too few rows were held out for intervals; fit with members=5"):
        regressor().fit(*data).predict_interval(data[0])
    with pytest.raises(ConfigError, match="needs 99 rows"):
        fitted.predict_interval(data[0], coverage=0.99)


def test_a_bad_structure_costs_its_row(data: Any, fitted: CrystalRegressor) -> None:
    X = [*data[0][:3], 7, None, *data[0][3:5]]
    with pytest.warns(UserWarning, match=r"2 of 7 structures could not be used:\n  structure 3: an int is not a struc"):
        predicted = fitted.predict(X)
    assert np.isnan(predicted).tolist() == [False] * 3 + [True] * 2 + [False] * 2
    assert np.array_equal(predicted[[0, 1, 2, 5, 6]], fitted.predict(data[0][:5]))
    with pytest.warns(UserWarning, match="2 of 7"):
        assert np.isnan(CrystalEmbedder().fit().transform(X)[3:5]).all()
    crystals, y = [*data[0], None], [*data[1], 3.0]
    with pytest.warns(UserWarning, match="1 of 25"):
        model = regressor().fit(crystals, y)
    assert model.weights_ == regressor().fit(*data).weights_


@pytest.mark.parametrize(
    ("y", "words"),
    [([1.0, np.nan] * 12, "contains NaN"), ([1.0] * 3, "inconsistent numbers"), ([[1.0, 2.0]] * 24, "1d array")],
)
def test_labels_that_are_none_are_refused(data: Any, y: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        regressor().fit(data[0], y)


@pytest.mark.parametrize("X", ["NaCl.cif", rock_salt(), 7])
def test_what_is_no_collection_is_refused(X: Any, fitted: CrystalRegressor) -> None:
    with pytest.raises(ConfigError, match="no collection of structures"):
        fitted.predict(X)


def test_settings_are_checked_when_it_is_fitted(data: Any) -> None:
    with pytest.raises(ConfigError, match="Unknown setting 'dimm'"):
        regressor(settings={"dimm": 3}).fit(*data)
    with pytest.raises(ConfigError, match="training takes cpu or cuda, not 'cuda:7'"):
        regressor(device="cuda:7").fit(*data)
    with pytest.raises(ConfigError, match="a target cannot be called 'split'"):
        regressor().fit(data[0], pd.Series(data[1], name="split"))
    with pytest.raises(TableError, match="too few"):
        regressor().fit(data[0][:1], data[1][:1])


def test_importing_the_package_imports_neither_scikit_learn_nor_torch() -> None:
    code = (
        "import sys, crystalformers; crystalformers.read_structures; assert not {'sklearn', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_scikit_learn_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    for name in [name for name in sys.modules if name.startswith("crystalformers.estimators")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ConfigError, match=r"pip install 'crystalformers\[sklearn\]'"):
        import_module("crystalformers.estimators")
