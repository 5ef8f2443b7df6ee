"""The experiment on element vectors: fixed splits, resumable runs, and a summary that says what the lines say."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from samples import many, write_table

from crystalformers.elements import load_elements
from crystalformers.elements.library import bundled_names
from crystalformers.training.recipe import Recipe

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULES = tuple(
    f"benchmarks.{name}"
    for name in (
        "harness",
        *(f"elements.{part}" for part in ("experiment", "data", "summary", "training", "front_ends")),
    )
)


@pytest.fixture
def elements(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark's module, with small tables of its own in place of the shared data."""
    import sys

    folder = tmp_path / "shared" / "data"
    folder.mkdir(parents=True)
    crystals = many(60)
    energies = [0.1 * float(crystal.numbers[0]) for crystal in crystals]
    splits = ["train"] * 40 + ["val"] * 5 + ["test"] * 15
    write_table(folder / "mp36k.parquet", crystals, formation_energy_per_atom=energies, split=splits)
    write_table(folder / "oqmd_a3bc.parquet", crystals, formation_energy_per_atom=energies)
    write_table(
        folder / "matbench_phonons.parquet",
        crystals,
        last_phdos_peak=energies,
        matbench_fold=[k % 5 for k in range(60)],
    )
    monkeypatch.setenv("CRYSTALFORMERS_SHARED", str(tmp_path / "shared"))
    for name in MODULES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("benchmarks.elements.experiment")
    training = importlib.import_module("benchmarks.elements.training")
    monkeypatch.setattr(training, "schedule", lambda rows: (8, 2))
    monkeypatch.setattr(importlib.import_module("benchmarks.elements.data"), "EXCLUDED", ())
    yield module
    for name in MODULES:
        sys.modules.pop(name, None)


RECIPE: dict[str, Any] = {
    "tables": {"one-hot": "one-hot", "random": "random-{seed}", "learned": None},
    "rows": [
        {"task": ["oqmd-energy"], "size": [20], "backend": ["cgcnn"], "table": ["one-hot", "random", "learned"]}
        | {"mode": ["frozen", "fine-tuned"], "seed": [0, 1]}
    ],
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_recipe_lists_each_run_once_seed_by_seed(elements: ModuleType) -> None:
    runs = elements.Recipe.model_validate(RECIPE).runs()
    assert len(runs) == 2 * 5  # vectors learned from nothing are not frozen
    assert [run.seed for run in runs] == [0] * 5 + [1] * 5
    assert [run.source for run in runs if run.table == "random"] == ["random-0"] * 2 + ["random-1"] * 2
    assert {run.mode for run in runs if run.table == "learned"} == {"fine-tuned"}
    listed = elements.Recipe.model_validate({**RECIPE, "tables": {**RECIPE["tables"], "random": ["a", "b"]}})
    assert [listed.source("random", seed) for seed in range(3)] == ["a", "b", "a"]


def test_splits_are_fixed_nested_and_apart(elements: ModuleType) -> None:
    data = importlib.import_module("benchmarks.elements.data")
    for name in ("mp36k-energy", "oqmd-energy", "phonons"):
        task = data.TASKS[name]
        small, large = data.split_of(task, 10, 3), data.split_of(task, 30, 3)
        assert set(small.train) | set(small.val) <= set(large.train) | set(large.val)
        assert len(small.train) + len(small.val) == 10
        assert len(small.val) == 2
        assert np.array_equal(small.test, large.test)
        assert not set(large.test) & (set(large.train) | set(large.val))
        assert not set(large.train) & set(large.val)
        standardised = large.labels[large.train]
        assert abs(standardised.mean()) < 1e-6
        assert standardised.std(correction=0) == pytest.approx(1, abs=1e-6)
    assert set(data.split_of(data.TASKS["phonons"], 10, 3).test) == set(range(3, 60, 5))
    assert list(data.split_of(data.TASKS["mp36k-energy"], None, 0).test) == list(range(45, 60))
    with pytest.raises(ValueError, match="oqmd_a3bc has 48 rows to train on, not 500"):
        data.split_of(data.TASKS["oqmd-energy"], 500, 0)


def test_runs_are_resumed_and_repeat_themselves(elements: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    runs = elements.Recipe.model_validate(RECIPE).runs()
    elements.run_all(runs, path, 1, None)
    first = lines(path)
    assert [(line["table"], line["mode"], line["seed"]) for line in first] == [(r.table, r.mode, r.seed) for r in runs]
    assert all(math.isfinite(line["mae"]) for line in first)
    assert all(line["rows"] == {"train": 16, "val": 4, "test": 12} for line in first)
    elements.run_all(runs, path, 1, None)
    assert lines(path) == first
    # A crash takes half of a line, and an earlier one is lost.
    text = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(text[:3] + text[4:-1]) + text[-1][:40], encoding="utf-8")
    elements.run_all(runs, path, 1, None)
    assert len(lines(path)) == len(first)
    by_key = {elements.key(line): line["mae"] for line in first}
    assert {elements.key(line): line["mae"] for line in lines(path)} == by_key


def test_a_changed_table_is_run_again(elements: ModuleType, tmp_path: Path) -> None:
    from crystalformers.elements.table import ElementTable

    file, path = tmp_path / "mine.safetensors", tmp_path / "results.jsonl"
    recipe = {"tables": {"mine": str(file)}, "rows": [{**RECIPE["rows"][0], "table": ["mine"], "mode": ["frozen"]}]}
    for seed in range(2):
        vectors = np.random.default_rng(seed).normal(size=(98, 4))
        ElementTable("mine", np.arange(1, 99), vectors.astype(np.float32)).save(file)
        importlib.import_module("benchmarks.elements.training").standardised.cache_clear()
        elements.run_all(elements.Recipe.model_validate(recipe).runs(), path, 1, None)
        assert len(lines(path)) == 2 * (seed + 1)


def test_frozen_vectors_are_the_standardised_table_and_missing_elements_are_told(
    elements: ModuleType, tmp_path: Path
) -> None:
    from crystalformers.elements.table import ElementTable

    file = tmp_path / "few.safetensors"
    table = ElementTable("few", np.array([8, 11, 12, 13]), np.arange(12, dtype=np.float32).reshape(4, 3) ** 2)
    table.save(file)
    training = importlib.import_module("benchmarks.elements.training")
    run = training.Run("oqmd-energy", 20, "cgcnn", "few", str(file), "frozen", 0)
    model = training.model_of(run)
    assert not model.elements.vectors.requires_grad
    assert torch.equal(model.elements.vectors[[7, 10, 11, 12]], torch.from_numpy(table.standardised().vectors))
    assert (model.elements.vectors[13] == 0).all()
    line = training.carry_out(run)
    assert line["missing"].keys() <= {"Si", "P", "S", "Cl"}
    assert sum(line["missing"].values()) > 0
    tuned, _ = training.groups(training.model_of(training.Run(**{**vars(run), "mode": "fine-tuned"})), 0.1)
    assert len(tuned["params"]) == len(list(model.parameters())) - 1


def test_a_summary_of_known_numbers(elements: ModuleType) -> None:
    summary = importlib.import_module("benchmarks.elements.summary")
    made = [
        {
            "task": "t",
            "unit": "eV",
            "size": 100,
            "backend": "b",
            "table": table,
            "mode": "frozen",
            "seed": s,
            "mae": mae,
            "unseen": 0.25,
        }
        for table, values in {"one-hot": [1.0, 2.0, 4.0], "ours": [0.5, 1.0, 2.0]}.items()
        for s, mae in enumerate(values)
    ]
    found = summary.summarise(made)
    assert found["samples"] == [{"task": "t", "size": 100, "unseen": 0.25}]
    (ours,) = (place for place in found["places"] if place["table"] == "ours")
    assert ours["mae"] == pytest.approx(3.5 / 3)
    assert ours["sd"] == pytest.approx(np.std([0.5, 1, 2], ddof=1))
    assert ours["change"]["mean"] == pytest.approx(math.log(0.5))
    assert ours["change"]["low"] == pytest.approx(math.log(0.5))
    difference = ours["difference"]
    assert difference["mean"] == pytest.approx(-3.5 / 3)
    assert difference["high"] - difference["mean"] == pytest.approx(4.302653 * np.std([0.5, 1, 2], ddof=1) / 3**0.5)
    content = {**found, "runs": 6, "of": 6, "overlap": [{"task": "t", "test": 9, "composition_in_front_end": 4}]}
    text = summary.markdown(content)
    assert "| ours | frozen | 1.167 ± 0.764 (-50.0 % [-50.0, -50.0]) | -50.0 % [-50.0, -50.0] |" in text
    assert "| t | 9 | 4 |" in text


def test_a_summary_against_another_table(elements: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    recipe = elements.Recipe.model_validate(RECIPE)
    elements.run_all(recipe.runs(), path, 1, None)
    elements.write_summary(recipe, path, "one-hot")
    elements.write_summary(recipe, path, "random")
    for name, against in (("results", "one-hot"), ("results-against-random", "random")):
        content = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        assert content["against"] == against
        assert content["runs"] == content["of"] == 10
        zero = [o["change"]["mean"] for o in content["overall"] if (o["table"], o["mode"]) == (against, "frozen")]
        assert zero == [0]
        assert f"against {against} (frozen)" in (tmp_path / f"{name}.md").read_text(encoding="utf-8")


def test_overlap_counts_compositions_not_formulas(elements: ModuleType) -> None:
    """Of the 12 test crystals those whose reduced composition stands among the first 40 of the front-end's table."""
    data = importlib.import_module("benchmarks.elements.data")
    crystals = many(60)
    seen = {data.composition(crystal.numbers) for crystal in crystals[:40]}
    test = data.split_of(data.TASKS["oqmd-energy"], None, 0).test
    expected = sum(data.composition(crystals[row].numbers) in seen for row in test)
    assert data.overlap("oqmd-energy") == {"task": "oqmd-energy", "test": 12, "composition_in_front_end": expected}
    assert data.composition(crystals[1].numbers) == ((8, 1), (12, 1))


def test_what_front_ends_leave_out_is_not_counted(elements: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    data = importlib.import_module("benchmarks.elements.data")
    monkeypatch.setattr(data, "EXCLUDED", ("matbench_phonons",))  # it holds the same crystals
    assert data.overlap("oqmd-energy")["composition_in_front_end"] == 0


def test_the_front_ends_are_those_of_the_bundled_tables(elements: ModuleType) -> None:
    front_ends = importlib.import_module("benchmarks.elements.front_ends")
    for name in bundled_names():
        kind, seed = name.split("-mp36k-seed")
        trained = {**load_elements(name).metadata["recipe"], "exclude": []}
        assert front_ends.recipe_of(kind, seed=int(seed)) == Recipe.parse(trained), name
    assert {name.partition("-")[0] for name in bundled_names()} == front_ends.KINDS.keys()


@pytest.mark.parametrize("name", ["choice", "transfer", "backends", "large"])
def test_recipes_of_the_repository_can_be_read(elements: ModuleType, name: str) -> None:
    text = (BENCHMARKS / "elements" / f"{name}.yaml").read_text(encoding="utf-8")
    runs = elements.Recipe.model_validate(yaml.safe_load(text)).runs()
    assert len(runs) > 10
