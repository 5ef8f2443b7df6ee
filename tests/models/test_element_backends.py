"""The models that take element vectors: what they see, and what stays still when frozen."""

from __future__ import annotations

import importlib.util
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import ENERGY, many, rock_salt, write_table
from strategies import make_crystal, random_crystals

from benchmarks.elements.data import pruned
from crystalformers import load_model, open_table
from crystalformers.checkpoint import load_checkpoint, save_model
from crystalformers.crystal import Crystal
from crystalformers.errors import CheckpointError, ConfigError, StructureError
from crystalformers.images import ENVELOPE_WIDTH, CrystalBatch, with_images
from crystalformers.models import build_model
from crystalformers.models.alignn import cosines, pairs_of_neighbours
from crystalformers.models.cgcnn import CGCNN, CGCNNConfig
from crystalformers.models.crystalformer import CrystalformerConfig
from crystalformers.models.element_vectors import ROWS, ElementVectors
from crystalformers.models.neighbours import nearest, within
from crystalformers.paper_checkpoints.params import params_of
from crystalformers.periodic import ELEMENTS
from crystalformers.testing import CONTROL, E3, assert_invariant, invariance_report, network_predictor
from crystalformers.training import fit
from crystalformers.training.recipe import Recipe

SMALL: dict[str, dict[str, Any]] = {
    "cgcnn": {"dim": 16, "hidden": 16},
    "megnet": {"dim": 8, "blocks": 2},
    "alignn": {"dim": 16, "angle_layers": 1, "bond_layers": 1, "embedding": 8},
    "crystalformer": {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 4},
}
GRAPHS = ("cgcnn", "megnet", "alignn")
GENERATED = random_crystals(14, seed=100, most=6)


def table(dim: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(ROWS, dim, generator=torch.Generator().manual_seed(seed))


def model_of(name: str, element_dim: int = 0, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = build_model(name, {**SMALL[name], "element_dim": element_dim})
    if element_dim:
        model.elements.set(table(element_dim), torch.ones(ROWS, dtype=torch.bool), trainable=False)
    return model


def batch_for(model: Any, crystals: list[Crystal], dtype: torch.dtype = torch.float32) -> CrystalBatch:
    batch = CrystalBatch.from_crystals(crystals)
    return with_images(batch, model.radius(1e-5), directions=True).to(dtype)


# --- vectors of the elements ---


def test_a_vector_for_each_atomic_number() -> None:
    vectors = ElementVectors(5)
    vectors.set(table(), torch.ones(ROWS, dtype=torch.bool), trainable=False)
    assert torch.equal(vectors(torch.tensor([1, 26, 26])), table()[[0, 25, 25]])
    assert vectors.state_dict().keys() == {"vectors", "known"}


def test_an_element_without_a_vector_is_named() -> None:
    vectors, known = ElementVectors(5), torch.ones(ROWS, dtype=torch.bool)
    known[[25, 91]] = False
    vectors.set(table(), known, trainable=True)
    assert (vectors.vectors[25] == 0).all()
    with pytest.raises(StructureError, match="hold none for Fe, U;"):
        vectors(torch.tensor([8, 92, 26, 26]))
    assert len(vectors(torch.tensor([8]))) == 1


def test_a_table_that_does_not_fit_is_refused() -> None:
    vectors, known = ElementVectors(4), torch.ones(ROWS, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"shape \(100, 5\).*takes \(100, 4\)"):
        vectors.set(table(5), known, trainable=True)
    bad = table(4)
    bad[25, 0] = math.nan
    with pytest.raises(ConfigError, match="vector of Fe is not finite"):
        vectors.set(bad, known, trainable=True)
    known[25] = False
    vectors.set(bad, known, trainable=True)
    assert vectors.vectors.isfinite().all()
    with pytest.raises(ConfigError, match="at least 1, not 0"):
        ElementVectors(0)


# --- neighbours ---


def brute_force(crystal: Crystal, reach: int = 4) -> list[list[float]]:
    cells = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 3), -1).reshape(-1, 3) @ crystal.lattice
    found = crystal.positions[None, :, None] + cells - crystal.positions[:, None, None]
    return [sorted(row[row > 1e-9]) for row in np.linalg.norm(found, axis=-1).reshape(len(crystal), -1)]


@pytest.mark.parametrize("kind", ["random", "symmetric", "left-handed"])
def test_nearest_neighbours_are_those_of_brute_force(kind: str) -> None:
    crystal = make_crystal(kind, 4, seed=3)
    graph = nearest(with_images(CrystalBatch.from_crystals([crystal]), 8.0), 12, 8.0)
    for atom, distances in enumerate(brute_force(crystal)):
        expected = [d for d in distances if d < min(8.0, distances[11] + ENVELOPE_WIDTH)]
        mine = graph.target == atom
        np.testing.assert_allclose(graph.distance[mine].numpy(), expected, atol=1e-9)
        weight = graph.weight[mine]
        assert (weight[graph.distance[mine] <= distances[11] + 1e-9] > 1 - 1e-6).all() or distances[11] > 7.7
        assert ((weight > 0) & (weight <= 1)).all()


def test_an_atom_with_few_neighbours_keeps_them_all_and_a_lone_one_has_none() -> None:
    far = Crystal(np.array([2, 3, 4]), np.array([[0, 0, 0], [0.1, 0, 0], [0.5, 0.5, 0.5]]), 30 * np.eye(3))
    graph = nearest(with_images(CrystalBatch.from_crystals([far]), 8.0), 12, 8.0)
    assert graph.degree.tolist() == [1, 1, 0]
    assert graph.weight.tolist() == [1, 1]
    for name in GRAPHS:
        model = model_of(name).eval()
        assert model(batch_for(model, [far])).isfinite().all()


def test_images_too_short_for_a_model_are_refused() -> None:
    batch = CrystalBatch.from_crystals([rock_salt()])
    for short in (batch, with_images(batch, 3.0)):
        with pytest.raises(ConfigError, match="needs images within 4 Å"):
            within(short, 4.0)


def test_pairs_of_neighbours_are_all_ordered_pairs_at_one_atom() -> None:
    batch = with_images(CrystalBatch.from_crystals([rock_salt(), make_crystal("random", 3)]), 8.0, directions=True)
    graph = nearest(batch, 6, 8.0)
    pairs = pairs_of_neighbours(graph)
    expected = {
        (int(a), int(b))
        for a in range(len(graph.target))
        for b in range(len(graph.target))
        if a != b and graph.target[a] == graph.target[b]
    }
    assert set(zip(pairs.target.tolist(), pairs.source.tolist(), strict=True)) == expected
    assert len(pairs.target) == len(expected)
    assert graph.vectors is not None
    octahedron = cosines(graph.vectors, pairs)[graph.target[pairs.target] == 0]
    assert sorted({round(c, 9) + 0.0 for c in octahedron.tolist()}) == [-1, 0]


@pytest.mark.parametrize("name", GRAPHS)
def test_a_pruned_batch_gives_the_same_prediction(name: str) -> None:
    model = model_of(name).eval()
    batch = batch_for(model, GENERATED)
    short = pruned(batch, model.graph(batch))
    assert short.images is not None
    assert batch.images is not None
    # MEGNet looks at all images within its radius.
    assert (len(short.images.distance) < len(batch.images.distance)) == (name != "megnet")
    assert torch.equal(model(short), model(batch))


# --- the models ---


def test_cgcnn_has_the_published_size() -> None:
    """92 features: embedding 5,952, three convolutions of 22,144, head 8,320 + 129."""
    model = CGCNN(CGCNNConfig(element_dim=92))
    model.elements.vectors.requires_grad_(False)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 5_952 + 3 * 22_144 + 8_320 + 129


def test_a_convolution_of_cgcnn_is_that_of_the_paper() -> None:
    """One matrix on the joined vectors, atom by atom."""
    model = model_of("cgcnn").double().eval()
    batch = batch_for(model, [make_crystal("random", 3)], torch.float64)
    layer, graph = model.convolutions[0], model.graph(batch)
    x, u = torch.randn(batch.n_atoms, 16, dtype=torch.float64), model.radial(graph.distance)
    matrix = torch.cat([layer.of_target.weight, layer.of_source.weight, layer.of_distance.weight], dim=1)
    for atom in range(batch.n_atoms):
        total = torch.zeros(16, dtype=torch.float64)
        for edge in (graph.target == atom).nonzero().flatten():
            z = torch.cat([x[atom], x[graph.source[edge]], u[edge]])
            gate, core = layer.norm_message((matrix @ z + layer.of_target.bias)[None])[0].chunk(2)
            total += graph.weight[edge] * gate.sigmoid() * torch.log1p(core.exp())
        expected = torch.log1p((x[atom] + layer.norm_sum(total[None])[0]).exp())
        torch.testing.assert_close(layer(x, u, graph)[atom], expected)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("element_dim", [0, 5])
def test_shapes_and_gradients(name: str, element_dim: int) -> None:
    torch.manual_seed(0)
    model = build_model(name, {**SMALL[name], "element_dim": element_dim, "n_targets": 2})
    batch = batch_for(model, GENERATED)
    assert model(batch).shape == (len(GENERATED), 2)
    assert model.encode(batch).shape == (batch.n_atoms, model.config.dim)
    model(batch).square().sum().backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0 or parameter_name.endswith("bias"), parameter_name
    if element_dim or name != "crystalformer":
        moved = model.elements.vectors.grad.abs().sum(1).nonzero().flatten() + 1
        assert moved.tolist() == batch.numbers.unique().tolist()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("trainable", [False, True])
def test_frozen_vectors_stay_and_trainable_ones_move(name: str, trainable: bool) -> None:
    model = model_of(name, 5)
    model.elements.vectors.requires_grad_(trainable)
    before = model.elements.vectors.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(batch_for(model, GENERATED)).sum().backward()
    optimizer.step()
    assert torch.equal(model.elements.vectors, before) != trainable


@pytest.mark.parametrize("name", SMALL)
def test_two_tables_make_two_models_and_one_makes_the_same(name: str) -> None:
    predictions = []
    for seed in (1, 1, 2):
        model = model_of(name, 5).eval()
        model.elements.set(table(5, seed), torch.ones(ROWS, dtype=torch.bool), trainable=False)
        predictions.append(model(batch_for(model, GENERATED)))
    assert torch.equal(predictions[0], predictions[1])
    assert not torch.allclose(predictions[0], predictions[2])


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["float64", "float32"])
def test_predictions_belong_to_the_crystal(name: str, dtype: torch.dtype, limit: float) -> None:
    model = model_of(name, 5)
    model(batch_for(model, GENERATED))  # statistics of batch normalisation
    predict = network_predictor(model, 1e-7, dtype)
    assert_invariant(predict, GENERATED, limit, E3)
    (control,) = invariance_report(predict, GENERATED, [CONTROL])
    assert control.change > 10 * limit


@pytest.mark.parametrize("name", GRAPHS)
def test_predictions_are_continuous_where_neighbours_are_tied(name: str) -> None:
    """In a face-centred crystal of 12 equal neighbours any move changes which are "the" nearest."""
    model = model_of(name).double().eval()
    half_face = 2.0 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    values = []
    for shift in (0.0, 1e-7):
        lattice = half_face + shift * np.array([[0, 1, -1], [2, 0, 1], [1, 0, 0]])
        values.append(model(batch_for(model, [Crystal(np.array([29]), np.zeros((1, 3)), lattice)], torch.float64)))
    assert 0 < (values[1] - values[0]).abs() < 1e-5


@pytest.mark.parametrize("name", GRAPHS)
def test_forces_are_derivatives(name: str) -> None:
    model = model_of(name).double().eval()
    crystal = make_crystal("random", 3, seed=1)
    batch = CrystalBatch.from_crystals([crystal])
    images = with_images(batch, model.radius(1e-5), directions=True).images
    assert images is not None
    direction = torch.randn(batch.positions.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(step: Any) -> torch.Tensor:
        moved = replace(batch, positions=batch.positions + step * direction)
        result: torch.Tensor = model(replace(moved, images=images.moved(moved))).sum()
        return result

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(step), step)
    numeric = (value(1e-5) - value(-1e-5)) / 2e-5
    torch.testing.assert_close(slope, numeric, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("cgcnn", {"dim": 0}, "dim = 0 must be at least 1"),
        ("cgcnn", {"cutoff": math.inf}, "cutoff = inf"),
        ("cgcnn", {"element_dim": -1}, "element_dim = -1"),
        ("megnet", {"radial_width": 0.0}, "radial_width"),
        ("alignn", {"angle_layers": -1}, "angle_layers = -1 must be at least 0"),
        ("alignn", {"angular_functions": 1}, "angular_functions = 1 must be at least 2"),
        ("crystalformer", {"element_dim": -1}, "element_dim = -1"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model(name, settings)


# --- with the rest of the library ---


def test_the_authors_format_has_no_place_for_a_table() -> None:
    with pytest.raises(CheckpointError, match="no table of element vectors"):
        params_of(CrystalformerConfig(element_dim=5), ["energy"])


@pytest.mark.parametrize("name", SMALL)
def test_a_saved_model_predicts_the_same_and_knows_what_it_does_not_know(name: str, tmp_path: Path) -> None:
    model = model_of(name, 5).eval()
    known = torch.ones(ROWS, dtype=torch.bool)
    known[25] = False
    model.elements.set(table(), known, trainable=False)
    save_model(tmp_path / "m.safetensors", model, [ENERGY], {})
    again = load_checkpoint(tmp_path / "m.safetensors").model
    batch = batch_for(model, [rock_salt()])
    assert torch.equal(again(batch), model(batch))
    loaded = load_model(tmp_path / "m.safetensors")
    (value,) = loaded.predict([rock_salt()])
    expected = float(ENERGY.physical(model(batch).detach().numpy(), [2])[0, 0])
    assert value.values["energy"] == pytest.approx(expected, abs=1e-5)
    assert loaded.embed([rock_salt()]).shape == (1, model.config.dim)
    with pytest.raises(StructureError, match="none for Fe"):
        loaded.predict([rock_salt("Fe", "O")])


@pytest.mark.parametrize("name", SMALL)
def test_training_with_an_exported_atom_init_json(name: str, tmp_path: Path) -> None:
    """The file CGCNN reads, here in front of every back-end, through recipe, training and checkpoint."""
    crystals = many(24)
    energies = [float(crystal.numbers[0]) for crystal in crystals]
    vectors = {str(z): np.eye(ROWS, 20)[z % 20].tolist() for z in range(1, ROWS + 1)}
    (tmp_path / "atom_init.json").write_text(json.dumps(vectors), encoding="utf-8")
    recipe = Recipe.parse(
        {
            "architecture": name,
            "model": SMALL[name],
            "epochs": 3,
            "average_epochs": 1,
            "batch_size": 8,
            "elements": {"table": str(tmp_path / "atom_init.json"), "standardise": False, "trainable": False},
        }
    )
    data = open_table(write_table(tmp_path / "t.parquet", crystals, energy=energies))
    weights = fit(data, [replace(ENERGY, mean=0.0, std=1.0)], tmp_path / "run", recipe)
    model = load_checkpoint(weights).model
    assert model.config.element_dim == 20
    assert model.elements.vectors[10].tolist() == vectors["11"]
    assert len(load_model(weights).predict(crystals[:3])) == 3


@pytest.mark.skipif(importlib.util.find_spec("matgl") is None, reason="NOT TESTED: matgl is not installed")
def test_megnet_is_that_of_matgl() -> None:
    """With the same weights, on crystals none of whose bonds fades."""
    from matgl.ext.pymatgen import Structure2Graph
    from matgl.models import MEGNet
    from pymatgen.core import Lattice, Structure

    torch.manual_seed(0)
    model = build_model("megnet", {"radial_width": 2**0.5}).eval()
    theirs = MEGNet(element_types=ELEMENTS[:98], cutoff=4.0, gauss_width=0.5).eval()
    with torch.no_grad():
        model.start.copy_(theirs.state_encoder(torch.zeros(1, 2))[0])
        theirs.embedding.layer_node_embedding.weight.copy_(model.elements.vectors[:98])
        pairs = [(theirs.node_encoder, model.encode_atom), (theirs.edge_encoder, model.encode_bond)]
        for their_block, block in zip(theirs.blocks, model.blocks, strict=True):
            conv, dense, update = their_block.conv, block.dense, block.update
            pairs += [(their_block.edge_func, dense.bond), (their_block.node_func, dense.atom)]
            pairs += [(their_block.state_func, dense.crystal), (conv.edge_func, update.bond)]
            pairs += [(conv.node_func, update.atom), (conv.state_func, update.crystal)]
        pairs += [(theirs.node_s2s.lstm, model.read_atoms.cell), (theirs.edge_s2s.lstm, model.read_bonds.cell)]
        for their_part, part in [*pairs, (theirs.output_proj, model.head)]:
            for target, source in zip(their_part.parameters(), part.parameters(), strict=True):
                target.copy_(source)
    converter = Structure2Graph(element_types=theirs.element_types, cutoff=4.0)
    for crystal in (rock_salt("Na", "Cl", 5.0), rock_salt("Mg", "O", 4.2)):
        structure = Structure(Lattice(crystal.lattice), crystal.symbols, crystal.frac_coords)
        expected = theirs.predict_structure(structure, torch.zeros(1, 2), converter)
        torch.testing.assert_close(model(batch_for(model, [crystal]))[0, 0], expected, rtol=1e-4, atol=1e-5)
