"""Exit codes: 0 all good, 1 some structures could not be used, 2 the run failed; never the same for two of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command import invoke
from samples import rock_salt, tiny_model, write_poscar


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.safetensors")


def test_one_missing_file_among_good_ones_costs_one_row(weights: Path, tmp_path: Path) -> None:
    good = [write_poscar(tmp_path / f"{name}.vasp", rock_salt(name)) for name in ("Na", "K")]
    assert invoke("predict", *good, "-m", weights).exit_code == 0
    for verb, output in (("predict", "out.csv"), ("embed", "out.parquet")):
        files = [good[0], tmp_path / "missing.cif", tmp_path / "missing.parquet", good[1]]
        result = invoke(verb, *files, "-m", weights, "-o", tmp_path / output)
        assert result.exit_code == 1
        assert "2 structures could not be used" in result.stderr
        assert "missing.cif: the file cannot be read (No such file or directory)" in result.stderr
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 5


def test_a_run_that_cannot_begin_is_not_a_bad_structure(weights: Path, tmp_path: Path) -> None:
    good = write_poscar(tmp_path / "Na.vasp", rock_salt("Na"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert invoke("predict", good, "-m", weights).exit_code == 2
    assert invoke("predict", good, "-m", tmp_path / "none").exit_code == 2


def test_a_bug_is_not_a_bad_structure_either(weights: Path, tmp_path: Path) -> None:
    good = write_poscar(tmp_path / "Na.vasp", rock_salt("Na"))
    script = (
        "import sys, crystalformers.prediction.predictor as model\n"
        "from crystalformers.cli import main\n"
        "model.predict_window = lambda *given, **options: 1 / 0\n"
        "main()"
    )
    command = [sys.executable, "-c", script, "predict", str(good), "-m", str(weights)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ZeroDivisionError" in done.stderr
