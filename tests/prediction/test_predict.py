"""Predictions through Python: every kind of input, units, order, errors, frames, vectors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import CELL_ENERGY, ENERGY, MODULUS, many, rock_salt, supercell, tiny_model, write_poscar, write_table

import crystalformers
from crystalformers.crystal import Crystal
from crystalformers.errors import CheckpointError, ConfigError, StructureError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.io import Rejected
from crystalformers.prediction import bundled, loading
from crystalformers.prediction.batching import batches_by_cost, expected_images, windows
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import Model
from crystalformers.prediction.rows import Prediction


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "three.safetensors", (ENERGY, CELL_ENERGY, MODULUS))


@pytest.fixture(scope="module")
def model(weights: Path) -> Model:
    return load_model(weights)


@pytest.fixture(scope="module")
def exact(weights: Path) -> Model:
    return load_model(weights, dtype=torch.float64, tolerance=1e-12)


def overlapping(name: str) -> Crystal:
    return Crystal(np.array([11, 17]), np.array([[0, 0, 0], [0, 0, 0.001]]), 5 * np.eye(3), name)


def test_values_are_the_network_in_physical_units(exact: Model) -> None:
    crystal = supercell(rock_salt(), 3)
    batch = with_images(CrystalBatch.from_crystals([crystal]), exact.radius)
    with torch.no_grad():
        z = exact.network(batch)[0].numpy()
    (prediction,) = exact.predict(crystal)
    assert prediction.values == pytest.approx(
        {
            "energy": z[0] * 0.7 - 1.5,
            "cell_energy": (z[1] * 0.5 - 2.0) * 6,
            "modulus": 10 ** (z[2] * 0.3 + 2.0),
        },
        rel=1e-12,
    )
    assert prediction.units == {"energy": "eV/atom", "cell_energy": "eV", "modulus": "GPa"}
    assert (prediction.formula, prediction.n_atoms) == ("NaCl", 6)


def test_per_cell_values_grow_with_the_cell_and_others_do_not(exact: Model) -> None:
    one, three = exact.predict([rock_salt(), supercell(rock_salt(), 3)])
    assert three.values["cell_energy"] == pytest.approx(3 * one.values["cell_energy"], rel=1e-9)
    assert three.values["energy"] == pytest.approx(one.values["energy"], rel=1e-9)
    assert three.values["modulus"] == pytest.approx(one.values["modulus"], rel=1e-9)


def test_every_kind_of_structure_gives_the_same_values(model: Model, tmp_path: Path) -> None:
    ase = pytest.importorskip("ase")
    from pymatgen.core import Structure

    crystal = rock_salt(name="salt")
    path = write_poscar(tmp_path / "POSCAR_salt", crystal)
    table = write_table(tmp_path / "one.parquet", [crystal])
    pymatgen = Structure(crystal.lattice, crystal.symbols, crystal.frac_coords)
    atoms = ase.Atoms(crystal.symbols, positions=crystal.positions, cell=crystal.lattice, pbc=True)
    reference = model.predict(crystal)[0]
    for structure in (pymatgen, atoms, path, str(path), table):
        (single,) = model.predict(structure)
        assert single.values == pytest.approx(reference.values, rel=1e-5)
        assert single.formula == "NaCl"
    together = model.predict([pymatgen, atoms, path, crystal])
    assert len(together) == 4
    assert reference.name == together[3].name == "salt"
    assert str(path) in together[2].name


def test_order_and_batch_mates_do_not_matter(exact: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    crystals = many(23)
    alone = [exact.predict(crystal)[0] for crystal in crystals]
    monkeypatch.setattr(exact.budget, "cost", 30_000)
    monkeypatch.setattr("crystalformers.prediction.predictor.WINDOW", 10)
    together = exact.predict(crystals)
    assert [p.name for p in together] == [c.name for c in crystals]
    for one, other in zip(alone, together, strict=True):
        assert other.values == pytest.approx(one.values, rel=1e-10)


def test_atoms_far_outside_their_cell_are_placed_exactly_in_float32(model: Model) -> None:
    crystal = supercell(rock_salt(), 2)
    cells = np.array([[0, 0, 0], [9999, 0, 0], [0, 0, -9999], [0, 7, 0]])
    moved = Crystal(crystal.numbers, crystal.frac_coords + cells, crystal.lattice)
    assert model.predict(moved)[0].values == pytest.approx(model.predict(crystal)[0].values, rel=1e-5)


def test_one_bad_structure_is_named_by_index_before_anything_is_computed(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "values", lambda *_: pytest.fail("computed before all structures were checked"))
    with pytest.raises(StructureError, match=r"structure 1:.*Å apart"):
        model.predict([rock_salt(), overlapping("clash")])


def test_bad_structures_are_reported_in_their_place(model: Model, tmp_path: Path) -> None:
    empty = tmp_path / "empty.cif"
    empty.touch()
    rows = model.predict([rock_salt(), overlapping("clash"), empty, rock_salt("K")], errors="report")
    assert [type(row) for row in rows] == [Prediction, Rejected, Rejected, Prediction]
    assert "clash" in rows[1].reason
    assert "empty" in rows[2].reason
    frame = model.predict([rock_salt(), overlapping("clash")], errors="report", as_frame=True)
    assert frame["error"][0] == ""
    assert "clash" in frame["error"][1]
    assert np.isnan(frame["energy (eV/atom)"][1])


def test_a_prediction_that_is_no_number_is_refused(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(weights)
    monkeypatch.setattr(model.network, "forward", lambda batch: torch.full((len(batch), 3), torch.nan))
    with pytest.raises(StructureError, match="energy, cell_energy, modulus is not finite"):
        model.predict(rock_salt())


def test_frame_carries_units(model: Model) -> None:
    frame = model.predict(many(3), as_frame=True)
    assert list(frame.columns) == [
        "name",
        "formula",
        "n_atoms",
        "energy (eV/atom)",
        "cell_energy (eV)",
        "modulus (GPa)",
        "flag",
    ]
    assert frame.attrs["units"] == {"energy": "eV/atom", "cell_energy": "eV", "modulus": "GPa"}
    assert frame["n_atoms"].tolist() == [len(crystal) for crystal in many(3)]
    assert frame["energy (eV/atom)"][2] == pytest.approx(model.predict(many(3)[2])[0].values["energy"], rel=1e-5)


def test_no_structures_give_no_rows(model: Model) -> None:
    assert model.predict([]) == []
    assert len(model.predict([], as_frame=True)) == 0
    assert model.embed([]).shape == (0, 8)


def test_vectors_of_atoms_and_their_mean(exact: Model) -> None:
    crystals = [supercell(rock_salt(), 3), rock_salt("Mg", "O", 4.21), supercell(rock_salt("K"), 2)]
    atoms = exact.embed(crystals, per_atom=True)
    assert [part.shape for part in atoms] == [(6, 8), (2, 8), (4, 8)]
    np.testing.assert_allclose(exact.embed(crystals), [part.mean(axis=0) for part in atoms], rtol=1e-6)
    batch = with_images(CrystalBatch.from_crystals([crystals[1]]), exact.radius)
    with torch.no_grad():
        np.testing.assert_allclose(atoms[1], exact.network.encode(batch).numpy(), rtol=1e-6)
    np.testing.assert_allclose(exact.embed(crystals[1])[0], atoms[1].mean(axis=0), rtol=1e-6)


def test_batches_hold_everything_once_within_the_budget() -> None:
    costs = [5.0, 1.0, 90.0, 3.0, 3.0, 40.0, 2.0]
    batches = list(batches_by_cost(costs, 10.0))
    assert sorted(index for batch in batches for index in batch) == list(range(len(costs)))
    assert all(len(batch) == 1 or sum(costs[index] for index in batch) <= 10 for batch in batches)
    assert batches[:2] == [[2], [5]]
    assert list(windows(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]


def test_expected_images_are_close_to_the_real_number() -> None:
    crystal, radius = supercell(rock_salt(), 3), 12.0
    real = len(with_images(CrystalBatch.from_crystals([crystal]), radius).images.distance)
    assert expected_images(crystal, radius) == pytest.approx(real, rel=0.1)


def test_a_run_folder_a_file_and_a_bundled_name_load(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "model.safetensors").write_bytes(weights.read_bytes())
    monkeypatch.setattr(bundled, "FOLDER", run)
    monkeypatch.setattr(loading, "DEFAULT", "model")
    models = [load_model(source) for source in (weights, str(weights), run, "model", None)]
    assert len({model.fingerprint for model in models}) == 1
    assert models[3].name == models[4].name == "model"
    assert [target.unit for target in models[0].targets] == ["eV/atom", "eV", "GPa"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    with pytest.raises(CheckpointError, match="bundled model and a path"):
        load_model("model")


def test_a_misspelt_model_gets_the_close_match(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "band-gap.safetensors").write_bytes(weights.read_bytes())
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    with pytest.raises(CheckpointError, match="Did you mean 'band-gap'"):
        load_model("bandgap")
    with pytest.raises(CheckpointError, match=r"Did you mean '.*three\.safetensors'"):
        load_model(weights.with_name("tree.safetensors"))
    with pytest.raises(CheckpointError, match=r"No model 'xyz'.*band-gap\)\.$"):
        load_model("xyz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors; finish the training"):
        load_model(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="No model 'materials-project'"):
        load_model()


def test_settings_that_cannot_be_are_refused(weights: Path) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        load_model(weights, tolerance=0.0)
    with pytest.raises(ConfigError, match="unknown"):
        load_model(weights, device="abacus")
    for dtype in ("float64", torch.int64, torch.complex64, None):
        with pytest.raises(ConfigError, match=r"not a floating-point type; use torch\.float32"):
            load_model(weights, dtype=dtype)
    with pytest.raises(ConfigError, match="'ignore' is neither 'raise' nor 'report'"):
        load_model(weights).predict(rock_salt(), errors="ignore")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="sees 0 CUDA devices"):
            load_model(weights, device="cuda")


def test_public_names_exist_and_cost_nothing_before_use() -> None:
    for name in crystalformers.__all__:
        assert getattr(crystalformers, name) is not None
    assert sorted(crystalformers.__all__) == sorted(crystalformers._MODULE_OF)
    assert set(crystalformers.__all__) <= set(dir(crystalformers))
    with pytest.raises(AttributeError):
        _ = crystalformers.no_such_name
    code = (
        "import sys, crystalformers, crystalformers.cli\n"
        "heavy = {'torch', 'numpy', 'pandas', 'pymatgen', 'pyarrow', 'lightning_fabric', 'matplotlib', 'numba'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_one_dictionary_is_one_structure_and_what_is_none_is_named(weights: Path) -> None:
    model, structure = load_model(weights), as_pymatgen_dict(rock_salt())
    (predicted,) = model.predict(structure)
    assert predicted.values == pytest.approx(model.predict(rock_salt())[0].values)
    for wrong, words in (
        ({"a": 1}, "structure 0: "),
        (None, "a NoneType is not"),
        (5, "an int is not"),
        (b"x", "bytes"),
    ):
        for function in (model.predict, model.embed):
            with pytest.raises(StructureError, match=words):
                function(wrong)


def test_a_device_of_torch_is_a_device(weights: Path) -> None:
    assert load_model(weights, device=torch.device("cpu")).device.type == "cpu"  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="device: '0' is unknown"):
        load_model(weights, device=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="tolerance: 'x' does not lie between 0 and 1"):
        load_model(weights, tolerance="x")  # type: ignore[arg-type]


def as_pymatgen_dict(crystal: Crystal) -> dict[str, Any]:
    sites = [
        {"species": [{"element": symbol, "occu": 1}], "abc": place.tolist(), "label": symbol}
        for symbol, place in zip(crystal.symbols, crystal.frac_coords, strict=True)
    ]
    lattice = {"matrix": crystal.lattice.tolist()}
    return {"@module": "pymatgen.core.structure", "@class": "Structure", "lattice": lattice, "sites": sites}
