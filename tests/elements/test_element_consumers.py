"""Our files in the libraries they are written for; each test runs where its library is installed, or says so."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crystalformers.elements import ElementTable
from crystalformers.elements.export import export
from crystalformers.errors import ConfigError, TableError

EXAMPLES = Path(__file__).parents[2] / "examples"


def needs(module: str, package: str) -> Any:
    """Skip, and say so, where a library is not installed."""
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"NOT TESTED: {package} is not installed (pip install {package})")


@pytest.fixture(scope="module")
def table() -> ElementTable:
    """Seventy elements of the first ninety-two, 24 numbers each: gaps where a real table has them."""
    rng = np.random.default_rng(0)
    numbers = np.sort(rng.permutation(np.setdiff1d(np.arange(1, 93), [8, 26]))[:68])
    numbers = np.sort(np.concatenate([numbers, [8, 26]]))
    return ElementTable("seventy", numbers, rng.normal(size=(70, 24)).astype(np.float32))


@needs("elementembeddings", "ElementEmbeddings")
@pytest.mark.parametrize(("fmt", "suffix"), [("csv", ".csv"), ("json", ".json")])
def test_element_embeddings_reads_csv_and_json(fmt: str, suffix: str, table: ElementTable, tmp_path: Path) -> None:
    from elementembeddings.composition import CompositionalEmbedding
    from elementembeddings.core import Embedding

    path = tmp_path / f"ours{suffix}"
    export(table, path, fmt)
    read = Embedding.from_csv if fmt == "csv" else Embedding.from_json
    theirs = read(str(path), "ours")
    assert theirs.element_list == list(table)
    assert theirs.dim == table.dim
    np.testing.assert_array_equal(np.float32(theirs.embeddings["Fe"]), table["Fe"])
    mean = CompositionalEmbedding("Fe2O3", theirs).feature_vector("mean")
    np.testing.assert_allclose(mean, 0.4 * table["Fe"] + 0.6 * table["O"], rtol=1e-5, atol=1e-6)


@needs("jarvis", "jarvis-tools")
def test_jarvis_hands_our_vectors_to_alignn(
    table: ElementTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jarvis.core import specie

    path = tmp_path / "atom_init.json"
    export(table, path, "alignn", fill="mean")
    monkeypatch.setattr(specie, "cgcnn_feature_json", str(path))
    for symbol in ("O", "Fe"):
        theirs = specie.get_node_attributes(symbol, atom_features="cgcnn")
        np.testing.assert_array_equal(np.float32(theirs), table[symbol])


@needs("cgcnn2", "cgcnn2")
def test_cgcnn_trains_on_our_atom_init(table: ElementTable, tmp_path: Path) -> None:
    from cgcnn2.data import CIFData, collate_pool
    from cgcnn2.model import CrystalGraphConvNet

    export(table, tmp_path / "atom_init.json", "cgcnn", fill="mean")
    files = sorted(EXAMPLES.glob("*.cif"))[:3]
    for file in files:
        os.link(file, tmp_path / file.name)
    with (tmp_path / "id_prop.csv").open("w", newline="") as file:
        csv.writer(file).writerows([path.stem, value] for value, path in enumerate(files))
    data = CIFData(str(tmp_path))
    np.testing.assert_array_equal(np.float32(data.ari.get_atom_fea(26)), table["Fe"])
    inputs, target, _ = collate_pool([data[k] for k in range(3)])
    assert inputs[0].shape[1] == table.dim
    torch.manual_seed(0)
    model = CrystalGraphConvNet(table.dim, inputs[1].shape[-1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = ((model(*inputs)[0] - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


@needs("crabnet", "crabnet")
def test_crabnet_finds_every_element_in_its_row(
    table: ElementTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crabnet import kingcrab

    folder = tmp_path / "data" / "element_properties"
    folder.mkdir(parents=True)
    (tmp_path / "crabnet").mkdir()
    export(table, folder / "mat2vec.csv", "crabnet", fill="zero")
    # The original looks for one file name, beside its own folder.
    monkeypatch.setattr(kingcrab, "__file__", str(tmp_path / "crabnet" / "kingcrab.py"))
    embedder = kingcrab.Embedder(d_model=8)
    weight = embedder.cbfv.weight
    assert weight.shape == (119, table.dim)
    np.testing.assert_array_equal(weight[table.numbers].float().numpy(), table.vectors)


@needs("aviary", "aviary-models")
def test_aviary_reads_symbols(table: ElementTable, tmp_path: Path) -> None:
    pytest.importorskip("aviary.utils", reason="NOT TESTED: aviary-models is installed but does not import")
    from aviary.utils import get_element_embedding

    export(table, tmp_path / "ours.json", "json")
    embedding = get_element_embedding(str(tmp_path / "ours.json"))
    np.testing.assert_array_equal(embedding.weight.detach()[table.numbers].numpy(), table.vectors)


@needs("matminer", "matminer")
def test_matminer_featurises_with_our_vectors(table: ElementTable) -> None:
    from pymatgen.core import Composition, Element

    from crystalformers.elements.composition import composition_features
    from crystalformers.elements.matminer import ElementTableData, featurizer

    features = featurizer(table, ("mean", "minimum", "maximum", "range"))
    theirs = np.array(features.featurize(Composition("Fe2O3"))).reshape(table.dim, 4).T.ravel()
    ours = composition_features(["Fe2O3"], table, ("mean", "min", "max", "range"))[0]
    np.testing.assert_allclose(theirs, ours, rtol=1e-6, atol=1e-7)
    missing = Element.from_Z(int(np.setdiff1d(np.arange(1, 93), table.numbers)[0]))
    assert np.isnan(ElementTableData(table).get_elemental_property(missing, "embedding 1"))
    filled = ElementTableData(table, impute_nan=True).get_elemental_property(missing, "embedding 1")
    assert filled == pytest.approx(float(table.vectors[:, 0].mean()))
    with pytest.raises(TableError, match="has no 'embedding 25'; it has 1 to 24"):
        ElementTableData(table).get_elemental_property(missing, "embedding 25")


@needs("matgl", "matgl")
@pytest.mark.parametrize(
    ("model", "layer", "dim"),
    [
        ("MEGNet", "embedding.layer_node_embedding", 16),
        ("M3GNet", "embedding.layer_node_embedding", 64),
        ("TensorNet", "tensor_embedding.emb", 64),
    ],
)
def test_matgl_models_take_our_vectors(model: str, layer: str, dim: int, tmp_path: Path) -> None:
    import matgl.models
    from matgl.config import DEFAULT_ELEMENTS
    from safetensors.torch import load_file

    from crystalformers.elements import load_elements
    from crystalformers.elements.matgl import SYMBOLS, WEIGHT, into_matgl

    assert tuple(DEFAULT_ELEMENTS) == SYMBOLS
    wide = load_elements("random-0")
    network = getattr(matgl.models, model)(element_types=DEFAULT_ELEMENTS)
    with pytest.raises(ConfigError, match=f"width 128 do not fit the model's {dim}; reduce"):
        into_matgl(network, wide)
    into_matgl(network, wide.reduced(dim), trainable=False)
    weight = network.get_submodule(layer).weight
    np.testing.assert_array_equal(weight[DEFAULT_ELEMENTS.index("U")].detach(), wide.reduced(dim)["U"])
    assert not weight.requires_grad
    if layer in WEIGHT:
        export(wide, tmp_path / "m.safetensors", "matgl", dim=dim)
        _, unexpected = network.load_state_dict(load_file(tmp_path / "m.safetensors"), strict=False)
        assert not unexpected


@needs("matgl", "matgl")
def test_matgl_elements_without_a_vector_are_named(table: ElementTable) -> None:
    from matgl.models import MEGNet

    from crystalformers.elements.matgl import into_matgl

    network = MEGNet(element_types=("O", "Fe", "Pu"), dim_node_embedding=24)
    with pytest.raises(TableError, match="no vector for Pu"):
        into_matgl(network, table)
    into_matgl(network, table, fill="zero")
    assert not network.embedding.layer_node_embedding.weight[2].any()


def test_a_model_of_another_kind_is_refused(table: ElementTable) -> None:
    from crystalformers.elements.matgl import into_matgl

    with pytest.raises(ConfigError, match="Linear has none of the layers"):
        into_matgl(torch.nn.Linear(2, 2), table)


def test_the_original_cgcnn_rule_for_atom_init(table: ElementTable, tmp_path: Path) -> None:
    """Keys become integers, vectors float arrays of one length: what every reader of the file relies on."""
    export(table, tmp_path / "atom_init.json", "cgcnn", fill="zero")
    content = {
        int(key): np.array(value, float) for key, value in json.loads((tmp_path / "atom_init.json").read_text()).items()
    }
    assert set(content) == set(range(1, 101))
    assert {value.shape for value in content.values()} == {(24,)}
