"""POSCAR of VASP 4: the elements come from the file, then from the caller, then from the POTCAR beside it."""

from __future__ import annotations

from pathlib import Path

import pytest
from structures import POSCAR
from typer.testing import CliRunner

from crystalformers.cli import app
from crystalformers.errors import StructureError
from crystalformers.io import Rejected, read_crystal, read_structures

NAMELESS = POSCAR.replace("Na Cl\n", "")


def potcar(*titles: str) -> str:
    """What tells the elements in a POTCAR."""
    return "".join(
        f"  PAW_PBE {title}\n   VRHFIN ={title}:\n   TITEL  = PAW_PBE {title} 08Apr2002\n" for title in titles
    )


def test_species_of_the_caller(tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_text(NAMELESS)
    assert read_crystal(tmp_path / "POSCAR", ["Na", "Cl"]).symbols == ["Na", "Cl"]
    (found,) = read_structures([tmp_path], ["K", "Br"])
    assert not isinstance(found, Rejected)
    assert found.symbols == ["K", "Br"]


def test_species_of_the_potcar(tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_text(NAMELESS)
    (tmp_path / "POTCAR").write_text(potcar("Na_pv", "Cl"))
    assert read_crystal(tmp_path / "POSCAR").symbols == ["Na", "Cl"]
    assert read_crystal(tmp_path / "POSCAR", ["K", "Br"]).symbols == ["K", "Br"]
    (tmp_path / "POTCAR").write_text(potcar("Na_pv"))
    with pytest.raises(StructureError, match="1 element symbols but 2 atom counts"):
        read_crystal(tmp_path / "POSCAR")
    (tmp_path / "POTCAR").write_text("nothing\n")
    with pytest.raises(StructureError, match="POTCAR: no TITEL names an element"):
        read_crystal(tmp_path / "POSCAR")


@pytest.mark.parametrize(
    "text",
    [
        POSCAR,
        NAMELESS.replace("rock salt", "Na Cl"),
        NAMELESS.replace("0 0 0\n0.5 0.5 0.5", "0 0 0 Na\n0.5 0.5 0.5 Cl"),
    ],
)
def test_what_the_file_tells_comes_first(tmp_path: Path, text: str) -> None:
    (tmp_path / "POSCAR").write_text(text)
    (tmp_path / "POTCAR").write_text(potcar("Rb", "F"))
    assert read_crystal(tmp_path / "POSCAR", ["K", "Br"]).symbols == ["Na", "Cl"]


@pytest.mark.parametrize("comment", ["Na", "Na Cl Br", "NaCl 1", "Na chloride", "na cl"])
def test_a_comment_that_is_not_one_symbol_for_each_count_names_no_elements(tmp_path: Path, comment: str) -> None:
    (tmp_path / "POSCAR").write_text(NAMELESS.replace("rock salt", comment))
    with pytest.raises(StructureError, match="the file names no elements") as caught:
        read_crystal(tmp_path / "POSCAR")
    assert "--species" in caught.value.remedy


@pytest.mark.parametrize(
    ("species", "phrase"),
    [(["Na"], "1 element symbols but 2 atom counts"), (["Na", "Xx"], "'Xx' is not an element")],
)
def test_species_that_do_not_fit(tmp_path: Path, species: list[str], phrase: str) -> None:
    (tmp_path / "POSCAR").write_text(NAMELESS)
    with pytest.raises(StructureError, match=phrase):
        read_crystal(tmp_path / "POSCAR", species)


def test_species_on_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_text(NAMELESS)
    poscar, runner = str(tmp_path / "POSCAR"), CliRunner()
    for command in (
        ["predict", poscar, "-o", str(tmp_path / "a.csv")],
        ["embed", poscar, "-o", str(tmp_path / "a.parquet")],
        ["explain", poscar, "-o", str(tmp_path / "b.csv")],
    ):
        assert runner.invoke(app, [*command, "--overwrite"]).exit_code != 0, command
        assert runner.invoke(app, [*command, "--overwrite", "--species", "Na, Cl"]).exit_code == 0, command
    assert "NaCl,2," in (tmp_path / "a.csv").read_text()
    refused = runner.invoke(app, ["predict", poscar, "--species", "Q"])
    assert refused.exit_code == 2
    assert "'Q' in --species is no element" in refused.output


def test_exit_codes_tell_bad_rows_from_a_bad_run(tmp_path: Path) -> None:
    """0 for all good, 1 for some rows that cannot be used, 2 for a run that itself failed."""
    (tmp_path / "POSCAR").write_text(POSCAR)
    good, bad = str(tmp_path / "POSCAR"), str(tmp_path / "missing.cif")
    runner = CliRunner()
    assert runner.invoke(app, ["predict", good]).exit_code == 0
    mixed = runner.invoke(app, ["predict", bad, good])
    assert mixed.exit_code == 1
    assert "NaCl" in mixed.output
    assert runner.invoke(app, ["predict", good, "-m", str(tmp_path / "no-model")]).exit_code == 2
