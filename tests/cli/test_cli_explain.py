"""`crystalformers explain`: tables, JSON and pictures of what a model attends to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import invoke, rows_of
from explained import TABLE_COLUMNS
from samples import rock_salt, tiny_model, write_poscar


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def test_the_verb_writes_tables_json_and_pictures(weights: Path, tmp_path: Path) -> None:
    salt = write_poscar(tmp_path / "salt.vasp", rock_salt())
    for suffix in ("csv", "json", "png"):
        assert invoke("explain", salt, "-m", weights, "-o", tmp_path / f"out.{suffix}").exit_code == 0
    rows = rows_of(tmp_path / "out.csv")
    assert ",".join(rows[0]) == TABLE_COLUMNS
    assert {(row["atom"], row["block"], row["head"]) for row in rows} == {
        (a, b, h) for a in "01" for b in "01" for h in "01"
    }
    assert len(json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["attention"]) == 4
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    again = invoke("explain", salt, "-m", weights, "-o", tmp_path / "out.csv")
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr


def test_the_verb_prints_the_chosen_atom(weights: Path, tmp_path: Path) -> None:
    salt = write_poscar(tmp_path / "salt.vasp", rock_salt())
    result = invoke("explain", salt, "-m", weights, "--atom", 1, "--block", 0, "--threshold", 0.05)
    assert result.exit_code == 0
    header, *lines = result.stdout.splitlines()
    assert "distance (Å)" in header
    assert lines
    assert all(line.startswith("Cl 1") for line in lines)
    missing = invoke("explain", salt, "-m", weights, "--atom", 5)
    assert missing.exit_code == 2
    assert "There is no atom 5" in missing.stderr
    assert invoke("explain", salt, "-m", weights, "-o", tmp_path / "out.gif").exit_code == 2


def test_the_verb_draws_a_gallery(weights: Path, tmp_path: Path) -> None:
    salt = write_poscar(tmp_path / "salt.vasp", rock_salt())
    drawn = invoke("explain", salt, "-m", weights, "--gallery", "-o", tmp_path / "all.png")
    assert drawn.exit_code == 0
    assert (tmp_path / "all.png").read_bytes().startswith(b"\x89PNG")
    for words in ((), ("-o", tmp_path / "all.csv"), ("-o", tmp_path / "one.png", "--head", 0)):
        refused = invoke("explain", salt, "-m", weights, "--gallery", *words)
        assert refused.exit_code == 2
        assert "--gallery: it is a picture of all blocks and heads" in refused.stderr
