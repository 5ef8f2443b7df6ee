"""Fine-tuning: what is taken from the parent, what learns, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import invoke
from samples import many, tiny_model, write_table
from torch import nn

from crystalformers import load_model
from crystalformers.checkpoint import load_checkpoint
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.errors import ConfigError
from crystalformers.models import MODELS, build_model
from crystalformers.models.presets import PRESETS
from crystalformers.target import Target
from crystalformers.training import Observer, Recipe, fit
from crystalformers.training.optimisation import optimizer, set_learning_rate
from crystalformers.training.parent import inherit, outputs
from crystalformers.training.recipe import FINE_TUNING, Init
from crystalformers.training.state import Progress

TINY = {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 8}
ENERGY = Target("energy", "eV/atom", "per_atom")
GAP = Target("gap", "eV")
STAGES = 4
"""Of a tiny Crystalformer: elements, two blocks, head."""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> CrystalTable:
    crystals = many(24)
    labels: dict[str, Any] = {
        "energy": [float(crystal.numbers[0] % 7) for crystal in crystals],
        "gap": [k / 24 for k in range(24)],
        "split": ["train"] * 16 + ["val"] * 4 + ["test"] * 4,
    }
    return open_table(write_table(tmp_path_factory.mktemp("table") / "table.parquet", crystals, **labels))


@pytest.fixture(scope="module")
def parent(table: CrystalTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that learned energy."""
    settings = {"epochs": 2, "batch_size": 4, "lr": 0.01, "tolerance": 1e-3, "model": TINY, "accelerator": "cpu"}
    run = tmp_path_factory.mktemp("parent") / "run"
    fit(table, [ENERGY], run, Recipe.parse(settings))
    return run


def recipe(parent: Path, epochs: int = 2, **init: Any) -> Recipe:
    common = {"batch_size": 4, "lr": 0.01, "tolerance": 1e-3, "average_epochs": 0, "accelerator": "cpu"}
    return Recipe.parse({**common, "epochs": epochs, "init": {"model": str(parent), **init}})


def child_of(parent: Path, *targets: Target, **init: Any) -> nn.Module:
    network = load_model(parent).network
    torch.manual_seed(1)
    child = build_model("crystalformer", {**vars(network.config), "n_targets": len(targets)})
    inherit(child, targets, Init(model=str(parent), **init))
    return child


@pytest.mark.parametrize("name", MODELS)
def test_the_last_stage_of_every_model_ends_in_its_outputs(name: str) -> None:
    *_, model = build_model(name, {"n_targets": 3}).members
    assert len(outputs(model)) == 3
    in_stages = {id(p) for stage in model.stages for p in stage.parameters()}
    outside = [name for name, p in model.named_parameters() if id(p) not in in_stages]
    assert outside in ([], ["start"])  # MEGNet's first vector of a crystal


def test_the_outputs_of_a_known_target_give_the_same_values_in_its_unit(parent: Path, table: CrystalTable) -> None:
    before = load_model(parent)
    rescaled = replace(before.targets[0], mean=3.0, std=0.4)
    fresh = replace(GAP, mean=0.3, std=0.2)
    child = child_of(parent, fresh, rescaled).eval()
    crystals = [table[row] for row in range(6)]
    expected = before.values(crystals)[:, 0]
    before.network, before.targets = child, (fresh, rescaled)  # type: ignore[assignment]
    found = before.values(crystals)
    assert np.allclose(found[:, 1], expected, atol=1e-5)
    assert np.allclose(found[:, 0], 0.3)


def test_a_fresh_head_shares_no_weight_with_the_parent(parent: Path) -> None:
    theirs, child = load_model(parent).network, child_of(parent, ENERGY, head="fresh")
    for name, tensor in theirs.state_dict().items():
        same = torch.equal(tensor, child.state_dict()[name])
        assert same == (not name.startswith("head")), name


@pytest.mark.parametrize("freeze", range(STAGES))
def test_frozen_stages_keep_every_bit(parent: Path, table: CrystalTable, tmp_path: Path, freeze: int) -> None:
    fit(table, [GAP], tmp_path / "run", recipe(parent, freeze=freeze))
    before, after = load_model(parent).network, load_model(tmp_path / "run").network
    for k, (old, new) in enumerate(zip(before.stages[:-1], after.stages[:-1], strict=True)):
        same = all(torch.equal(a, b) for a, b in zip(old.parameters(), new.parameters(), strict=True))
        assert same == (k < freeze), k


def test_only_the_head_learns_in_the_first_epochs(parent: Path, table: CrystalTable, tmp_path: Path) -> None:
    weights: list[torch.Tensor] = []

    class Watch(Observer):
        def epoch(self, progress: Progress) -> None:
            state = torch.load(tmp_path / "run" / "resume.pt", weights_only=True) if progress.epoch < 3 else None
            if state is not None:
                weights.append(state["model"]["embedding.weight"])

    settings = {**recipe(parent, 3, head_epochs=1).model_dump(), "checkpoint_steps": 1}
    fit(table, [GAP], tmp_path / "run", Recipe.parse(settings), observer=Watch())
    theirs = load_model(parent).network.state_dict()["embedding.weight"]
    assert torch.equal(weights[0], theirs)
    assert not torch.equal(weights[1], theirs)


def test_learning_rates_shrink_with_the_distance_from_the_head(parent: Path) -> None:
    chosen = recipe(parent, lr_decay=0.5, head_epochs=1)
    model = load_model(parent).network.requires_grad_(True)
    adam = optimizer(model, nn.Module(), chosen)
    rate_of = {id(p): group for group in adam.param_groups for p in group["params"]}
    set_learning_rate(adam, 1.0)
    for k, stage in enumerate(model.stages):
        assert {rate_of[id(p)]["lr"] for p in stage.parameters()} == {0.5 ** (STAGES - 1 - k)}
    set_learning_rate(adam, 1.0, head_only=True)
    for k, stage in enumerate(model.stages):
        assert {rate_of[id(p)]["lr"] for p in stage.parameters()} == {1.0 if k == STAGES - 1 else 0.0}


def test_an_interrupted_run_goes_on_to_the_same_bits(parent: Path, table: CrystalTable, tmp_path: Path) -> None:
    settings = Recipe.parse({**recipe(parent, 3, freeze=1, head_epochs=1).model_dump(), "checkpoint_steps": 1})

    class Stop(Observer):
        def step(self, progress: Progress) -> None:
            if progress.step == 6:
                raise ZeroDivisionError

    whole = fit(table, [GAP, ENERGY], tmp_path / "whole", settings)
    with pytest.raises(ZeroDivisionError):
        fit(table, [GAP, ENERGY], tmp_path / "part", settings, observer=Stop())
    resumed = fit(table, [GAP, ENERGY], tmp_path / "part", settings, resume=True)
    one, two = (load_checkpoint(path).model.state_dict() for path in (whole, resumed))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_run_does_not_go_on_from_another_parent(parent: Path, table: CrystalTable, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes((parent / "model.safetensors").read_bytes())

    class Stop(Observer):
        def step(self, progress: Progress) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fit(table, [GAP], tmp_path / "run", recipe(weights), observer=Stop())
    tiny_model(weights)
    with pytest.raises(ConfigError, match="model to start from"):
        fit(table, [GAP], tmp_path / "run", recipe(weights), resume=True)


def test_the_card_names_the_parent_and_its_data(parent: Path, table: CrystalTable, tmp_path: Path) -> None:
    fit(table, [GAP], tmp_path / "run", recipe(parent))
    card, before = load_model(tmp_path / "run").card, load_model(parent)
    assert card["init"]["fingerprint"] == before.fingerprint
    assert card["init"]["data"] == before.card["data"]
    assert card["init"]["kept"] == []
    saved = Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert saved.init == Init(model=str(parent))
    assert saved.model == {key: value for key, value in vars(before.network.config).items() if key != "n_targets"}


def test_other_defaults_hold() -> None:
    tuned = Recipe.parse({"init": "materials-project"})
    assert {name: getattr(tuned, name) for name in FINE_TUNING} == FINE_TUNING
    assert tuned.init == Init(model="materials-project")
    assert Recipe.parse({"init": "materials-project", "lr": 0.5}).lr == 0.5


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (replace(ENERGY, unit="kJ/mol"), "energy with unit 'eV/atom', the table has 'kJ/mol'"),
        (replace(ENERGY, basis="intensive"), "energy with basis 'per_atom', the table has 'intensive'"),
        (replace(ENERGY, transform="log10"), "energy with transform 'none', the table has 'log10'"),
    ],
)
def test_a_known_target_in_another_unit_is_refused(parent: Path, target: Target, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        child_of(parent, target)
    child_of(parent, target, head="fresh")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preset": "crystalframer"}, "leave out 'preset'"),
        ({"model": {"dim": 16}}, "has dim = 8, not 16"),
        ({"architecture": "cgcnn"}, "has architecture = crystalformer, not cgcnn"),
        ({"init": {"freeze": 1}}, "init needs the setting 'model'"),
        ({"init": {"model": "X", "frozen": 1}}, "frozen"),
    ],
)
def test_settings_that_contradict_the_parent_are_refused(parent: Path, settings: dict[str, Any], words: str) -> None:
    if settings.get("init", {}).get("model") == "X":
        settings = {"init": {**settings["init"], "model": str(parent)}}
    with pytest.raises(ConfigError, match=words):
        Recipe.parse({"init": str(parent), **settings})


def test_freezing_everything_is_refused(parent: Path) -> None:
    with pytest.raises(ConfigError, match="freeze at most 3"):
        child_of(parent, GAP, freeze=STAGES)


def test_a_parent_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        Recipe.parse({"init": "nowhere"})


def test_on_the_command_line(parent: Path, table: CrystalTable, tmp_path: Path) -> None:
    command = ["train", table.path, "--target", "gap", "--unit", "eV", "--init", parent, "-o", tmp_path / "run"]
    settings = ["--set", "init.freeze=1", "--set", "lr=1e-3", "--set", "accelerator=cpu", "--epochs", 1]
    result = invoke(*command, *settings)
    assert result.exit_code == 0, result.output
    assert "starting from" in result.stderr
    saved = Recipe.load(tmp_path / "run" / "recipe.yaml")
    assert saved.init == Init(model=str(parent), freeze=1)
    assert saved.lr == 1e-3
    for text in ("lr", "=3", "lr=[1"):
        refused = invoke(*command[:-1], tmp_path / "other", "--set", text)
        assert refused.exit_code == 2
        assert "write SETTING=VALUE" in refused.stderr


def test_new_frames_change_nothing_until_they_learn(parent: Path, table: CrystalTable, tmp_path: Path) -> None:
    with_frames = Recipe.parse(
        {
            **recipe(parent, 1).model_dump(exclude={"model"}),
            "lr": 1e-12,
            "init": {"model": str(parent), "frames": "crystalframer-lightweight"},
        }
    )
    assert with_frames.model["frame"] == "max"
    assert with_frames.model["angular_functions"] == PRESETS["crystalframer-lightweight"].angular_functions
    assert with_frames.model["distance_coefficient"] == 1
    assert Recipe.parse(with_frames.model_dump()) == with_frames
    model = load_model(fit(table, [ENERGY], tmp_path / "run", with_frames))
    crystals = [table[row] for row in range(len(table))]
    before, after = (one.values(crystals)[:, 0] for one in (load_model(parent), model))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert not np.allclose(after, after[0])


def test_new_frames_learn(parent: Path, table: CrystalTable, tmp_path: Path) -> None:
    init = {"model": str(parent), "frames": "crystalframer-weighted-pca"}
    weights = fit(
        table, [GAP], tmp_path / "run", Recipe.parse({**recipe(parent).model_dump(exclude={"model"}), "init": init})
    )
    state = load_checkpoint(weights).model.state_dict()
    angular = [tensor for name, tensor in state.items() if name.endswith("angular_encoding")]
    assert len(angular) == TINY["blocks"]
    assert all(tensor.abs().max() > 0 for tensor in angular)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"frames": "crystalframer-lightwait"}, "did you mean 'crystalframer-lightweight'"),
        ({"frames": "crystalformer"}, "has no frames"),
    ],
)
def test_frames_that_no_preset_has_are_refused(parent: Path, init: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(parent, **init)


def test_a_model_with_frames_gets_no_others(tmp_path: Path) -> None:
    tiny_model(tmp_path / "framed.safetensors", frame="max")
    with pytest.raises(ConfigError, match=r"has frames already \(max\)"):
        recipe(tmp_path / "framed.safetensors", frames="crystalframer")
    with pytest.raises(ConfigError, match=r"new frames with init\.frames"):
        Recipe.parse({"init": {"model": "materials-project"}, "model": {"frame": "max"}})
