"""The published numbers: all of them, as the reference has them, each with data and a recipe that can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import invoke

from crystalformers.data.sets import SETS
from crystalformers.errors import ConfigError
from crystalformers.models import build_model
from crystalformers.reproduction import Result, committed, find, plan, published, read_result
from crystalformers.reproduction.catalogue import SPEED_ATOMS
from crystalformers.reproduction.runs import differences
from crystalformers.training import Recipe

ROOT = Path(__file__).parents[2]
ROWS = published()
TRAINED = {name: row for name, row in ROWS.items() if row.training}


def test_every_row_of_the_main_tables_is_there() -> None:
    count = {"jarvis": 5, "mp": 4, "oqmd": 3}
    for model in ("crystalformer", "crystalframer"):
        for group, n in count.items():
            assert sum(name.startswith(f"{model}/{group}/") for name in ROWS) == n
    frames = ("max", "weighted-pca", "static-local", "lattice", "pca")
    for frame in frames[1:]:
        assert sum(name.startswith(f"crystalframer-{frame}/") for name in ROWS) == 9
    assert sum(name.startswith("crystalformer-simplified-") for name in ROWS) == 7 * 5
    assert sum(name.startswith("ct-cgcnn") for name in ROWS) == 9


NAMES_IN_REFERENCE = {
    "**Crystalformer** (4 blocks, SWA)": "crystalformer",
    "**Crystalformer** (SWA)": "crystalformer",
    "– without SWA": "crystalformer-without-averaging",
    "– 7 blocks": "crystalformer-7",
    "– dual space (half reciprocal heads)": "crystalformer-dual-space",
    "– + PCA frames": "crystalframer-pca",
    "– + lattice frames": "crystalframer-lattice",
    "– + static local frames": "crystalframer-static-local",
    "– + weighted PCA frames": "crystalframer-weighted-pca",
    "**CrystalFramer** (max frames, default)": "crystalframer",
    "**CrystalFramer** (max, default)": "crystalframer",
    "CrystalFramer lightweight": "crystalframer-lightweight",
    "Crystalformer 4": "crystalformer",
    "CrystalFramer max 4": "crystalframer",
    "Crystalformer 8": "crystalformer-8",
    "CrystalFramer max 8": "crystalframer-8",
    "proposed (with ψ/β) 4": "crystalformer-validation",
    "simplified (no ψ) 4": "crystalformer-simplified-4",
    **{f"simplified {n}": f"crystalformer-simplified-{n}" for n in (1, 2, 3, 5, 6, 7)},
}
SECTIONS = {"1": ("jarvis", 5), "2": ("mp", 4), "3": ("oqmd", 3), "4": ("jarvis", 5)}


@pytest.mark.shared
def test_the_numbers_are_those_of_the_reference(shared: Path) -> None:
    """Every row of the tables of our models in the reference, cell by cell."""
    text = (shared / "reference" / "published-results.md").read_text(encoding="utf-8")
    seen = set()
    for number, (group, count) in SECTIONS.items():
        section = text.split(f"\n## {number}. ")[1].split("\n## ")[0]
        tasks = [name.split("/", 1)[1] for name in ROWS if name.startswith(f"crystalformer/{group}/")]
        for line in section.splitlines():
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            named = " ".join(cells[:2]) if number in "34" else cells[0]
            if named not in NAMES_IN_REFERENCE:
                continue
            start = 2 if number in "34" else 1
            values = [float(re.sub(r"[*]", "", cell)) for cell in cells[start : start + count]]
            names = [f"{NAMES_IN_REFERENCE[named]}/{task}" for task in tasks]
            assert [ROWS[name].mae for name in names] == values
            seen |= set(names)
    assert seen == set(TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_recipe_and_data_of_a_row(name: str) -> None:
    row = ROWS[name]
    recipe = row.recipe()
    assert row.label.unit
    assert row.training in ROWS
    assert differences(row, recipe) == {}
    model, group, task = name.split("/")
    length = {
        ("crystalformer", "jarvis"): (1600 if task == "band-gap-mbj" else 800, 256, 50),
        ("crystalformer", "mp"): (500, 128, 50),
        ("crystalframer", "jarvis"): (2000, 256, 50),
        ("crystalframer", "mp"): (800, 128, 50),
    }
    paper = model.partition("-")[0]
    assert (recipe.epochs, recipe.batch_size, recipe.average_epochs) == length.get((paper, group), (200, 1024, 20))
    given = (recipe.lr, recipe.betas, recipe.weight_decay, recipe.schedule, recipe.schedule_steps, recipe.clip_norm)
    assert given == (5e-4, (0.9, 0.98), 1e-5, "inverse-sqrt", 4000, 1.0)
    assert (recipe.loss, recipe.seed, recipe.precision) == ("l1", 123, "32")


@pytest.mark.parametrize(
    ("model", "parameters"),
    [("crystalformer", 853_505), ("crystalframer", 951_809), ("crystalframer-lightweight", 878_081)],
)
def test_models_have_their_published_size(model: str, parameters: int) -> None:
    recipe = ROWS[f"{model}/jarvis/band-gap"].recipe()
    network = build_model(recipe.architecture, {**recipe.model, "n_targets": 1})
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def test_published_sizes_of_the_training_splits() -> None:
    """The rule gives them where the number of rows is published and all of them have the label."""
    assert ROWS["crystalformer/jarvis/band-gap"].train == int(0.8 * (SETS["jarvis-dft3d-2021"].rows or 0))
    assert ROWS["crystalformer/oqmd/formation-energy"].train == int(0.8 * (SETS["oqmd-2021"].rows or 0))


def test_hours_follow_from_the_measured_speed() -> None:
    measured = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text(encoding="utf-8"))
    speed = {model["model"].split(",")[0]: model["train"]["median"] for model in reversed(measured["report"]["models"])}
    names = {"Crystalformer": "crystalformer", "CrystalFramer": "crystalframer"}
    for name, model in (*names.items(), ("CrystalFramer lightweight", "crystalframer-lightweight")):
        assert ROWS[f"{model}/mp/band-gap"].speed == pytest.approx(speed[name], abs=0.06)
    assert pytest.approx(measured["n_atoms"]["mean"], abs=0.05) == SPEED_ATOMS
    row = ROWS["crystalframer-8/oqmd/band-gap"]
    assert row.hours == pytest.approx(200 * 653_388 / 472.8 * 2 / 3600)
    assert ROWS["crystalframer-pca/mp/band-gap"].hours is None


def test_what_one_training_cannot_give() -> None:
    with pytest.raises(ConfigError, match="front-end whose training data are not published"):
        find("ct-cgcnn-frozen/mp/band-gap").recipe()
    with pytest.raises(ConfigError, match="did you mean 'crystalformer/mp/band-gap'"):
        find("crystalformer/mp/bandgap")
    with pytest.raises(ConfigError, match="ask for at least one"):
        plan(find("crystalformer/mp/band-gap"), 0)


def test_the_authors_training_and_changes() -> None:
    row = find("crystalframer/jarvis/band-gap")
    recipes = plan(row, 3, {"model.blocks": 2, "epochs": 60}, follow_authors=True)
    assert list(recipes) == [123, 124, 125]
    assert [recipe.seed for recipe in recipes.values()] == [123, 124, 125]
    assert recipes[123].published_slips
    assert recipes[123].model["tie_width"] == 1e-8
    assert differences(row, recipes[124]) == {"epochs": 60, "model.blocks": 2}


def test_list_and_recipe() -> None:
    result = invoke("reproduce", "--list")
    assert result.exit_code == 0
    assert all(f"{name} " in result.stdout for name in ROWS)
    assert invoke("reproduce", "--list", "crystalframer-8").stdout.count("153.") == 3
    assert "no published number begins with 'nothing'" in invoke("reproduce", "nothing", "--list").stderr
    assert "name a published number" in invoke("reproduce").stderr
    printed = invoke("reproduce", "crystalframer/oqmd/band-gap", "--recipe", "--set", "seed=7").stdout
    assert "batch_size: 1024" in printed
    assert "seed: 7" in printed


def test_results_that_are_committed_are_whole() -> None:
    """Their published number and unit are those of the table, and full ones changed nothing."""
    for name, row in ROWS.items():
        result = committed(name)
        if result is not None:
            assert (result.name, result.published, result.unit, result.split) == (
                name,
                row.mae,
                row.label.unit,
                row.split,
            )


def test_a_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    facts = {"split": "test", "weights": "average", "n": 9, "follows_authors": False, "changes": {}, "environment": {}}
    made = Result(name="a/b/c", published=0.5, unit="eV", errors={1: 0.25, 2: 0.75}, data={"name": "d"}, **facts)
    assert read_result(made.write(tmp_path / "a")) == made
    assert made.describe() == "0.5 ± 0.35 eV (2 seeds)"
    assert read_result(tmp_path / "none.json") is None
    (tmp_path / "bad.json").write_text('{"errors": {}}')
    with pytest.raises(ConfigError, match="is no result of a reproduction"):
        read_result(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("name", "balance", "lr", "epochs", "factor"),
    [
        ("crystaltransformer-published", "none", 1e-4, 10, 0.96),
        ("crystaltransformer-published-multitask", "sum", 6e-3, 20, 0.5),
    ],
)
def test_the_recipes_of_crystaltransformer(name: str, balance: str, lr: float, epochs: int, factor: float) -> None:
    """As the authors' code has them: SGD, steps of the rate, squares, and for several targets their sum."""
    recipe = Recipe.load(ROOT / "recipes" / f"{name}.yaml")
    assert (recipe.loss, recipe.loss_balance, recipe.optimizer) == ("mse", balance, "sgd")
    assert (recipe.lr, recipe.momentum, recipe.weight_decay) == (lr, 0.9, 1e-3)
    assert (recipe.schedule, recipe.schedule_epochs, recipe.schedule_factor) == ("step", epochs, factor)
    assert (recipe.epochs, recipe.batch_size, recipe.seed, recipe.average_epochs) == (500, 128, 42, 0)
    assert recipe.model["variant"] == "published"
    assert recipe.augment is not None
    assert (recipe.augment.probability, recipe.augment.translation) == (0.5, 5.0)
