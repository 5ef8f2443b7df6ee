"""POSCARs as programs write them are read, and bad ones are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from structures import CELL, POSCAR, assert_same

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.io import (
    check,
    read_crystal,
)
from crystalformers.io.poscar import read_poscar


@pytest.mark.parametrize(
    "text",
    [
        POSCAR,
        POSCAR.replace("Direct", "Selective dynamics\ndirect").replace("0 0 0\n0.5", "0 0 0 T T F\n0.5"),
        POSCAR.replace("Na Cl", "Na_pv Cl/0123abc"),
        POSCAR.replace("Direct", "Cartesian").replace("0.5 0.5 0.5", "2 2 2"),
        POSCAR.replace("Direct", "cartesian").replace("0.5 0.5 0.5", "1 1 1").replace("1.0\n", "2\n").replace("4", "2"),
        POSCAR.replace("1.0\n", "-64\n"),
        POSCAR.replace("1.0\n4 0 0", "2 1 1\n2 0 0"),
        POSCAR.replace("Na Cl\n", "").replace("rock salt", "Na Cl"),
        POSCAR.replace("Na Cl\n", "").replace("0 0 0\n0.5 0.5 0.5", "0 0 0 # Na1\n0.5 0.5 0.5 # Cl1"),
        POSCAR.replace("Na Cl\n", "").replace("0 0 0\n0.5 0.5 0.5", "0 0 0 Na\n0.5 0.5 0.5 Cl"),
        POSCAR + "\n0.1 0.2 0.3\n0.1 0.2 0.3\n",
        POSCAR.replace("\n", "\r\n"),
        POSCAR.replace("0.5 0.5 0.5", "0.5D0 5.0d-1 .5"),
    ],
)
def test_poscar_dialects(text: str) -> None:
    expected = Crystal([11, 17], [[0, 0, 0], [0.5, 0.5, 0.5]], CELL)
    assert_same(check(read_poscar(text, "POSCAR")), expected, 1e-9)


BAD_POSCAR = {
    "the file names no elements (VASP 4 format)": POSCAR.replace("Na Cl\n", ""),
    "disagree with the atom counts": POSCAR.replace("Na Cl\n1 1", "2").replace(
        "0 0 0\n0.5 0.5 0.5", "0 0 0 Na\n0.5 0.5 0.5 Cl"
    ),
    "'Zz' is not an element": POSCAR.replace("Na", "Zz"),
    "2 element symbols but 3 atom counts": POSCAR.replace("1 1", "1 1 1") + "0.2 0.2 0.2\n",
    "the file is cut short, 2 atoms are counted": POSCAR.replace("0.5 0.5 0.5\n", "\n"),
    "more positions follow than the 2 atoms": POSCAR + "0.2 0.2 0.2\n",
    "the position '0.5 0.5' does not hold 3 numbers": POSCAR.replace("0.5 0.5 0.5", "0.5 0.5"),
    "the lattice vector '0 four 0'": POSCAR.replace("0 4 0", "0 four 0"),
    "neither 'Direct' nor 'Cartesian'": POSCAR.replace("Direct\n", ""),
    "the scaling factor '0' must be positive": POSCAR.replace("1.0", "0"),
    "the cell has no volume": POSCAR.replace("0 4 0", "4 0 0"),
    "NaN or infinite": POSCAR.replace("0.5 0.5 0.5", "nan 0.5 0.5"),
    "should hold the number of atoms": POSCAR.replace("1 1", "one one"),
    "Å apart": POSCAR.replace("0.5 0.5 0.5", "0.99 0.99 0.99"),
    "needs at least 8 lines": "a\nb\n",
    "the file is empty": " \n",
}


@pytest.mark.parametrize("phrase", BAD_POSCAR)
def test_bad_poscar(tmp_path: Path, phrase: str) -> None:
    path = tmp_path / "POSCAR-bad"
    path.write_text(BAD_POSCAR[phrase])
    with pytest.raises(StructureError) as error:
        read_crystal(path)
    assert phrase in str(error.value)
    assert str(error.value).startswith(str(path))
