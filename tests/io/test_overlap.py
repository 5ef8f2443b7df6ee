"""Two atoms on one spot: found in cells of any shape, as by brute force and by the image search, in little memory."""

from __future__ import annotations

import tracemalloc
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from structures import ase_atoms, crystals

from crystalformers.crystal import Crystal
from crystalformers.errors import StructureError
from crystalformers.images import CrystalBatch, build_images
from crystalformers.io.overlap import (
    LARGE_CELL,
    MIN_DISTANCE,
    MIN_DISTANCE_OF_HYDROGEN,
    _compact,
    check,
    close_pair,
    overlapping,
)

KINDS = ("tiny", "needle", "plate", "sheared", "left-handed", "plain")


def degenerate(kind: str, seed: int) -> Crystal:
    """A cell of the given kind with a few unwrapped atoms, of which some come too close."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    lengths = {
        "tiny": rng.uniform(0.3, 1.2, 3),
        "needle": [*rng.uniform(0.4, 1.2, 2), rng.uniform(5, 60)],
        "plate": [rng.uniform(0.4, 1.2), *rng.uniform(5, 20, 2)],
    }.get(kind, rng.uniform(1.0, 6.0, 3))
    lattice = np.diag(lengths) @ (np.eye(3) + rng.uniform(-0.3, 0.3, (3, 3)))
    if kind == "sheared":
        lattice = np.array([[1, 0, 0], [rng.integers(-9, 10), 1, 0], [0, rng.integers(-9, 10), 1]]) @ lattice
    if (np.linalg.det(lattice) < 0) != (kind == "left-handed"):
        lattice = lattice[[1, 0, 2]]
    n_atoms = int(rng.integers(1, 6))
    frac = rng.uniform(size=(n_atoms, 3)) + rng.integers(-5, 6, (n_atoms, 3))
    return Crystal(rng.choice([1, 1, 6, 26], n_atoms), frac, lattice)


def limits(numbers: np.ndarray) -> np.ndarray:
    """Smallest allowed distance of every pair, (N, N)."""
    return np.where(np.minimum.outer(numbers, numbers) > 1, MIN_DISTANCE, MIN_DISTANCE_OF_HYDROGEN)


def brute_force(crystal: Crystal) -> float:
    """Smallest distance of two atoms over the limit for the pair: below 1 if two are too close."""
    heights = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    reach = (np.ceil(MIN_DISTANCE / heights) + 1).astype(int)
    shifts = np.array(list(product(*(range(-n, n + 1) for n in reach))))
    wrapped = crystal.frac_coords - np.floor(crystal.frac_coords)
    smallest = np.inf
    for i, j in product(range(len(crystal)), repeat=2):
        distance = np.linalg.norm((wrapped[j] - wrapped[i] + shifts) @ crystal.lattice, axis=1)
        if i == j:
            distance = distance[shifts.any(axis=1)]
        smallest = min(smallest, distance.min() / limits(crystal.numbers)[i, j])
    return float(smallest)


def by_images(crystal: Crystal) -> bool:
    """The same verdict from the image search of the models."""
    images = build_images(CrystalBatch.from_crystals([crystal]), MIN_DISTANCE)
    i, j, distance = images.target.numpy(), images.source.numpy(), images.distance.numpy()
    return bool((distance < limits(crystal.numbers)[i, j])[(i != j) | (distance > 0)].any())


@pytest.mark.parametrize("kind", KINDS)
def test_both_verdicts_occur(kind: str) -> None:
    verdicts = {brute_force(degenerate(kind, seed)) < 1 for seed in range(60)}
    assert verdicts == {True, False}


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6))
def test_degenerate_cells_are_judged_as_by_brute_force(kind: str, seed: int) -> None:
    crystal = degenerate(kind, seed)
    expected = brute_force(crystal) < 1
    pair = close_pair(crystal.numbers, crystal.frac_coords, crystal.lattice)
    assert (pair is not None) == expected
    assert by_images(crystal) == expected
    assert overlapping(crystal.numbers[None], crystal.frac_coords[None], crystal.lattice[None])[0] == expected
    if not expected:
        assert check(crystal) is crystal
    else:
        with pytest.raises(StructureError, match=r"Å apart|cannot hold"):
            check(crystal)


@settings(max_examples=80, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10**6))
def test_the_pair_that_is_named_is_too_close(kind: str, seed: int) -> None:
    crystal = degenerate(kind, seed)
    pair = close_pair(crystal.numbers, crystal.frac_coords, crystal.lattice)
    if pair is not None:
        assert pair.distance < limits(crystal.numbers)[pair.i, pair.j]
        images = build_images(CrystalBatch.from_crystals([crystal]), pair.distance + 1e-6)
        there = (images.target.numpy() == pair.i) & (images.source.numpy() == pair.j)
        assert np.abs(images.distance.numpy()[there] - pair.distance).min() < 1e-9


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), shear=st.integers(0, 2000))
def test_the_compact_basis_is_one_of_the_same_lattice_and_has_no_low_height(seed: int, shear: int) -> None:
    rng = np.random.default_rng(seed)
    compact = np.diag(rng.uniform(0.5, 20, 3)) @ (np.eye(3) + rng.uniform(-0.4, 0.4, (3, 3)))
    change = np.array([[1, 0, 0], [shear, 1, 0], [rng.integers(-9, 10), rng.integers(-9, 10), 1]])
    lattice = change[rng.permutation(3)] @ compact
    basis = _compact(lattice)
    transform = basis @ np.linalg.inv(lattice)
    assert np.abs(transform - np.round(transform)).max() < 1e-6
    assert abs(abs(np.linalg.det(np.round(transform))) - 1) < 1e-6
    heights = 1 / np.linalg.norm(np.linalg.inv(basis), axis=0)
    assert (heights > 0.7 * np.linalg.norm(basis, axis=1)).all()
    steps = np.array([step for step in product(range(-2, 3), repeat=3) if any(step)])
    assert np.linalg.norm(steps @ basis, axis=1).min() > (1 - 1e-6) * np.linalg.norm(basis, axis=1).min()


def test_a_very_flat_cell_is_searched_in_little_time_and_memory() -> None:
    lattice = np.array([[3, 0, 0], [3000, 3, 0], [0, 3000, 3.0]])
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    tracemalloc.start()
    assert close_pair(np.array([6, 6]), frac, lattice) is None
    near = np.vstack([frac, frac[1] + np.array([0.3, 0.3, 0.3]) @ np.linalg.inv(lattice)])
    pair = close_pair(np.array([6, 6, 6]), near, lattice)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pair is not None
    assert (pair.i, pair.j) == (1, 2)
    assert pair.distance == pytest.approx(0.3 * np.sqrt(3), abs=1e-6)
    assert peak < 10e6


def peak_memory_of_check(crystal: Crystal) -> float:
    tracemalloc.start()
    try:
        check(crystal)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


def test_memory_is_linear_in_atoms() -> None:
    axis = np.arange(40) / 40
    frac = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    crystal = Crystal(np.full(len(frac), 26), frac, 40 * 2.2 * np.eye(3))
    assert peak_memory_of_check(crystal) < 1000 * len(crystal)
    frac[-1] = frac[0] + [0.1 / 88, 0, 0]
    wrong = Crystal(crystal.numbers, frac, crystal.lattice)
    with pytest.raises(StructureError, match=r"Fe \(atom 1\) and Fe \(atom 64000\) are only 0\.100 Å apart"):
        check(wrong)


@pytest.mark.parametrize("n_atoms", [LARGE_CELL - 1, 10_000])
def test_many_atoms_on_one_spot_are_refused_at_once(n_atoms: int) -> None:
    crystal = Crystal(np.full(n_atoms, 26), np.full((n_atoms, 3), 0.25), 60 * np.eye(3))
    with pytest.raises(StructureError, match=r"Fe \(atom 1\) and Fe \(atom \d+\) are only 0\.000 Å apart"):
        check(crystal)
    tracemalloc.start()
    assert close_pair(crystal.numbers, crystal.frac_coords, crystal.lattice) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20e6


def test_hydrogen_may_come_closer() -> None:
    for numbers, allowed in (([1, 1], 0.55), ([1, 8], 0.55), ([6, 8], 0.85)):
        for shear in (0, 7):  # the second goes through the search in a compact cell
            lattice = np.array([[1, 0, 0], [shear, 1, 0], [0, 0, 1]]) * 5.0
            for distance in (allowed, allowed - 0.1):
                frac = np.array([[0, 0, 0], [distance, 0, 0]]) @ np.linalg.inv(lattice)
                found = overlapping(np.array([numbers]), frac[None], lattice[None])[0]
                assert found == (distance < allowed)


@settings(max_examples=60, deadline=None)
@given(crystal=crystals(), distance=st.floats(0.05, 1.2), shear=st.integers(-9, 9), seed=st.integers(0, 999))
def test_overlap_is_found_in_any_cell(crystal: Crystal, distance: float, shear: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=3)
    clash = crystal.positions[0] + distance * direction / np.linalg.norm(direction)
    numbers = np.append(crystal.numbers, rng.integers(1, 99))
    crystal = Crystal.from_positions(numbers, np.vstack([crystal.positions, clash]), crystal.lattice)
    change = np.array([[1, 0, 0], [shear, 1, 0], [0, shear // 2, 1]])
    frac = crystal.frac_coords @ np.linalg.inv(change) + rng.integers(-3, 4, (len(crystal), 3))
    sheared = Crystal(crystal.numbers, frac, change @ crystal.lattice)
    limit = 0.8 if min(numbers[0], numbers[-1]) > 1 else 0.5
    assume(abs(distance - limit) > 1e-9)  # at the very limit rounding decides
    others = [limit] if distance < limit else _distances_below(crystal, 0.8)
    expected = bool(others)
    assert overlapping(sheared.numbers[None], sheared.frac_coords[None], sheared.lattice[None])[0] == expected
    if expected:
        with pytest.raises(StructureError, match="apart"):
            check(sheared)
    else:
        assert check(sheared) is sheared


def _distances_below(crystal: Crystal, cutoff: float) -> list[float]:
    """Too close pairs as ASE sees them."""
    from ase.neighborlist import neighbor_list

    i, j, distance = neighbor_list("ijd", ase_atoms(crystal), cutoff)
    heavy = (crystal.numbers[i] > 1) & (crystal.numbers[j] > 1)
    return list(distance[heavy | (distance < 0.5)])


def test_atom_on_its_own_image() -> None:
    with pytest.raises(StructureError, match=r"its own periodic image are only 0\.700 Å apart"):
        check(Crystal([26], [[0, 0, 0]], np.diag([0.7, 5, 5])))
    with pytest.raises(StructureError, match="cannot hold 1 atoms"):
        check(Crystal([26], [[0, 0, 0]], np.diag([0.1, 0.1, 0.1])))
    assert check(Crystal([1], [[0, 0, 0]], np.diag([0.7, 5, 5])))


def test_atoms_at_the_very_limit_are_judged_one_way_or_the_other() -> None:
    lattice = np.array(
        [
            [-6.4996683, 1.87565769, -1.41299419],
            [-2.12194832, -1.97549468, 5.05226289],
            [-1.15796271, 4.59028863, 2.90818012],
        ]
    )
    rng, verdicts = np.random.default_rng(1), []
    for _ in range(50):
        position, direction = rng.normal(size=(2, 3))
        other = position + 0.8 * direction / np.linalg.norm(direction)
        crystal = Crystal.from_positions([39, 39], np.vstack([position, other]), lattice)
        try:
            check(crystal)
        except StructureError as error:
            verdicts.append(str(error))
    assert all("only 0.800 Å apart" in verdict for verdict in verdicts)
