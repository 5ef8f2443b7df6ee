"""The image lists, of both enumerators, against an independent brute force over a box that is plainly large enough."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from strategies import KINDS, crystals, make_crystal, random_crystals
from torch import Tensor
from vesin import NeighborList

from crystalformers import load_model, testing
from crystalformers.crystal import Crystal
from crystalformers.csrc.kernels import library
from crystalformers.errors import BatchMemoryError, ConfigError, StructureError
from crystalformers.images import (
    CrystalBatch,
    Images,
    build_images,
    enumeration,
)
from crystalformers.images import build as module
from crystalformers.images.enumeration import Bins
from crystalformers.io import Rejected

Build = Callable[[Sequence[Crystal], float], Images]

EDGE = 1e-9
"""An image this close to the radius may be in or out by rounding (Angstrom); its weight is zero."""


@pytest.fixture(params=["compiled", "torch"])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Each enumerator, with directions."""
    if request.param == "torch":
        monkeypatch.setattr(module, "library", lambda: None)
    elif library() is None:
        pytest.skip("NOT TESTED: the compiled kernels are not installed")
    return lambda given, radius: build_images(CrystalBatch.from_crystals(given), radius, directions=True)


def brute_force(
    crystal: Crystal, radius: float, targets: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows (i, j, n1, n2, n3) and distances of all images within the radius, by trying every cell of a big box."""
    spacing = 1 / np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    rows, distances = [], []
    for i in targets:
        delta = crystal.frac_coords - crystal.frac_coords[i]
        reach = np.ceil(radius / spacing).astype(int) + 1
        box = np.stack(np.meshgrid(*(np.arange(-r, r + 1) for r in reach), indexing="ij"), -1).reshape(-1, 3)
        n = box[None] - np.round(delta).astype(int)[:, None]
        distance = np.linalg.norm((delta[:, None] + n) @ crystal.lattice, axis=-1)
        j, cell = np.nonzero(distance <= radius)
        rows.append(np.column_stack([np.full_like(j, i), j, n[j, cell]]))
        distances.append(distance[j, cell])
    return np.concatenate(rows), np.concatenate(distances)


def as_rows(images: Images) -> NDArray[np.int64]:
    assert images.shift is not None
    return torch.column_stack([images.target, images.source, images.shift]).numpy().astype(np.int64)


def off_the_edge(
    rows: NDArray[np.int64], distance: NDArray[np.float64], radius: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows in a fixed order, without those that rounding may put on either side."""
    inside = distance < radius - EDGE
    rows, distance = rows[inside], distance[inside]
    order = np.lexsort(rows.T)
    return rows[order], distance[order]


def check_against_brute_force(images: Images, crystal: Crystal, most: int = 50) -> None:
    """All images of up to `most` atoms."""
    targets = np.random.default_rng(0).permutation(len(crystal))[:most]
    chosen = np.isin(images.target.numpy(), targets)
    ours = off_the_edge(as_rows(images)[chosen], images.distance.numpy()[chosen], images.radius)
    theirs = off_the_edge(*brute_force(crystal, images.radius, targets.tolist()), images.radius)
    assert np.array_equal(ours[0], theirs[0])
    assert np.allclose(ours[1], theirs[1], atol=1e-9)


def check_structure(images: Images, batch: CrystalBatch) -> None:
    """Everything the docstring of `Images` promises."""
    atoms, edges, pairs = batch.n_atoms, len(images.distance), len(images.pair_target)
    assert images.n_atoms == atoms
    assert images.ptr[0] == 0
    assert images.ptr[-1] == edges == len(images.pair)
    assert (images.ptr.diff() >= 1).all(), "every atom sees at least itself"
    assert torch.equal(images.target, torch.repeat_interleave(torch.arange(atoms), images.ptr.diff()))
    first = images.ptr[:-1]
    assert (images.distance[first] == 0).all(), "an atom's first image is itself"
    assert torch.equal(images.source[first], torch.arange(atoms))
    assert ((images.distance >= 0) & (images.distance <= images.radius + EDGE)).all()
    steps = images.distance.diff()
    steps[images.ptr[1:-1] - 1] = 0
    assert (steps >= -1e-12 * images.radius).all(), "distances ascend within an atom"
    assert (images.pair_target.diff() >= 0).all()
    assert torch.equal(torch.unique(images.pair).long(), torch.arange(pairs)), "each pair has an image"
    assert len(torch.unique(images.pair_target * atoms + images.pair_source)) == pairs, "no pair stands twice"
    assert torch.equal(batch.crystal_of_atom[images.pair_target], batch.crystal_of_atom[images.pair_source])
    assert images.shift is not None
    assert images.vectors is not None
    assert images.pair.dtype == images.shift.dtype == torch.int32
    rows = torch.column_stack([images.target, images.source, images.shift])
    assert len(torch.unique(rows, dim=0)) == edges, "no image stands twice"
    lattice = batch.lattice[batch.crystal_of_atom[images.target]]
    vectors = batch.positions[images.source] - batch.positions[images.target]
    vectors = vectors + (images.shift.double().unsqueeze(1) @ lattice).squeeze(1)
    assert torch.allclose(images.vectors, vectors, atol=1e-9)
    assert torch.allclose(images.distance, vectors.norm(dim=-1), atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [0.5, 3.0, 7.3])
def test_all_cells_at_all_radii(build: Build, kind: str, radius: float) -> None:
    for n_atoms in (1, 2, 5):
        crystal = make_crystal(kind, n_atoms, seed=n_atoms)
        images = build([crystal], radius)
        check_structure(images, CrystalBatch.from_crystals([crystal]))
        check_against_brute_force(images, crystal)


@settings(max_examples=60, deadline=None)
@given(crystal=crystals(), radius=st.floats(0.1, 8.0))
def test_any_crystal(crystal: Crystal, radius: float) -> None:
    check_against_brute_force(build_images(CrystalBatch.from_crystals([crystal]), radius, directions=True), crystal)


@settings(max_examples=30, deadline=None)
@given(crystal=crystals(most=4), radius=st.floats(0.1, 8.0))
def test_any_crystal_without_the_compiled_library(crystal: Crystal, radius: float) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "library", lambda: None)
        images = build_images(CrystalBatch.from_crystals([crystal]), radius, directions=True)
    check_against_brute_force(images, crystal)


@settings(max_examples=60, deadline=None)
@given(lattice_constant=st.floats(1.5, 4.0), square=st.integers(1, 30), centring=st.sampled_from("PFI"))
@example(lattice_constant=3.0924042183036358, square=1, centring="P")
def test_shells_that_lie_exactly_on_the_radius(lattice_constant: float, square: int, centring: str) -> None:
    """Counting and filling must agree there, and what is in or out by rounding must weigh nothing."""
    vectors = {"P": np.eye(3), "F": (1 - np.eye(3)) / 2, "I": 0.5 - np.eye(3)}[centring]
    crystal = Crystal(np.array([29]), np.zeros((1, 3)), lattice_constant * vectors)
    radius = lattice_constant * math.sqrt(square / (4 if centring == "I" else 2 if centring == "F" else 1))
    images = build_images(CrystalBatch.from_crystals([crystal]), radius, directions=True)
    check_against_brute_force(images, crystal)
    on_the_edge = images.envelope[images.distance > radius - EDGE]
    assert (on_the_edge < 1e-20).all()


@pytest.mark.parametrize(("n_atoms", "radius"), [(1, 6.0), (30, 6.0), (300, 5.0), (1200, 4.0)])
def test_small_and_large_crystals(build: Build, n_atoms: int, radius: float) -> None:
    rng = np.random.default_rng(n_atoms)
    crystal = Crystal(
        rng.integers(1, 99, size=n_atoms), rng.uniform(-1, 2, size=(n_atoms, 3)), 2.5 * n_atoms ** (1 / 3) * np.eye(3)
    )
    images = build([crystal], radius)
    check_structure(images, CrystalBatch.from_crystals([crystal]))
    check_against_brute_force(images, crystal)


def test_a_batch_is_its_crystals_one_after_the_other(build: Build) -> None:
    given_crystals = random_crystals(14)
    batch, whole = CrystalBatch.from_crystals(given_crystals), build(given_crystals, 4.0)
    check_structure(whole, batch)
    rows = as_rows(whole)
    for index, crystal in enumerate(given_crystals):
        start = int(batch.ptr[index])
        own = rows[(rows[:, 0] >= start) & (rows[:, 0] < int(batch.ptr[index + 1]))]
        own[:, :2] -= start
        alone = as_rows(build([crystal], 4.0))
        assert np.array_equal(own[np.lexsort(own.T)], alone[np.lexsort(alone.T)])


def test_chunks_of_the_torch_enumerator_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "library", lambda: None)
    batch = CrystalBatch.from_crystals(random_crystals(10))
    whole = build_images(batch, 4.0, directions=True)
    monkeypatch.setattr(enumeration, "CANDIDATES_PER_CHUNK", 7)
    pieces = build_images(batch, 4.0, directions=True)
    for name in ("distance", "pair", "ptr", "pair_target", "pair_source", "shift"):
        assert torch.equal(getattr(whole, name), getattr(pieces, name)), name


FIELDS = ("distance", "pair", "ptr", "pair_target", "pair_source", "shift", "vectors")
SHAPES = {
    "cube": np.eye(3),
    "plate": np.diag([3.0, 3.0, 0.2]),
    "needle": np.diag([0.2, 0.25, 20.0]),
    "sheared": np.array([[1.0, 0, 0], [2.3, 1, 0], [-1.7, 3.1, 1]]),
    "left-handed": np.diag([1.0, -1.0, 1.0]),
}


def large_crystal(shape: str, n_atoms: int, density: float = 0.1) -> Crystal:
    """Atoms at random, in and out of a cell of a given shape."""
    rng = np.random.default_rng(n_atoms)
    lattice = SHAPES[shape] * (n_atoms / density / abs(np.linalg.det(SHAPES[shape]))) ** (1 / 3)
    return Crystal(rng.integers(1, 99, size=n_atoms), rng.uniform(-2, 3, size=(n_atoms, 3)), lattice)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("n_atoms", "radius", "density"), [(12, 0.8, 0.05), (150, 4.0, 0.1), (1000, 3.0, 0.05)])
def test_bins_leave_out_no_image(
    shape: str, n_atoms: int, radius: float, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trying the atoms of near bins alone gives, bit for bit, what trying all pairs gives."""
    if library() is None:
        pytest.skip("NOT TESTED: the compiled kernels are not installed")
    batch = CrystalBatch.from_crystals([large_crystal(shape, n_atoms, density), *random_crystals(3)])
    monkeypatch.setattr(enumeration, "LARGEST_WITHOUT_BINS", 10**9)
    everything = build_images(batch, radius, directions=True)
    monkeypatch.setattr(enumeration, "LARGEST_WITHOUT_BINS", 0)
    binned = build_images(batch, radius, directions=True)
    for name in FIELDS:
        assert torch.equal(getattr(everything, name), getattr(binned, name)), name
    monkeypatch.setattr(module, "library", lambda: None)
    by_torch = build_images(batch, radius, directions=True)
    ours, theirs = (off_the_edge(as_rows(i), i.distance.numpy(), radius) for i in (binned, by_torch))
    assert np.array_equal(ours[0], theirs[0])
    assert np.allclose(ours[1], theirs[1], atol=1e-9)


def test_a_large_cell_is_binned() -> None:
    crystal = large_crystal("cube", 4000)
    frac, triangle = torch.from_numpy(crystal.frac_coords), torch.linalg.qr(torch.from_numpy(crystal.lattice).mT).R.mT
    owner, ptr = torch.zeros(4000, dtype=torch.int64), torch.tensor([0, 4000])
    assert int(Bins.of(frac, triangle.unsqueeze(0), owner, ptr, 4.0).near) < 700


@pytest.mark.parametrize("seed", range(20))
def test_needles_and_shears_of_one_lattice(seed: int) -> None:
    """Cells with integer changes of basis up to extreme shears have the same distances."""
    rng = np.random.default_rng(seed)
    crystal = make_crystal("random", 3, seed)
    upper = np.eye(3, dtype=int)
    upper[np.triu_indices(3, 1)] = rng.integers(-40, 41, size=3)
    sheared = Crystal(crystal.numbers, crystal.frac_coords @ np.linalg.inv(upper), upper @ crystal.lattice)
    before, after = (build_images(CrystalBatch.from_crystals([c]), 5.0).distance for c in (crystal, sheared))
    assert torch.allclose(before[before < 5.0 - EDGE].sort().values, after[after < 5.0 - EDGE].sort().values, atol=1e-9)


def test_threads_do_not_change_a_bit() -> None:
    batch, threads = CrystalBatch.from_crystals(random_crystals(20)), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = build_images(batch, 5.0, directions=True)
        torch.set_num_threads(3)
        three = build_images(batch, 5.0, directions=True)
    finally:
        torch.set_num_threads(threads)
    for name in FIELDS:
        assert torch.equal(getattr(one, name), getattr(three, name)), name


@pytest.mark.parametrize("kind", ["random", "needle", "left-handed", "symmetric"])
def test_against_vesin(build: Build, kind: str) -> None:
    """vesin leaves out the atom itself; everything else must agree."""
    crystal = make_crystal(kind, 6, seed=3)
    images = build([crystal], 5.1)
    i, j, shift, distance = NeighborList(cutoff=5.1, full_list=True).compute(
        points=crystal.positions, box=crystal.lattice, periodic=True, quantities="ijSd"
    )
    rows = np.column_stack([i, j, shift]).astype(np.int64)
    ours = off_the_edge(as_rows(images)[images.distance.numpy() > 0], images.distance.numpy()[images.distance > 0], 5.1)
    theirs = off_the_edge(rows, distance, 5.1)
    assert np.array_equal(ours[0], theirs[0])
    assert np.allclose(ours[1], theirs[1])


@pytest.mark.parametrize("transformation", testing.E3, ids=lambda transformation: transformation.name)
def test_the_distances_around_an_atom_belong_to_the_crystal(transformation: testing.Transformation) -> None:
    """The sorted distances of all atoms are the same however the cell is drawn (repeated in a supercell)."""
    for seed, kind in enumerate(KINDS):
        crystal = make_crystal(kind, 3, seed)
        changed = transformation.apply(crystal, np.random.default_rng(seed))
        before, after = (build_images(CrystalBatch.from_crystals([c]), 5.0).distance for c in (crystal, changed))
        times = len(changed) // len(crystal)
        expected = before[before < 5.0 - EDGE].repeat_interleave(times).sort().values
        assert torch.allclose(after[after < 5.0 - EDGE].sort().values, expected, atol=1e-8)


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan, math.inf, 1e-300, 1e-100])
def test_a_radius_that_is_none_is_refused(radius: float) -> None:
    with pytest.raises(ConfigError, match="radius"):
        build_images(CrystalBatch.from_crystals([make_crystal("random")]), radius)


def changed(tensor: Tensor, value: float) -> Tensor:
    tensor = tensor.clone()
    tensor.flatten()[1] = value
    return tensor


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("positions", lambda t: changed(t, math.nan), "positions hold NaN"),
        ("positions", lambda t: changed(t, math.inf), "positions hold NaN"),
        ("positions", lambda t: changed(t, 1e308) * 10, "positions hold NaN"),
        ("positions", lambda t: changed(t, 1e15), "no decimals"),
        ("positions", lambda t: changed(t, 1e308), "no decimals"),
        ("positions", lambda t: t[:-1], "positions has shape"),
        ("positions", lambda t: t.long(), "floating-point"),
        ("positions", lambda t: t.to("meta"), "positions has shape .* on meta"),
        ("lattice", lambda t: changed(t, math.nan), "lattice holds NaN"),
        ("lattice", lambda t: changed(t, math.inf), "lattice holds NaN"),
        ("lattice", lambda t: 0 * t, "no volume"),
        ("lattice", lambda t: t[:, [0, 0, 1]], "no volume"),
        ("lattice", lambda t: 1e-200 * t, "no volume"),
        ("lattice", lambda t: 1e200 * t, "no volume"),
        ("lattice", lambda t: t[0], "shape"),
        ("lattice", lambda t: t[:0], "shape"),
        ("ptr", lambda t: t[:-1], "shape"),
        ("ptr", lambda t: t + 1, "ptr does not divide"),
        ("ptr", lambda t: changed(t, 10**9), "ptr does not divide"),
        ("ptr", lambda t: changed(t, -5), "ptr does not divide"),
        ("ptr", lambda t: t.int(), "int64"),
        ("numbers", lambda t: t[:-1], "shape"),
    ],
)
def test_a_batch_that_cannot_be_is_refused(
    compiled: bool, name: str, change: Callable[[Tensor], Tensor], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(module, "library", lambda: None)
    batch = CrystalBatch.from_crystals(random_crystals(3))
    with pytest.raises(StructureError, match=words):
        build_images(replace(batch, **{name: change(getattr(batch, name))}), 4.0)


def test_no_atoms_are_refused() -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    batch = CrystalBatch(empty, torch.zeros(0, 3), torch.zeros(0, 3, 3), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(StructureError, match="no atoms"):
        build_images(batch, 4.0)
    batch = replace(batch, lattice=torch.eye(3)[None], ptr=torch.zeros(2, dtype=torch.int64))
    with pytest.raises(StructureError, match="no atoms"):
        build_images(batch, 4.0)


@pytest.mark.parametrize("radius", [1e4, 1e100, 1e300])
def test_more_images_than_the_limit_are_refused_by_its_name(radius: float) -> None:
    with pytest.raises(BatchMemoryError, match=r"images lie within .* more than 1e\+09"):
        build_images(CrystalBatch.from_crystals([make_crystal("random")]), radius)


def test_a_crystal_with_too_many_images_costs_one_row() -> None:
    dense = Crystal(np.array([1]), np.zeros((1, 3)), 1e-3 * np.eye(3), "dense")
    right = make_crystal("random")
    rows = load_model().predict([right, dense, right], errors="report")
    assert isinstance(rows[1], Rejected)
    assert rows[0].values == rows[2].values


def test_directions_are_kept_only_where_asked_for() -> None:
    batch = CrystalBatch.from_crystals([make_crystal("random")])
    images = build_images(batch, 4.0)
    assert images.shift is images.vectors is None
    with pytest.raises(ValueError, match="directions=True"):
        images.moved(batch)


def test_moved_follows_positions_and_lattice_with_gradients() -> None:
    batch = CrystalBatch.from_crystals(random_crystals(3, seed=5))
    images = build_images(batch, 4.0, directions=True)
    positions = (batch.positions + 0.1).requires_grad_()
    lattice = (batch.lattice * 1.01).requires_grad_()
    moved = images.moved(replace(batch, positions=positions, lattice=lattice))
    grads = torch.autograd.grad(moved.distance.sum(), [positions, lattice])
    assert all(grad.isfinite().all() for grad in grads), "the atom itself, at distance 0, must not give NaN"
    assert grads[1].abs().max() > 0
    own = images.distance > 0
    assert not torch.allclose(moved.distance[own], images.distance[own])
    assert torch.allclose(images.moved(batch).distance, images.distance, rtol=0, atol=1e-12)


def test_types_and_float32() -> None:
    double = CrystalBatch.from_crystals(random_crystals(4))
    exact = build_images(double, 4.0, directions=True)
    single = build_images(double.to(torch.float32), 4.0)
    assert single.distance.dtype == torch.float32
    rounded = exact.to(torch.float32)
    steps = rounded.distance.diff()
    steps[rounded.ptr[1:-1] - 1] = 0
    assert (steps >= -1e-6).all()


# --- cost ---


def test_the_list_grows_linearly() -> None:
    """Twice the atoms, twice the numbers, whatever the size of the cell."""
    crystal = testing.repeated(make_crystal("symmetric", seed=1), (5, 5, 5))
    sizes = []
    for times in (1, 2, 4):
        images = build_images(CrystalBatch.from_crystals([testing.repeated(crystal, (times, 1, 1))]), 5.0)
        tensors = (images.distance, images.pair, images.ptr, images.pair_target, images.pair_source)
        sizes.append(sum(tensor.numel() * tensor.element_size() for tensor in tensors))
    assert sizes[1] / sizes[0] == pytest.approx(2, rel=0.02)
    assert sizes[2] / sizes[0] == pytest.approx(4, rel=0.02)


PEAK = """
import sys
import numpy as np, torch
from crystalformers.images import build as images, enumeration
from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch
if sys.argv[1] == "torch":
    images.library = lambda: None
    enumeration.CANDIDATES_PER_CHUNK = 1 << 17
torch.set_num_threads(1)
def peak(n):
    rng = np.random.default_rng(0)
    cell = (n / 0.1) ** (1 / 3) * np.eye(3)
    batch = CrystalBatch.from_crystals([Crystal(np.ones(n), rng.uniform(size=(n, 3)), cell)])
    images.build_images(batch, 6.0)
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
print(peak(20), peak(2000), peak(4000))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: the peak memory is read from /proc")
@pytest.mark.parametrize("enumerator", ["compiled", "torch"])
def test_the_peak_memory_grows_linearly(enumerator: str) -> None:
    if enumerator == "compiled" and library() is None:
        pytest.skip("NOT TESTED: the compiled kernels are not installed")
    done = subprocess.run([sys.executable, "-c", PEAK, enumerator], check=True, capture_output=True, text=True)
    none, once, twice = map(float, done.stdout.split())
    print(f"{enumerator}: {once - none:.0f} MB for 2,000 atoms, {twice - none:.0f} MB for 4,000")
    assert once - none < 300
    # Quadratic growth would give 4.
    assert twice - none < 2.7 * (once - none)
