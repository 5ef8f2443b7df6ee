"""What is written comes back the same; formulas."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from structures import CELL, ase_atoms, assert_same, crystals, pymatgen_structure

from crystalformers.crystal import Crystal
from crystalformers.io import (
    as_crystal,
    formula,
    read_crystal,
)
from crystalformers.io.composition import contradicts, parse_formula


@settings(max_examples=25, deadline=None)
@given(crystal=crystals())
def test_round_trip_through_files(crystal: Crystal, tmp_path_factory: pytest.TempPathFactory) -> None:
    import ase.io
    from pymatgen.io.cif import CifWriter
    from pymatgen.io.vasp import Poscar

    folder = tmp_path_factory.mktemp("round")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen warns of noble gases when it sorts
        structure = pymatgen_structure(crystal)
        CifWriter(structure, significant_figures=12).write_file(folder / "pymatgen.cif")
        Poscar(structure).write_file(folder / "POSCAR_pymatgen", significant_figures=14)
        (folder / "pymatgen.json").write_text(json.dumps(structure.as_dict()))
    atoms = ase_atoms(crystal)
    ase.io.write(folder / "ase.cif", atoms, format="cif")
    ase.io.write(folder / "CONTCAR", atoms, format="vasp")
    ase.io.write(folder / "cartesian.vasp", atoms, format="vasp", direct=False)
    ase.io.write(folder / "ase.extxyz", atoms, format="extxyz")
    ase.io.write(folder / "ase.json", atoms, format="json")
    for path in sorted(folder.iterdir()):
        tolerance = 2e-5 if path.name == "ase.cif" else 1e-7
        assert_same(read_crystal(path), crystal, tolerance)
        assert read_crystal(path).name == str(path)


@settings(max_examples=25, deadline=None)
@given(crystal=crystals())
def test_round_trip_through_objects(crystal: Crystal) -> None:
    for structure in (pymatgen_structure(crystal), ase_atoms(crystal), pymatgen_structure(crystal).as_dict()):
        found = as_crystal(structure, name="mine")
        assert_same(found, crystal, 1e-10)
        assert found.name == "mine"
    assert as_crystal(crystal) is crystal
    assert as_crystal(crystal, name="other").name == "other"


def test_names_of_objects() -> None:
    crystal = Crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], CELL, "rock salt")
    assert as_crystal(pymatgen_structure(crystal)).name == "Na1 Cl1"
    assert as_crystal(ase_atoms(crystal)).name == "NaCl"
    assert as_crystal(crystal).name == "rock salt"


def test_formula_is_that_of_pymatgen() -> None:
    def of(symbols: str) -> str:
        from crystalformers.periodic import ATOMIC_NUMBERS

        numbers = [ATOMIC_NUMBERS[s] for s in symbols.split()]
        return formula(Crystal(numbers, np.linspace(0, 0.9, len(numbers))[:, None] * np.ones(3), 9 * CELL))

    assert of("Ti O O O Sr") == "SrTiO3"
    assert of("Cl Na Cl Na") == "NaCl"
    assert of("O O") == "O2"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert of("He Ar") in {"ArHe", "HeAr"}


# Formulas


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        ("Ca3(PO4)2", {20: 3, 15: 2, 8: 8}),
        ("C6 H12 O6", {6: 6, 1: 12, 8: 6}),
        ("'Al2 O3'", {13: 2, 8: 3}),
        ("[Fe(CN)6]2 D0.5 H0.5", {26: 2, 6: 12, 7: 12, 1: 1}),
        ("Li0.333", {3: 0.333}),
        ("Xx2O", None),
        ("(CaO", None),
        ("CaO)", None),
        ("?", None),
        ("", None),
        ("C6 H6, 2(H2 O)", None),
    ],
)
def test_parse_formula(text: str, counts: dict[int, float] | None) -> None:
    assert parse_formula(text) == counts


def test_formula_contradicts_atoms() -> None:
    numbers = np.array([22] * 36 + [8] * 72)
    assert not contradicts({22: 1, 8: 2}, numbers)
    assert not contradicts({22: 0.3333, 8: 0.6667}, numbers)
    assert contradicts({22: 1, 8: 2}, numbers[:-1])
    assert contradicts({22: 1, 8: 2, 1: 1}, numbers)
    assert contradicts({22: 1}, numbers)
