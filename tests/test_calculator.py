"""The ASE calculator: forces and stress against finite differences, symmetry, and what is no energy."""

from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import CELL_ENERGY, ENERGY, MODULUS, rock_salt, supercell
from strategies import SYMMETRIC_CRYSTALS as CRYSTALS
from strategies import make_crystal

from crystalformers.checkpoint import Checkpoint
from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError, DomainError, StructureError, TargetError
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.model import Model
from crystalformers.target import Target
from crystalformers.testing import randomly_rebased, rotated

ase = pytest.importorskip("ase")

from crystalformers.calculator import CrystalformersCalculator, energy_target  # noqa: E402 - needs ASE

VARIANTS = {
    "real": {},
    "simplified": {"radial_functions": 0},
    "reciprocal": {"space": "reciprocal"},
    "dual": {"space": "dual"},
    "alternating": {"space": "alternating"},
    "max": {"frame": "max"},
    "static-local": {"frame": "static-local"},
    "weighted-pca": {"frame": "weighted-pca"},
    "dual max": {"space": "dual", "frame": "max"},
}

BLIND = ("simplified", "reciprocal")
"""Without a value encoding a crystal of one element looks the same whatever its lattice."""

GENERAL = Crystal(
    [3, 8, 15, 22],
    [[0.1, 0.2, 0.3], [0.6, 0.1, 0.8], [0.35, 0.7, 0.55], [0.85, 0.6, 0.2]],
    [[4.4, 0.2, 0], [-0.7, 4.9, 0.3], [0.4, 1.1, 5.3]],
)


def calculator(
    variant: str, targets: tuple[Target, ...] = (ENERGY,), target: str | None = None
) -> CrystalformersCalculator:
    """A model with random weights large enough for forces of some eV/Å; its tolerance keeps the test fast."""
    torch.manual_seed(4)
    settings = {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 8, "angular_functions": 8}
    settings |= {"angular_width": 1.0, "n_targets": len(targets), **VARIANTS[variant]}
    network = Crystalformer(CrystalformerConfig(**settings))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2.0)
    checkpoint = Checkpoint(network, targets, {})
    return CrystalformersCalculator(Model(checkpoint, variant, "", tolerance=1e-4), target)


def atoms_of(crystal: Crystal, calc: CrystalformersCalculator | None = None) -> ase.Atoms:
    atoms = ase.Atoms(crystal.numbers, positions=crystal.positions, cell=crystal.lattice, pbc=True)
    atoms.calc = calc
    return atoms


def energy(atoms: ase.Atoms) -> float:
    return float(atoms.get_potential_energy())


def numerical_forces(atoms: ase.Atoms, rows: list[tuple[int, int]], step: float) -> list[float]:
    """-dE/dp by central differences, for some coordinates."""
    found = []
    for row in rows:
        ends = []
        for side in (1, -1):
            moved = atoms.copy()
            moved.calc = atoms.calc
            moved.positions[row] += side * step
            ends.append(energy(moved))
        found.append((ends[1] - ends[0]) / (2 * step))
    return found


def numerical_stress(atoms: ase.Atoms, entry: tuple[int, int], step: float) -> float:
    """dE/d(strain) / V by central differences, for one entry of the symmetric strain."""
    ends = []
    for side in (1, -1):
        strain = np.zeros((3, 3))
        strain[entry] += side * step / 2
        strain[entry[::-1]] += side * step / 2
        moved = atoms.copy()
        moved.calc = atoms.calc
        moved.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        ends.append(energy(moved))
    return (ends[0] - ends[1]) / (2 * step) / atoms.get_volume()


VOIGT = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["general", "one atom", "sheared"])
def test_forces_and_stress_are_the_slope_of_the_energy(variant: str, name: str) -> None:
    crystal = {
        "general": GENERAL,
        "one atom": Crystal([29], [[0.2, 0.1, 0.4]], [[2.6, 0.1, 0.2], [0.3, 2.9, 0], [0.1, -0.2, 3.1]]),
        "sheared": make_crystal("sheared", 2, seed=5),
    }[name]
    atoms = atoms_of(crystal, calculator(variant))
    # Frames share within a hundredth of the log weight, so their energy bends sharply.
    step, tolerance = (1e-6, 1e-5) if "frame" in VARIANTS[variant] else (1e-5, 1e-6)
    forces, stress = atoms.get_forces(), atoms.get_stress()
    np.testing.assert_allclose(forces.sum(0), 0, atol=1e-12)
    rows = [(len(crystal) - 1, 2), (len(crystal) // 2, 1)]
    largest = max(np.abs(forces).max(), 1e-3)
    found = numerical_forces(atoms, rows, step)
    np.testing.assert_allclose([forces[row] for row in rows], found, rtol=0, atol=tolerance * largest)
    largest = max(np.abs(stress).max(), 1e-4)
    expected = [numerical_stress(atoms, entry, step) for entry in VOIGT]
    np.testing.assert_allclose(stress, expected, rtol=0, atol=tolerance * largest)
    if name == "one atom":
        np.testing.assert_allclose(forces, 0, atol=1e-12)
        assert (np.abs(stress).max() < 1e-12) == (variant in BLIND)
    if name == "general":
        assert np.abs(forces).max() > 1e-3
        assert np.abs(stress).max() > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["rock salt", "diamond", "perovskite", "bcc", "fcc"])
def test_forces_vanish_where_symmetry_demands_it(variant: str, name: str) -> None:
    atoms = atoms_of(CRYSTALS[name], calculator(variant))
    assert np.abs(atoms.get_forces()).max() < 1e-9
    xx, yy, zz, *shear = atoms.get_stress()
    assert abs(xx) > 1e-6 or (variant in BLIND and len(set(atoms.numbers)) == 1)
    np.testing.assert_allclose([yy - xx, zz - xx, *shear], 0, atol=1e-9)


@pytest.mark.parametrize(
    ("variant", "atol"), [("real", 1e-9), ("dual", 1e-9), ("max", 3e-6), ("static-local", 3e-6), ("weighted-pca", 1e-6)]
)
def test_an_atom_pushed_off_a_tie_feels_the_slope(variant: str, atol: float) -> None:
    """Near a symmetric site frames share, and the gradient of their shares counts."""
    crystal = CRYSTALS["rock salt"]
    push = np.array([1.1e-3, 0.7e-3, -0.4e-3])
    pushed = Crystal.from_positions(crystal.numbers, crystal.positions + np.outer([1, 0], push), crystal.lattice)
    atoms = atoms_of(pushed, calculator(variant))
    rows = [(0, 0), (0, 1), (0, 2)]
    forces = atoms.get_forces()
    np.testing.assert_allclose(forces[0], numerical_forces(atoms, rows, 1e-6), rtol=0, atol=atol)


@pytest.mark.parametrize("variant", ["real", "dual", "max"])
def test_forces_and_stress_turn_with_the_crystal(variant: str) -> None:
    calc = calculator(variant)
    rng = np.random.default_rng(1)
    turned = rotated(GENERAL, rng)
    rotation = np.linalg.solve(GENERAL.lattice, turned.lattice)
    one, other = calc.derivatives(GENERAL), calc.derivatives(turned)
    assert other.energy == pytest.approx(one.energy, abs=1e-10)
    np.testing.assert_allclose(other.forces, one.forces @ rotation, atol=1e-10)
    np.testing.assert_allclose(other.stress, rotation.T @ one.stress @ rotation, atol=1e-10)
    rebased = calc.derivatives(randomly_rebased(GENERAL, rng))
    np.testing.assert_allclose(rebased.forces, one.forces, atol=1e-10)
    np.testing.assert_allclose(rebased.stress, one.stress, atol=1e-10)


def test_energies_per_atom_and_per_cell_are_of_the_cell() -> None:
    per_atom, per_cell = (calculator("real", (ENERGY, CELL_ENERGY), name) for name in ("energy", "cell_energy"))
    crystal = Crystal(GENERAL.numbers[:2], GENERAL.frac_coords[:2], GENERAL.lattice)
    for calc in (per_atom, per_cell):
        once, thrice = calc.derivatives(crystal), calc.derivatives(supercell(crystal, 3))
        assert thrice.energy == pytest.approx(3 * once.energy, rel=1e-10)
        np.testing.assert_allclose(thrice.forces, np.tile(once.forces, (3, 1)), atol=1e-10)
        np.testing.assert_allclose(thrice.stress, once.stress, atol=1e-10)
    predicted = per_atom.model.predict(crystal)[0].values
    assert per_atom.derivatives(crystal).energy == pytest.approx(2 * predicted["energy"], rel=1e-5)
    assert per_cell.derivatives(crystal).energy == pytest.approx(predicted["cell_energy"], rel=1e-5)


def test_the_energy_is_continuous_where_images_enter_and_leave() -> None:
    """The list is built anew at each call; an image that crosses the radius weighs nothing there."""
    calc = calculator("real")
    energies, slopes = [], []
    for a in np.linspace(4.0, 4.4, 81):
        slope = calc.derivatives(rock_salt(a=a))
        energies.append(slope.energy)
        slopes.append(np.trace(slope.stress) * (a**3 / 4) / a)
    energies_from_slopes = np.concatenate([[0], np.cumsum((np.array(slopes[1:]) + slopes[:-1]) / 2 * 0.005)])
    np.testing.assert_allclose(np.diff(energies), np.diff(energies_from_slopes), atol=1e-5)


def test_ase_relaxes_with_it() -> None:
    from ase.optimize import BFGS

    atoms = atoms_of(GENERAL, calculator("real"))
    before = energy(atoms)
    BFGS(atoms, logfile=None).run(steps=3)
    assert energy(atoms) < before


def test_the_given_model_stays_as_it_was() -> None:
    calc = calculator("real")
    assert calc.model.network.backend == "auto"
    assert next(calc.model.network.parameters()).dtype == torch.float32
    assert next(calc.model.network.parameters()).requires_grad


def test_what_is_no_energy_is_refused_by_name() -> None:
    gap = Target("band_gap", "eV")
    volume = Target("volume", "Å³", basis="per_atom")
    logarithm = Target("log_energy", "eV/atom", basis="per_atom", transform="log10")
    for target, words in ((gap, "basis is intensive"), (volume, "unit is Å³"), (logarithm, "transform is log10")):
        with pytest.raises(TargetError, match=f"{target.name}: forces need an energy, but its {words}"):
            energy_target([ENERGY, target], target.name)
    assert energy_target([gap, ENERGY, MODULUS]) is ENERGY
    with pytest.raises(TargetError, match=r"0 energies .*band_gap, modulus"):
        energy_target([gap, MODULUS])
    with pytest.raises(TargetError, match=r"2 energies .*name one"):
        energy_target([ENERGY, CELL_ENERGY])
    with pytest.raises(ConfigError, match="no target 'enthalpy'; it has energy"):
        energy_target([ENERGY], "enthalpy")


def test_frames_without_gradient_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for frame in ("pca", "lattice"):
        monkeypatch.setitem(VARIANTS, frame, {"frame": frame})
        with pytest.raises(ConfigError, match=f"'{frame}' frames"):
            calculator(frame)


def test_structures_that_are_no_crystal_are_refused() -> None:
    atoms = atoms_of(GENERAL, calculator("real"))
    atoms.pbc = (True, True, False)
    with pytest.raises(StructureError, match="not periodic"):
        atoms.get_potential_energy()


ALUMINIUM = Crystal([13], [[0, 0, 0]], 4.05 / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]))


def calculator_with_range(low: float, high: float, *, any_volume: bool = False) -> CrystalformersCalculator:
    model = calculator("real").model
    model.domain = replace(model.domain, volume_per_atom=(low, high))
    return CrystalformersCalculator(model, any_volume=any_volume)


def pressed(calc: CrystalformersCalculator) -> None:
    """Aluminium under a pressure that would press it to nothing."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    atoms = atoms_of(ALUMINIUM, calc)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        BFGS(FrechetCellFilter(atoms, scalar_pressure=1.0), logfile=None).run(fmax=1e-3, steps=20)


def test_a_relaxation_that_collapses_is_stopped() -> None:
    with pytest.raises(DomainError, match=r"Å³ per atom, 10 to 30 in the training crystals; .*any_volume=True") as stop:
        pressed(calculator_with_range(10.0, 30.0))
    volume = float(str(stop.value).split(": ")[1].split()[0])
    assert 0 < volume < 10
    with pytest.raises(StructureError, match="its own periodic image"):
        pressed(calculator_with_range(10.0, 30.0, any_volume=True))


def test_a_bundled_model_stops_it_if_it_knows_its_range() -> None:
    """fcc aluminium shrinks to a few percent of its volume with forces of a model that knows relaxed crystals only."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS

    model = load_model("materials-project")
    model.domain = replace(model.domain, volume_per_atom=(5.0, 60.0))
    atoms = atoms_of(ALUMINIUM, CrystalformersCalculator(model, "formation_energy_per_atom"))
    relaxation = BFGS(FrechetCellFilter(atoms), logfile=None)
    with pytest.raises(DomainError, match="5 to 60 in the training crystals"):
        relaxation.run(fmax=0.01, steps=200)


def test_a_volume_in_the_range_is_computed_and_one_outside_is_not() -> None:
    calc = calculator_with_range(16.0, 17.0)  # aluminium has 16.6 cubic Angstrom per atom
    assert np.isfinite(energy(atoms_of(ALUMINIUM, calc)))
    stretched = atoms_of(ALUMINIUM, calc)
    stretched.set_cell(1.01 * stretched.cell.array, scale_atoms=True)
    with pytest.raises(DomainError, match=r"17\.1 Å³ per atom, 16 to 17"):
        energy(stretched)


def test_forces_warn_once_and_energies_do_not() -> None:
    calc = calculator_with_range(1.0, 100.0)
    atoms = atoms_of(GENERAL, calc)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        energy(atoms)
    with pytest.warns(UserWarning, match="a model of relaxed crystals: do not use them for dynamics"):
        atoms.get_forces()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        atoms.get_stress()
        atoms.rattle(0.01)
        atoms.get_forces()


def test_a_model_without_a_range_says_once_that_it_cannot_be_checked() -> None:
    atoms = atoms_of(GENERAL, calculator("real"))
    with pytest.warns(UserWarning, match="does not know the volumes of its training crystals"):
        energy(atoms)
    atoms.rattle(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        energy(atoms)
