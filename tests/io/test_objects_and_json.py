"""Objects and files of ASE and pymatgen: extended XYZ, JSON."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from structures import CELL, ase_atoms, assert_same, pymatgen_structure

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io import (
    Rejected,
    as_crystal,
    read_crystal,
    read_structures,
)


def test_frames_of_extxyz(tmp_path: Path) -> None:
    import ase.io

    atoms = ase_atoms(Crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], CELL))
    slab = atoms.copy()
    slab.pbc = (True, True, False)
    path = tmp_path / "frames.extxyz"
    ase.io.write(path, [atoms, slab, atoms], format="extxyz")
    first, bad, last = read_structures([path])
    assert (first.name, bad.name, last.name) == (f"{path}#0", f"{path}#1", f"{path}#2")
    assert isinstance(bad, Rejected)
    assert "not periodic in all three directions" in bad.reason
    with gzip.open(tmp_path / "one.xyz.gz", "wt") as file:
        ase.io.write(file, atoms, format="extxyz")
    assert len(read_crystal(tmp_path / "one.xyz.gz")) == 2


def test_frames_after_a_broken_one_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "cut.xyz"
    path.write_text('1\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 0 0\n1\nLattice="4 0 0 0 4 0 0 0 4"\nQq 0 0 0\n')
    good, bad = read_structures([path])
    assert isinstance(good, Crystal)
    assert isinstance(bad, Rejected)
    assert "cannot be read" in bad.reason


def test_ase_is_optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.xyz").write_text("1\n\nNa 0 0 0\n")
    monkeypatch.setitem(sys.modules, "ase.io", None)
    with pytest.raises(StructureError, match=r"needs the package ase; pip install 'crystalformers\[ase\]'"):
        read_crystal(tmp_path / "a.xyz")


def test_bad_objects() -> None:
    from ase import Atoms
    from pymatgen.core import Lattice, Molecule, Structure

    cubic = Lattice.cubic(4)
    cases = {
        "site 1 is disordered (Na 0.5)": Structure(cubic, [{"Na": 0.5}], [[0, 0, 0]]),
        "site 1 is disordered (Na 0.5 + K 0.5)": Structure(cubic, [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]),
        "'X' is not an element": Structure(cubic, ["X"], [[0, 0, 0]]),
        "'Fm' is not an element": Structure(cubic, ["Fm"], [[0, 0, 0]]),
        "not periodic in all three": Structure(Lattice(4 * np.eye(3), pbc=(True, True, False)), ["Na"], [[0, 0, 0]]),
        "a Molecule is not a structure": Molecule(["H"], [[0, 0, 0]]),
        "an int is not a structure": 7,
        "not periodic in all": Atoms("Na", cell=CELL),
        "the cell has no volume": Atoms("Na", pbc=True),
        "atomic number 0": Atoms("X", cell=CELL, pbc=True),
        "the structure is disordered": Atoms("Na", cell=CELL, pbc=True, info={"occupancy": {"0": {"Na": 0.5}}}),
        "the structure holds no atoms": Atoms(cell=CELL, pbc=True),
        "NaN or infinite": Atoms("Na", positions=[[np.nan, 0, 0]], cell=CELL, pbc=True),
        "apart": Atoms("Na2", positions=[[0, 0, 0], [3.9, 0, 0]], cell=CELL, pbc=True),
        "not a pymatgen Structure": {"lattice": {}, "sites": []},
    }
    for phrase, structure in cases.items():
        with pytest.raises(StructureError) as error:
            as_crystal(structure, name="mine")
        assert phrase in str(error.value)
        assert str(error.value).startswith("mine: ")


def test_deuterium_and_oxidation_states_of_pymatgen() -> None:
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4), ["D+", "Fe3+"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert list(as_crystal(structure).numbers) == [1, 26]
    assert list(as_crystal(structure.as_dict()).numbers) == [1, 26]


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("{", "not valid JSON"),
        ("{}", "neither a pymatgen Structure"),
        ("[1, 2]", "neither a pymatgen Structure"),
        ("[]", "holds no structure"),
        ('{"sites": 3}', "not a pymatgen Structure"),
        ("", "the file is empty"),
        ('{"ids": [1], "nextid": 2, "1": {"numbers": 3}}', "cannot be read"),
    ],
)
def test_bad_json(tmp_path: Path, text: str, phrase: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(StructureError) as error:
        read_crystal(tmp_path / "a.json")
    assert phrase in str(error.value)
    assert str(error.value).startswith(str(tmp_path / "a.json"))


def test_json_list_and_encoded_atoms(tmp_path: Path) -> None:
    from ase.io.jsonio import encode

    crystal = Crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], CELL)
    (tmp_path / "two.json").write_text(json.dumps([pymatgen_structure(crystal).as_dict()] * 2))
    assert [len(found) for found in read_structures([tmp_path / "two.json"])] == [2, 2]
    (tmp_path / "atoms.json").write_text(encode(ase_atoms(crystal)))
    assert_same(read_crystal(tmp_path / "atoms.json"), crystal, 1e-9)
