"""What the tests of readers share: a CIF, a POSCAR, random crystals, objects of other libraries, and equality."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from crystalformers.crystal import Crystal

CELL = np.array([[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]])

CIF = """data_rocksalt
_cell_length_a 5.6
_cell_length_b 5.6
_cell_length_c 5.6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_chemical_formula_sum 'Na Cl'
_cell_formula_units_Z 4
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'x, y+1/2, z+1/2'
'x+1/2, y, z+1/2'
'x+1/2, y+1/2, z'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Na1 Na+ 0 0 0 1
Cl1 Cl- 0.5 0.5 0.5 1
"""

POSCAR = """rock salt
1.0
4 0 0
0 4 0
0 0 4
Na Cl
1 1
Direct
0 0 0
0.5 0.5 0.5
"""


@st.composite
def crystals(draw: st.DrawFn) -> Crystal:
    """Atoms on a jittered 3 x 3 x 3 grid of a triclinic cell: never closer than an Angstrom."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_atoms = draw(st.integers(1, 9))
    lattice = np.diag(rng.uniform(5, 8, 3)) + np.tril(rng.uniform(-2, 2, (3, 3)), k=-1)
    lattice = lattice @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    grid = np.stack(np.meshgrid(*[[0, 1, 2]] * 3), axis=-1).reshape(-1, 3)
    frac = (rng.permutation(grid)[:n_atoms] + rng.uniform(-0.2, 0.2, (n_atoms, 3))) / 3 + rng.integers(-2, 3, 3)
    return Crystal(rng.integers(1, 99, n_atoms), frac, lattice, "random")


def assert_same(found: Crystal, expected: Crystal, tolerance: float) -> None:
    """Equal up to orientation, order of atoms and lattice translations."""
    metric, reference = (c.lattice @ c.lattice.T for c in (found, expected))
    np.testing.assert_allclose(metric, reference, atol=100 * tolerance)
    assert len(found) == len(expected)
    delta = found.frac_coords[:, None] - expected.frac_coords[None]
    near = (np.abs(delta - np.round(delta)) < tolerance).all(-1) & (found.numbers[:, None] == expected.numbers)
    assert (near.sum(0) == 1).all()
    assert (near.sum(1) == 1).all()


def pymatgen_structure(crystal: Crystal) -> Any:
    from pymatgen.core import Structure

    return Structure(crystal.lattice, crystal.symbols, crystal.frac_coords)


def ase_atoms(crystal: Crystal) -> Any:
    from ase import Atoms

    return Atoms(crystal.numbers, positions=crystal.positions, cell=crystal.lattice, pbc=True)
