"""The command line: outputs and their units, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from command import invoke, leftovers, rows_of
from samples import CELL_ENERGY, ENERGY, MODULUS, many, rock_salt, tiny_model, write_poscar, write_table

import crystalformers.prediction.loading
from crystalformers.cli import app
from crystalformers.cli import progress as progress_module
from crystalformers.cli.train import merged_recipe
from crystalformers.prediction import bundled
from crystalformers.prediction.loading import load_model
from crystalformers.training import Recipe


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors", (ENERGY, CELL_ENERGY))


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path / "many.parquet", many(30))


@pytest.fixture
def mixed(tmp_path: Path) -> list[Path]:
    """A good POSCAR, an empty CIF, another good POSCAR."""
    empty = tmp_path / "empty.cif"
    empty.touch()
    salt = write_poscar(tmp_path / "salt.vasp", rock_salt())
    return [salt, empty, write_poscar(tmp_path / "oxide.vasp", rock_salt("Mg", "O", 4.21))]


# predict


def test_the_printed_table_names_targets_with_units(weights: Path, mixed: list[Path]) -> None:
    result = invoke("predict", mixed[0], mixed[2], "-m", weights)
    assert result.exit_code == 0
    header, *lines = [line for line in result.stdout.splitlines() if line.strip()]
    assert "energy (eV/atom)" in header
    assert "cell_energy (eV)" in header
    model = load_model(weights)
    for line, path in zip(lines, (mixed[0], mixed[2]), strict=True):
        (prediction,) = model.predict(path)
        words = line.split()
        assert words[-4:-2] == [prediction.formula, "2"]
        assert [float(word) for word in words[-2:]] == pytest.approx(list(prediction.values.values()), rel=1e-3)


def test_good_structures_are_predicted_and_bad_ones_named(weights: Path, mixed: list[Path]) -> None:
    result = invoke("predict", *mixed, "-m", weights)
    assert result.exit_code == 1
    assert "NaCl" in result.stdout
    assert "MgO" in result.stdout
    assert "1 structure could not be used" in result.stderr
    assert "empty.cif: the file is empty" in result.stderr
    assert "Traceback" not in result.stderr


def test_output_formats_agree_and_carry_units(weights: Path, mixed: list[Path], tmp_path: Path) -> None:
    for suffix in ("csv", "parquet", "json"):
        assert invoke("predict", *mixed, "-m", weights, "-o", tmp_path / f"out.{suffix}").exit_code == 1
    model = load_model(weights)
    expected = [model.predict(path)[0].values for path in (mixed[0], mixed[2])]

    rows = rows_of(tmp_path / "out.csv")
    assert list(rows[0]) == ["name", "formula", "n_atoms", "energy (eV/atom)", "cell_energy (eV)", "flag", "error"]
    assert [row["formula"] for row in rows] == ["NaCl", "", "MgO"]
    assert rows[1]["energy (eV/atom)"] == ""
    assert "empty" in rows[1]["error"]
    assert float(rows[2]["energy (eV/atom)"]) == pytest.approx(expected[1]["energy"], rel=1e-5)
    assert float(rows[2]["cell_energy (eV)"]) == pytest.approx(expected[1]["cell_energy"], rel=1e-5)

    parquet = pq.read_table(tmp_path / "out.parquet")
    assert parquet.schema.field("cell_energy").metadata == {b"unit": b"eV"}
    assert parquet["energy"].to_pylist()[1] is None
    assert parquet["energy"].to_pylist()[0] == pytest.approx(expected[0]["energy"], rel=1e-5)
    assert json.loads(parquet.schema.metadata[b"crystalformers"])["models"][0]["sha256"] == model.fingerprint

    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert report["units"] == {"energy": "eV/atom", "cell_energy": "eV"}
    assert report["tolerance"] == 1e-7
    assert report["predictions"][0]["values"] == pytest.approx(expected[0], rel=1e-5)
    assert "values" not in report["predictions"][1]
    assert leftovers(tmp_path) == []


def test_several_models_fill_one_table(weights: Path, mixed: list[Path], tmp_path: Path) -> None:
    other = tiny_model(tmp_path / "modulus.safetensors", (MODULUS,), seed=1)
    assert invoke("predict", mixed[0], "-m", weights, "-m", other, "-o", tmp_path / "o.csv").exit_code == 0
    (row,) = rows_of(tmp_path / "o.csv")
    assert float(row["modulus (GPa)"]) == pytest.approx(load_model(other).predict(mixed[0])[0].values["modulus"])
    clash = invoke("predict", mixed[0], "-m", weights, "-m", weights)
    assert clash.exit_code == 2
    assert "both predict energy" in clash.stderr


def test_one_of_the_bundled_models_is_the_default(
    mixed: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundled"
    folder.mkdir()
    monkeypatch.setattr(bundled, "FOLDER", folder)
    assert invoke("predict", mixed[0]).exit_code == 2
    tiny_model(folder / f"{bundled.DEFAULT}.safetensors", (ENERGY,))
    tiny_model(folder / "modulus.safetensors", (MODULUS,))
    result = invoke("predict", mixed[0])
    assert result.exit_code == 0
    assert "energy (eV/atom)" in result.stdout
    assert "modulus (GPa)" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "out.txt"], "must end in .csv or .parquet or .json"),
        (["-o", "absent/out.csv"], "no folder 'absent'"),
        (["-o", "old.csv"], "old.csv exists"),
        (["--resume"], "add -o"),
        (["--tolerance", "2"], "between 0 and 1"),
        (["--device", "abacus"], "abacus"),
        (["-m", "tiny.safetensor"], "Did you mean 'tiny.safetensors'?"),
    ],
)
def test_errors_are_one_line_with_code_2(
    arguments: list[str],
    message: str,
    weights: Path,
    mixed: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.safetensors").write_bytes(weights.read_bytes())
    (tmp_path / "old.csv").write_text("kept", encoding="utf-8")
    result = invoke("predict", mixed[0], "-m", weights, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (tmp_path / "old.csv").read_text(encoding="utf-8") == "kept"
    assert leftovers(tmp_path) == []


def test_overwrite_replaces(weights: Path, mixed: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "old.csv"
    output.write_text("old", encoding="utf-8")
    assert invoke("predict", mixed[0], "-m", weights, "-o", output, "--overwrite").exit_code == 0
    assert len(rows_of(output)) == 1


def test_an_output_inside_the_directory_that_is_read_is_no_input(weights: Path, tmp_path: Path) -> None:
    write_poscar(tmp_path / "salt.vasp", rock_salt())
    for _ in range(2):
        result = invoke("predict", tmp_path, "-m", weights, "-o", tmp_path / "out.csv", "--overwrite")
        assert result.exit_code == 0, result.stderr
        assert len(rows_of(tmp_path / "out.csv")) == 1


# embed


def test_embeddings_of_crystals_and_atoms(weights: Path, mixed: list[Path], tmp_path: Path) -> None:
    result = invoke("embed", *mixed, "-m", weights, "-o", tmp_path / "crystals.parquet")
    assert result.exit_code == 1
    assert "empty.cif" in result.stderr
    assert invoke("embed", *mixed, "-m", weights, "-o", tmp_path / "atoms.parquet", "--per-atom").exit_code == 1
    model = load_model(weights)

    crystals = pq.read_table(tmp_path / "crystals.parquet")
    assert crystals["id"].to_pylist() == [str(mixed[0]), str(mixed[2])]
    assert crystals["formula"].to_pylist() == ["NaCl", "MgO"]
    assert str(crystals.schema.field("vector").type) == "fixed_size_list<element: float>[8]"
    assert crystals.schema.metadata[b"sha256"].decode() == model.fingerprint
    vectors = np.array(crystals["vector"].to_pylist())
    np.testing.assert_allclose(vectors, model.embed([mixed[0], mixed[2]]), rtol=1e-5)

    atoms = pq.read_table(tmp_path / "atoms.parquet")
    assert atoms["atom"].to_pylist() == [0, 1, 0, 1]
    assert atoms["symbol"].to_pylist() == ["Na", "Cl", "Mg", "O"]
    per_atom = np.array(atoms["vector"].to_pylist()).reshape(2, 2, 8)
    np.testing.assert_allclose(per_atom.mean(axis=1), vectors, rtol=1e-4, atol=1e-6)
    assert leftovers(tmp_path) == []


# evaluate


def test_evaluation_on_the_terminal_and_in_files(weights: Path, tmp_path: Path) -> None:
    crystals = many(6)
    energies = [p.values["energy"] + 0.5 for p in load_model(weights).predict(crystals)]
    split = ["train", "test"] * 3
    table = write_table(tmp_path / "labelled.parquet", crystals, energy=energies, split=split)
    options = ["-o", tmp_path / "report.json", "--predictions", tmp_path / "rows.parquet"]
    result = invoke("evaluate", table, "-m", weights, *options)
    assert result.exit_code == 0, result.stderr
    assert "split: test" in result.stdout
    assert "eV/atom" in result.stdout
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    (entry,) = report["scores"]
    assert (entry["n"], entry["unit"]) == (3, "eV/atom")
    assert entry["mae"] == pytest.approx(0.5, rel=1e-4)
    assert [model["sha256"] for model in report["models"]] == [load_model(weights).fingerprint]
    rows = pq.read_table(tmp_path / "rows.parquet")
    assert rows["id"].to_pylist() == ["x1", "x3", "x5"]
    assert rows.schema.field("energy_prediction").metadata == {b"unit": b"eV/atom"}
    difference = np.array(rows["energy_label"]) - np.array(rows["energy_prediction"])
    np.testing.assert_allclose(difference, 0.5, rtol=1e-4)

    again = invoke("evaluate", table, "-m", weights, *options)
    assert again.exit_code == 2
    assert "report.json exists" in again.stderr
    wrong = invoke("evaluate", table, "-m", weights, "--split", "val")
    assert wrong.exit_code == 2
    assert "split 'val'" in wrong.stderr


def test_bad_rows_of_an_evaluation_are_named(weights: Path, tmp_path: Path) -> None:
    crystals = many(3)
    numbers = [[120] * len(crystals[0]), *(crystal.numbers.tolist() for crystal in crystals[1:])]
    table = write_table(tmp_path / "bad.parquet", crystals, energy=[1.0, 2.0, 3.0], atomic_numbers=numbers)
    result = invoke("evaluate", table, "-m", weights)
    assert result.exit_code == 1
    assert "x0" in result.stderr
    assert "energy" in result.stdout


# train


def test_options_become_targets_and_a_recipe(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("crystalformers.training.fit", lambda *a, **k: calls.append((a, k)) or tmp_path / "w")
    config = tmp_path / "recipe.yaml"
    config.write_text("epochs: 30\naverage_epochs: 0\nlr: 0.001\n", encoding="utf-8")
    targets = ["--target", "a", "--unit", "eV", "--basis", "per_cell", "--transform", "none"]
    targets += ["--target", "b", "--unit", "GPa", "--basis", "intensive", "--transform", "log10"]
    result = invoke("train", table, *targets, "-o", tmp_path / "run", "--config", config, "--epochs", 7, "--resume")
    assert result.exit_code == 0, result.stderr
    ((opened, given, run, recipe), options) = calls[0]
    assert len(opened) == 30
    assert [(t.name, t.unit, t.basis, t.transform) for t in given] == [
        ("a", "eV", "per_cell", "none"),
        ("b", "GPa", "intensive", "log10"),
    ]
    assert run == tmp_path / "run"
    assert (recipe.epochs, recipe.lr, recipe.average_epochs) == (7, 0.001, 0)
    assert options["resume"] is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "a", "--target", "b", "--unit", "eV"], "2 --target but 1 --unit"),
        (["--target", "a", "--unit", "eV", "--basis", "per_atom", "--basis", "per_cell"], "but 2 --basis"),
        (["--target", "a", "--unit", "eV", "--transform", "ln"], "transform 'ln'"),
        (["--target", "a", "--unit", "eV", "--target", "a", "--unit", "eV"], "named twice"),
        (["--target", "a", "--unit", "eV", "--config", "absent.yaml"], "absent.yaml"),
        (["--target", "a", "--unit", "eV", "--epochs", "0"], "epochs"),
    ],
)
def test_wrong_training_options_are_refused(arguments: list[str], message: str, table: Path, tmp_path: Path) -> None:
    result = invoke("train", table, *arguments, "-o", tmp_path / "run")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_every_command_that_computes_says_where_and_with_how_many_threads() -> None:
    without = {
        name
        for name, command in commands(typer.main.get_command(app))
        if not {"--device", "--threads"} <= {option for parameter in command.params for option in parameter.opts}
    }
    assert {name for name in without if not name.startswith("data ")} == {
        *("convert", "models", "elements export", "elements report", "elements show"),
    }


def commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All commands, with their names."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from commands(inner, f"{name} {word}".strip())


RECIPE = """
epochs: 1
average_epochs: 1
batch_size: 8
model: {dim: 8, heads: 2, blocks: 1, feedforward: 16, radial_functions: 8}
"""


def test_from_a_table_to_a_run_to_its_errors(tmp_path: Path) -> None:
    crystals = many(40)
    table = write_table(tmp_path / "labelled.parquet", crystals, energy=[-1.0 - 0.1 * (k % 7) for k in range(40)])
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    run = tmp_path / "run"
    options = ["--target", "energy", "--unit", "eV/atom", "--config", tmp_path / "recipe.yaml", "--threads", 1]
    result = invoke("train", table, *options, "-o", run)
    assert result.exit_code == 0, result.stderr
    assert "model.safetensors" in result.stdout
    assert invoke("evaluate", table, "-m", run, "-o", tmp_path / "report.json").exit_code == 0
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    splits = json.loads((run / "splits.json").read_text(encoding="utf-8"))
    assert report["split"] == "test"
    assert report["scores"][0]["n"] == len(splits["test"]) > 0
    assert "energy (eV/atom)" in invoke("predict", table, "-m", run).stdout


# models and the rest


def test_models_are_listed_with_their_measured_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from crystalformers.checkpoint import load_checkpoint, save_model

    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    assert "No model is bundled" in invoke("models").stdout
    path = tiny_model(tmp_path / "energy.safetensors", (ENERGY, MODULUS))
    card = {
        "data": {"name": "Some Table", "rows": {"train": 31619}},
        "errors": {"test": {"energy": {"mae": 0.0712, "n": 1119, "unit": "eV/atom"}}},
    }
    save_model(path, load_checkpoint(path).model, (ENERGY, MODULUS), card)
    lines = invoke("models").stdout.splitlines()
    energy = next(line for line in lines if "eV/atom" in line)
    for word in ("energy", "Some Table", "31619 crystals", "0.0712", "1119"):
        assert word in energy
    assert "GPa" in next(line for line in lines if "modulus" in line)


def test_help_and_version() -> None:
    help_text = invoke("--help").stdout
    for verb in ("predict", "train", "evaluate", "embed", "models"):
        assert verb in help_text
        assert invoke(verb, "--help").exit_code == 0
    assert invoke("--version").stdout.startswith("crystalformers 0.")
    assert invoke("predikt").exit_code == 2


HELP_PAGES = """
import sys
from crystalformers.cli import main
for arguments in ([], *([command] for command in sys.argv[1:])):
    sys.argv = ["crystalformers", *arguments, "--help"]
    try:
        main()
    except SystemExit as stop:
        assert stop.code == 0
slow = {"torch", "numpy", "pandas", "pyarrow", "pymatgen", "lightning_fabric", "matplotlib"}
slow |= {"filelock", "rich", "pydantic", "requests"}
print(sorted(slow & set(sys.modules)))
"""


def test_help_imports_nothing_that_takes_long() -> None:
    commands = ["predict", "train", "evaluate", "embed", "explain", "convert", "models", "elements", "data"]
    result = subprocess.run([sys.executable, "-c", HELP_PAGES, *commands], capture_output=True, text=True, check=True)
    assert result.stdout.count("Usage: crystalformers") == 1 + len(commands)
    assert result.stdout.splitlines()[-1] == "[]"


def test_progress_outside_a_terminal_is_a_line_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_module, "SECONDS_BETWEEN_LINES", 100.0)
    clock = iter([0.0, 99.0, 120.0, 150.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    with progress_module.progress("predicting", 1000, 500) as advance:
        for _ in range(3):
            advance(50)
    assert capsys.readouterr().err == "predicting: 600 of 1000, 0:08:00 left\n"


def test_progress_of_a_download_that_starts_anew(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time left is that of the last beginning, and one line tells of whichever file is next."""
    clock = iter([0.0, 10.0, 15.0, 40.0, 45.0, 80.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    with progress_module.progress_of_several() as report:
        for what, done in (("a", 500), ("a", 600), ("a", 100), ("a", 200), ("b", 0), ("b", 350)):
            report(what, done, 1000)
    assert capsys.readouterr().err == "a: 200 of 1000, 0:03:20 left\nb: 350 of 1000, 0:01:05 left\n"


def test_a_bug_keeps_its_traceback(weights: Path, mixed: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crystalformers.prediction.loading, "load_model", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        invoke("predict", mixed[0], "-m", weights)


def test_settings_of_a_recipe_on_the_command_line(tmp_path: Path) -> None:
    """`--set` reaches every setting, null included; a flag of its own comes before it, a flag left out does not."""
    config = tmp_path / "recipe.yaml"
    config.write_text("epochs: 9\nmax_atoms: 100\n")
    settings = ["epochs=3", "max_atoms=null", "model.blocks=2"]
    recipe = merged_recipe(config, {"epochs": None, "seed": 5}, settings)
    assert (recipe.epochs, recipe.max_atoms, recipe.model["blocks"], recipe.seed) == (3, None, 2, 5)
    assert merged_recipe(config, {"epochs": 4}, settings).epochs == 4
    assert merged_recipe(None, {"epochs": None}).epochs == Recipe().epochs
