"""`crystalformers elements`: train a small table, write it, look at it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import invoke
from samples import many, tiny_model, write_table
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from crystalformers.elements import ElementTable, library, load_elements
from crystalformers.prediction.loading import load_model

RECIPES = Path(__file__).parents[2] / "recipes"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    vectors = {"Na": [1.0, 0, 0.3], "K": [0.9, 0.1, 0.2], "Cl": [-1, 0.1, 0], "Fe": [0, 1, 0.1]}
    saved = ElementTable.of("four", vectors, {"seed": 1})
    path = tmp_path / "four.safetensors"
    ElementTable("four", saved.numbers, saved.vectors, np.array([5, 6, 7, 8]), saved.metadata).save(path)
    return path


def test_train_leaves_a_table_of_the_elements_it_has_seen(tmp_path: Path) -> None:
    crystals = many(20)
    split = ["train"] * 14 + ["val"] * 3 + ["test"] * 3
    data = write_table(tmp_path / "t.parquet", crystals, gap=[float(k % 5) for k in range(20)], split=split)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "architecture: crystaltransformer\nmodel: {dim: 8, heads: 2, blocks: 1, feedforward: 8, radial_functions: 4}\n"
        "epochs: 1\nbatch_size: 8\nthreads: 1\naccelerator: cpu\n"
    )
    arguments = ("--config", recipe, "--target", "gap", "--unit", "eV", "-o", tmp_path / "mine")
    result = invoke("elements", "train", data, *arguments)
    assert result.exit_code == 0, result.output
    vectors = load_elements(tmp_path / "mine" / "elements.safetensors")
    assert vectors.name == "mine"
    assert vectors.symbols == ("O", "Na", "Mg", "Al", "Si", "P", "S", "Cl")
    assert vectors.counts is not None
    assert vectors.counts[0] == 14
    assert invoke("elements", "train", data, *arguments).exit_code == 2


def test_train_takes_another_preset_than_the_recipe(tmp_path: Path) -> None:
    data = write_table(tmp_path / "t.parquet", many(20), gap=[float(k % 5) for k in range(20)])
    arguments = ("--config", RECIPES / "elements.yaml", "--target", "gap", "--unit", "eV", "--epochs", 1)
    control = ("--preset", "crystaltransformer-composition", "-o", tmp_path / "mine")
    result = invoke("elements", "train", data, *arguments, *control)
    assert result.exit_code == 0, result.output
    config = load_model(tmp_path / "mine").network.config
    assert (config.variant, config.element_scale) == ("composition", 0.03)
    missing = invoke("elements", "train", data, *arguments, "--preset", "crystaltransformr", "-o", tmp_path / "no")
    assert missing.exit_code == 2
    assert "did you mean 'crystaltransformer'" in missing.stderr


def test_train_on_properties_that_few_crystals_have(tmp_path: Path) -> None:
    """Missing labels, a transform and a small beginning, all from the command line."""
    columns = {"gap": [float(k % 5) for k in range(20)], "modulus": [None if k % 3 else 10.0 + k for k in range(20)]}
    split = ["train"] * 14 + ["val"] * 3 + ["test"] * 3
    data = write_table(tmp_path / "t.parquet", many(20), **columns, split=split)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "architecture: crystaltransformer\nmodel: {variant: composition, dim: 8, heads: 2, blocks: 1, feedforward: 8, "
        "element_scale: 0.03}\nepochs: 1\nbatch_size: 8\nthreads: 1\naccelerator: cpu\n"
    )
    arguments = ["--config", recipe, "--target", "gap", "--unit", "eV", "--target", "modulus", "--unit", "GPa"]
    result = invoke("elements", "train", data, *arguments, "--transform", "log10", "-o", tmp_path / "mine")
    assert result.exit_code == 2
    assert "give one --transform per --target" in result.stderr
    transforms = ["--transform", "none", "--transform", "log10"]
    result = invoke("elements", "train", data, *arguments, *transforms, "-o", tmp_path / "mine")
    assert result.exit_code == 0, result.output
    targets = load_model(tmp_path / "mine").targets
    assert [(target.name, target.transform) for target in targets] == [("gap", "none"), ("modulus", "log10")]
    assert np.isfinite(load_elements(tmp_path / "mine" / "elements.safetensors").vectors).all()


def test_export(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    result = invoke("elements", "export", table, "--format", "csv", "--out", out)
    assert result.exit_code == 0
    assert "4 elements, 3 numbers each" in result.stdout
    np.testing.assert_array_equal(load_elements(out).vectors, load_elements(table).vectors)
    again = invoke("elements", "export", table, "-f", "csv", "-o", out)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert invoke("elements", "export", table, "-f", "csv", "-o", out, "--dim", 2, "--overwrite").exit_code == 0
    assert load_elements(out).dim == 2


def test_export_says_what_it_filled(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "atom_init.json"
    refused = invoke("elements", "export", table, "-f", "cgcnn", "-o", out)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: four: has no vector for H, He, Li")
    assert not out.exists()
    filled = invoke("elements", "export", table, "-f", "cgcnn", "-o", out, "--fill", "mean")
    assert filled.exit_code == 0
    assert "96 elements have no vector and got the mean of all others: H, He, Li" in filled.stderr
    assert json.loads(out.read_text())["26"] == [0.0, 1.0, 0.1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-f", "xml", "-o", "x.csv"), "--format xml is not one of cgcnn"),
        (("-f", "csv", "-o", "x.json"), "must end in .csv"),
        (("-f", "cgcnn", "-o", "x.json", "--fill", "best"), "--fill best is not one of raise, zero, mean"),
        (("-f", "csv", "-o", "x.csv", "--fill", "zero"), "leave the filling out"),
        (("-f", "csv", "-o", "x.csv", "--dim", "9"), "cannot be reduced to 9 dimensions"),
    ],
)
def test_export_refuses(
    arguments: tuple[str, ...], message: str, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("elements", "export", table, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["four.safetensors"]


def test_export_of_a_model_counts_the_elements_of_its_training_table(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "tiny.safetensors")
    split = ["train"] * 3 + ["val", "test"]
    data = write_table(tmp_path / "t.parquet", many(5), split=split)
    refused = invoke("elements", "export", model, "-f", "csv", "-o", tmp_path / "t.csv")
    assert refused.exit_code == 2
    assert "give its training table" in refused.stderr
    done = invoke("elements", "export", model, "-f", "npz", "-o", tmp_path / "t.npz", "--training-table", data)
    assert done.exit_code == 0, done.output
    vectors = load_elements(tmp_path / "t.npz")
    assert vectors.symbols == ("O", "Na", "Mg", "Al")
    assert vectors.counts is not None
    assert vectors.counts.tolist() == [3, 1, 1, 1]
    unsplit = write_table(tmp_path / "u.parquet", many(5))
    refused = invoke("elements", "export", model, "-f", "npz", "-o", tmp_path / "u.npz", "--training-table", unsplit)
    assert "no column 'split'" in refused.stderr


def test_show(table: Path) -> None:
    known = invoke("elements", "show")
    assert "one-hot" in known.stdout
    whole = invoke("elements", "show", table)
    assert "four: 4 elements, 3 numbers each" in whole.stdout
    assert "Fe 8, K 7" in whole.stdout
    near = invoke("elements", "show", table, "Na", "-n", 1)
    assert "K" in near.stdout.splitlines()[1]
    assert "+1" in near.stdout.splitlines()[1]
    missing = invoke("elements", "show", table, "Co")
    assert missing.exit_code == 2
    assert "four: has no vector for Co; its 4 elements are Na, Cl, K, Fe." in missing.stderr


def test_bundled_tables_are_found_by_name(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "BUNDLED", table.parent)
    assert load_elements("four").name == "four"
    assert invoke("elements", "show").stdout.splitlines()[1].split() == ["four", "4", "3", "-"]


def test_every_bundled_table_opens_under_its_name() -> None:
    for name in library.bundled_names():
        assert load_elements(name).name == name
        assert load_elements(name).counts is not None
    listed = invoke("elements", "show").stdout.splitlines()
    assert [line.split()[0] for line in listed[1:-1]] == library.bundled_names()
    assert "seed: 0" in invoke("elements", "show", "crystaltransformer7-mp36k-seed0").stdout.splitlines()
    assert "formation_energy_per_atom, band_gap, e_fermi" in listed[-2]


@pytest.mark.parametrize(("kind", "agreement"), [("crystaltransformer7", 0.95), ("composition7", 0.95)])
def test_other_seeds_of_a_bundled_table_give_the_same_distances(kind: str, agreement: float) -> None:
    """Rank correlation of all distances between elements that more than fifty training crystals hold."""
    distances = []
    for seed in range(3):
        table = load_elements(f"{kind}-mp36k-seed{seed}")
        assert table.counts is not None
        distances.append(pdist(table.vectors[table.counts > 50]))
    assert spearmanr(np.array(distances), axis=1).statistic.min() > agreement
