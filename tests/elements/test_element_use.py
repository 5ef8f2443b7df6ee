"""What element vectors are for: out of a trained model, neighbours and substitutes, features of compositions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from samples import ENERGY, tiny_model

from crystalformers import load_model
from crystalformers.checkpoint import load_checkpoint, save_model
from crystalformers.elements import ElementTable, load_elements
from crystalformers.elements.composition import composition_features, feature_names
from crystalformers.elements.similarity import cosines, nearest, substitutes, substitutions
from crystalformers.elements.trained import from_model
from crystalformers.errors import ConfigError, TableError
from crystalformers.models import build_model

SEEN = {"H": 3, "Fe": 12, "Cf": 1}


@pytest.fixture
def halogens() -> ElementTable:
    """A made-up table in which likeness is known: two families, one large common part."""
    vectors = {
        "F": [100, 1, 0.0],
        "Cl": [100, 1, 0.1],
        "I": [100, 1, 0.4],
        "Li": [100, -1, 0.0],
        "Na": [100, -1, 0.1],
        "Mg": [100, -1, -0.1],
    }
    return ElementTable.of("families", vectors)


def test_the_table_of_a_crystalformer_holds_what_training_has_seen(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.safetensors")
    table = from_model(path, SEEN, about={"licence": "MIT"})
    assert table.name == "tiny"
    assert table.symbols == ("H", "Fe", "Cf")
    assert table.counts is not None
    assert table.counts.tolist() == [3, 12, 1]
    weight = load_checkpoint(path).model.embedding.weight.detach()
    np.testing.assert_array_equal(table.vectors, weight[[0, 25, 97]])
    assert table.metadata["targets"][0]["unit"] == "eV/atom"
    assert table.metadata["licence"] == "MIT"
    np.testing.assert_array_equal(from_model(load_model(path), SEEN).vectors, table.vectors)


def test_the_table_of_a_crystaltransformer_is_weight_and_bias(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 8, "radial_functions": 4, "n_targets": 1}
    model = build_model("crystaltransformer", config)
    torch.nn.init.normal_(model.atom_embed.bias)
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "model.safetensors"
    save_model(path, model, [ENERGY], {"element_counts": SEEN, "seed": 4})
    for source in (path, path.parent):
        table = load_elements(source)
        assert table.name == "run"
        np.testing.assert_allclose(
            table["Fe"], (model.atom_embed.weight[:, 25] + model.atom_embed.bias).detach(), rtol=1e-6
        )
        assert "O" not in table
        assert table.metadata["seed"] == 4


def test_the_table_of_a_backend_is_its_own_vectors(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = build_model("cgcnn", {"n_targets": 1})
    save_model(tmp_path / "c.safetensors", model, [ENERGY], {"element_counts": SEEN})
    table = load_elements(tmp_path / "c.safetensors")
    np.testing.assert_array_equal(table["Fe"], model.elements.vectors[25].detach())


def test_a_model_that_does_not_tell_what_it_saw_is_refused(tmp_path: Path) -> None:
    path = tiny_model(tmp_path / "tiny.safetensors")
    with pytest.raises(TableError, match="tiny: the model does not tell which elements it was trained on"):
        from_model(path)
    with pytest.raises(TableError, match="does not tell which elements"):
        load_elements(path)


def test_cosines_look_past_what_all_vectors_share(halogens: ElementTable) -> None:
    similarity = cosines(halogens)
    np.testing.assert_allclose(np.diag(similarity), 1)
    np.testing.assert_allclose(similarity, similarity.T)
    f, cl, na = (halogens.symbols.index(symbol) for symbol in ("F", "Cl", "Na"))
    assert similarity[f, cl] > 0.9
    assert similarity[f, na] < -0.9


def test_nearest_elements(halogens: ElementTable) -> None:
    assert [other.symbol for other in nearest(halogens, "F", 2)] == ["Cl", "I"]
    assert len(nearest(halogens, 9, 100)) == 5
    with pytest.raises(TableError, match="no vector for Fe"):
        nearest(halogens, "Fe")


def test_substitutes_share_an_oxidation_state(halogens: ElementTable) -> None:
    assert nearest(halogens, "Li")[0].symbol == "Mg"
    # Chlorine and iodine are commonly +1, too, but less like lithium.
    assert [other.symbol for other in substitutes(halogens, "Li")] == ["Na", "I", "Cl"]
    assert [other.symbol for other in substitutes(halogens, "F", -1)] == ["Cl", "I"]
    assert [other.symbol for other in substitutes(halogens, "Li", 2)] == ["Mg"]


def test_substitutions_keep_the_charge(halogens: ElementTable) -> None:
    found = substitutions(halogens, "NaCl")
    # Iodine is commonly +1, too, but nothing like sodium.
    assert [(s.formula, s.oxidation_state) for s in found[-1:]] == [("ICl", 1)]
    assert {(s.formula, s.oxidation_state) for s in found[:-1]} == {("NaF", -1), ("NaI", -1), ("LiCl", 1)}
    assert [s.cosine for s in found] == sorted((s.cosine for s in found), reverse=True)
    with pytest.raises(TableError, match="'Na@' is no formula"):
        substitutions(halogens, "Na@")
    with pytest.raises(TableError, match="no vector for O"):
        substitutions(halogens, "Na2O")


def test_composition_features_by_hand(halogens: ElementTable) -> None:
    mg, f = halogens["Mg"].astype(float), halogens["F"].astype(float)
    features = composition_features(["MgF2", {"Mg": 0.5, "F": 1.0, "Cl": 0}], halogens)
    mean = (mg + 2 * f) / 3
    std = np.sqrt(((mg - mean) ** 2 + 2 * (f - mean) ** 2) / 3)
    expected = np.concatenate([mean, std, np.minimum(mg, f), np.maximum(mg, f), abs(mg - f)])
    np.testing.assert_allclose(features, [expected, expected], atol=1e-12)
    assert feature_names(halogens)[2:4] == ["mean 2", "std 0"]
    assert composition_features([], halogens, ("mean",)).shape == (0, 3)


def test_composition_features_of_pymatgen_compositions(halogens: ElementTable) -> None:
    from pymatgen.core import Composition

    np.testing.assert_array_equal(
        composition_features([Composition("MgF2")], halogens), composition_features(["MgF2"], halogens)
    )


def test_bad_compositions_are_refused_by_row(halogens: ElementTable) -> None:
    with pytest.raises(TableError, match=r"row 1 \(Fe2O3\): families: has no vector for O, Fe"):
        composition_features(["NaCl", "Fe2O3"], halogens)
    with pytest.raises(TableError, match=r"row 0 \(x\): is no composition"):
        composition_features(["x"], halogens)
    with pytest.raises(TableError, match=r"row 0 .*is no composition"):
        composition_features([{"Na": 0.0}], halogens)
    with pytest.raises(ConfigError, match="Statistic 'median' is not one of mean"):
        composition_features(["NaCl"], halogens, ("median",))


def test_features_in_a_pipeline(halogens: ElementTable) -> None:
    pytest.importorskip("sklearn", reason="NOT TESTED: scikit-learn is not installed")
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline

    from crystalformers.elements.pipeline import CompositionFeaturizer

    formulas = ["NaCl", "NaF", "LiF", "LiCl", "MgF2", "MgCl2", "NaI", "LiI"]
    values = composition_features(formulas, halogens, ("mean",)) @ [0.0, 2.0, 1.0]
    model = make_pipeline(CompositionFeaturizer(halogens), Ridge(alpha=1e-8))
    search = GridSearchCV(model, {"compositionfeaturizer__statistics": [("mean",), ("min",)]}, cv=2)
    search.fit(formulas, values)
    assert search.best_params_["compositionfeaturizer__statistics"] == ("mean",)
    np.testing.assert_allclose(search.predict(formulas), values, atol=1e-4)
    featurizer = CompositionFeaturizer("one-hot", ("mean",)).fit(formulas)
    assert featurizer.get_feature_names_out()[25] == "mean 25"
