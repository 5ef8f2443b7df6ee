"""Gaussian lattice sums in reciprocal space: against real space and finite differences (authors: test_oracle.py)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracle import relative
from strategies import KINDS, make_crystal
from torch import Tensor

from crystalformers.attention import published
from crystalformers.attention.reciprocal import lattice_sums
from crystalformers.attention.reciprocal import pair_attention as reciprocal
from crystalformers.attention.reciprocal.far_pairs import covering_radius
from crystalformers.attention.reciprocal.lattice_sums import LatticeSums, cutoff_for, frequencies
from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch
from crystalformers.testing import E3, Transformation, repeated

SIGMA_MIN = 2.2 * math.sqrt(0.5)
HEADS = 3


def cubic(length: float, n_atoms: int = 3) -> Crystal:
    rng = np.random.default_rng(round(length))
    points = rng.uniform(size=(n_atoms, 3))
    points[:2] = [0, 0, 0], [0.5, 0.5, 0.5]
    return Crystal(rng.integers(1, 99, size=n_atoms), points, length * np.eye(3), f"cubic {length:g} Å")


def triclinic(length: float) -> Crystal:
    rng = np.random.default_rng(round(length))
    lattice = length * (np.eye(3) + rng.uniform(-0.3, 0.3, size=(3, 3)))
    # Far outside the cell, and the cell far from reduced.
    return Crystal(
        np.array([1, 2, 3]), rng.uniform(-4, 4, size=(3, 3)), np.array([[1, 3, 0], [0, 1, 0], [-2, 0, 1]]) @ lattice
    )


LENGTHS = (3.0, 4.5, 7.0, 12.0, 30.0)

CRYSTALS = {
    **{f"cubic {a:g} Å": cubic(a) for a in LENGTHS},
    **{f"triclinic {a:g} Å": triclinic(a) for a in LENGTHS},
    **{kind: make_crystal(kind, 4) for kind in KINDS},
}


def reciprocal_alpha(variance_AH: Tensor, sums: LatticeSums) -> list[Tensor]:
    """alpha_ij of each crystal, (targets, heads, sources)."""
    return reciprocal.by_crystal(sums, lambda block: sums.alpha(block, variance_AH))


def real_alpha(crystal: Crystal, sigmas: Tensor) -> Tensor:
    """alpha_ij as a brute-force sum over cells, (targets, sigmas, sources)."""
    batch = CrystalBatch.from_crystals([crystal])
    lattice = batch.lattice[0]
    frac = torch.from_numpy(crystal.frac_coords - np.floor(crystal.frac_coords))
    radius = math.sqrt(float(covering_radius(batch.lattice)[0]) ** 2 + 60 * float(sigmas.max()) ** 2)
    reach = torch.ceil(radius * torch.linalg.inv(lattice).norm(dim=0) + 1)
    cells = torch.cartesian_prod(*(torch.arange(-int(r), int(r) + 1, dtype=torch.float64) for r in reach))
    translations = cells @ lattice
    rows = []
    for delta in (frac[None] - frac[:, None]) @ lattice:
        squared = (delta[:, None] + translations).square().sum(-1)
        rows.append(torch.stack([torch.logsumexp(-0.5 * squared / sigma**2, dim=-1) for sigma in sigmas]))
    return torch.stack(rows)


def problem(batch: CrystalBatch, dim: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k, v and variances of every atom, the same for atoms of the same element."""
    generator = torch.Generator().manual_seed(seed)
    of_element = torch.randn(99, 3, HEADS, dim, generator=generator, dtype=torch.float64)[batch.numbers]
    variance = SIGMA_MIN**2 * (1 + torch.rand(99, HEADS, generator=generator, dtype=torch.float64))
    return of_element[:, 0], of_element[:, 1], of_element[:, 2], variance[batch.numbers]


def attended(batch: CrystalBatch, tolerance: float = 1e-13) -> Tensor:
    return reciprocal.attention(*problem(batch), LatticeSums.plan(batch, SIGMA_MIN, tolerance))


@pytest.mark.parametrize("name", CRYSTALS)
def test_both_spaces_give_the_same_sum(name: str) -> None:
    sigmas = torch.tensor([1.5, 1.6, 1.8, 2.0], dtype=torch.float64)
    batch = CrystalBatch.from_crystals([CRYSTALS[name]])
    sums = LatticeSums.plan(batch, 1.5, 1e-13)
    [alpha] = reciprocal_alpha((sigmas**2).expand(batch.n_atoms, -1), sums)
    # Measured: at most 9e-12.
    torch.testing.assert_close(alpha, real_alpha(CRYSTALS[name], sigmas), rtol=0, atol=1e-9)


def test_wide_gaussians_need_no_upper_bound() -> None:
    crystal, sigmas = CRYSTALS["needle"], torch.tensor([1.6, 4.0, 9.0], dtype=torch.float64)
    sums = LatticeSums.plan(CrystalBatch.from_crystals([crystal]), SIGMA_MIN, 1e-13)
    [alpha] = reciprocal_alpha((sigmas**2).expand(len(crystal), -1), sums)
    torch.testing.assert_close(alpha, real_alpha(crystal, sigmas), rtol=0, atol=1e-9)


def test_alpha_follows_the_tolerance() -> None:
    """The absolute error of a weight relative to the atom's own is what the tolerance bounds."""
    batch = CrystalBatch.from_crystals([CRYSTALS["cubic 7 Å"], CRYSTALS["needle"]])
    variance = torch.full((batch.n_atoms, 1), 1.5**2, dtype=torch.float64)
    exact = reciprocal_alpha(variance, LatticeSums.plan(batch, 1.5, 1e-14))
    errors = []
    for tolerance in (1e-5, 1e-7, 1e-9, 1e-11):
        found = reciprocal_alpha(variance, LatticeSums.plan(batch, 1.5, tolerance))
        own = [alpha.diagonal(dim1=0, dim2=2).T.exp()[..., None] for alpha in exact]
        pairs = zip(exact, found, own, strict=True)
        errors.append(max(float(((a.exp() - b.exp()) / s).abs().max()) for a, b, s in pairs))
        assert errors[-1] < 2 * tolerance
    assert errors[0] > 1e-8, "a loose tolerance must do less work"


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_are_complete(kind: str) -> None:
    batch = CrystalBatch.from_crystals([make_crystal(kind), make_crystal("random", 3)])
    cutoff = 3.0
    found = frequencies(batch.lattice, cutoff)
    for crystal, lattice in enumerate(batch.lattice):
        part = slice(*found.ptr[crystal : crystal + 2].tolist())
        # |w| <= cutoff means |m_k| <= cutoff |a_k| / 2 pi, for any cell.
        reach = (cutoff / (2 * math.pi) * lattice.norm(dim=1)).floor().int().tolist()
        m = torch.cartesian_prod(*(torch.arange(-r, r + 1, dtype=torch.float64) for r in reach))
        length = (2 * math.pi * m @ torch.linalg.inv(lattice).T).norm(dim=1)
        assert int(found.multiplicity[part].sum()) == int((length <= cutoff).sum())
        both = torch.cat([found.m[part], -found.m[part][1:]])
        assert {tuple(row) for row in both.tolist()} == {tuple(row) for row in m[length <= cutoff].tolist()}


def test_cutoff_is_the_tail_of_a_gaussian_in_three_dimensions() -> None:
    # The share of a normal distribution beyond 3 standard deviations is 0.0292909 in three dimensions.
    assert cutoff_for(0.029290887, sigma=2.0) == pytest.approx(1.5, abs=1e-6)


def test_covering_radius_bounds_and_is_near_the_truth() -> None:
    generator = torch.Generator().manual_seed(0)
    for lattice, truth in ((torch.eye(3), math.sqrt(3) / 2), (torch.eye(3) * 2, math.sqrt(3))):
        sheared = torch.tensor([[1.0, 7, 0], [0, 1, 0], [-9, 4, 1]]) @ lattice
        assert float(covering_radius(sheared[None])[0]) == pytest.approx(truth)
    points = torch.rand(500, 3, generator=generator, dtype=torch.float64)
    for kind in KINDS:
        lattice = torch.from_numpy(make_crystal(kind).lattice)
        bound = float(covering_radius(lattice[None])[0])
        reach = torch.ceil(bound * torch.linalg.inv(lattice).norm(dim=0) + 1).int().tolist()
        cells = torch.cartesian_prod(*(torch.arange(-r, r + 1, dtype=torch.float64) for r in reach))
        deepest = float(torch.cdist(points @ lattice, cells @ lattice).amin(1).max())
        print(f"{kind}: {deepest / bound:.2f}")
        assert 0.6 * bound < deepest <= bound


def transformed(crystal: Crystal, transformation: Transformation) -> Crystal:
    return transformation.apply(crystal, np.random.default_rng(3))


@pytest.mark.parametrize("transformation", E3, ids=lambda t: t.name)
def test_output_depends_on_the_crystal_alone(transformation: Transformation) -> None:
    """The mean over atoms, which the order and number of atoms in the cell leave alone; all crystals in one batch."""
    crystals = [make_crystal(kind, 3, seed=5) for kind in KINDS] + [cubic(9.0)]
    means = []
    for batch in ([*crystals], [transformed(crystal, transformation) for crystal in crystals]):
        packed = CrystalBatch.from_crystals(batch)
        means.append(torch.stack([y.mean(0) for y in attended(packed).split([len(crystal) for crystal in batch])]))
    torch.testing.assert_close(means[1], means[0], rtol=0, atol=1e-10)


def test_supercell_of_every_atom() -> None:
    crystal = make_crystal("random", 3)
    y = attended(CrystalBatch.from_crystals([crystal]))
    again = attended(CrystalBatch.from_crystals([repeated(crystal, (1, 1, 5))]))
    torch.testing.assert_close(again, y.repeat(5, 1, 1), rtol=0, atol=1e-10)


@pytest.fixture
def mixture() -> list[Crystal]:
    sizes = (1, 9, 2, 15, 4)
    return [make_crystal(kind, size) for kind, size in zip(KINDS, sizes, strict=False)] + [cubic(11.0, 10)]


def test_a_batch_is_its_crystals(mixture: list[Crystal]) -> None:
    y = attended(CrystalBatch.from_crystals(mixture))
    alone = torch.cat([attended(CrystalBatch.from_crystals([crystal])) for crystal in mixture])
    torch.testing.assert_close(y, alone, rtol=0, atol=1e-12)


def test_a_crystal_in_pieces(mixture: list[Crystal], monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients do not depend on how many atoms are summed at once."""
    results = []
    for elements in (1 << 19, 1500):
        monkeypatch.setattr(lattice_sums, "BLOCK_ELEMENTS", elements)
        batch = CrystalBatch.from_crystals(mixture)
        batch.positions.requires_grad_()
        inputs = [tensor.requires_grad_() for tensor in problem(batch)]
        sums = LatticeSums.plan(batch, SIGMA_MIN, 1e-9)
        y = reciprocal.attention(*inputs, sums)
        results.append((y, torch.autograd.grad(y.square().sum(), [*inputs, batch.positions]), len(sums.blocks)))
    whole, pieces = results
    assert pieces[2] > whole[2] + 10
    torch.testing.assert_close(pieces[:2], whole[:2], rtol=1e-11, atol=1e-11)


def test_forces_of_a_crystal_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """First and second derivatives, as training on forces needs them, of a cell that is larger than a block."""
    monkeypatch.setattr(lattice_sums, "BLOCK_ELEMENTS", 3000)
    batch = CrystalBatch.from_crystals([cubic(12.0)])
    inputs = problem(batch, dim=2)

    def compute(positions: Tensor, lattice: Tensor) -> Tensor:
        sums = LatticeSums.plan(CrystalBatch(batch.numbers, positions, lattice, batch.ptr), SIGMA_MIN, 1e-12)
        assert all(block.partial for block in sums.blocks)
        return reciprocal.attention(*inputs, sums)

    geometry = (batch.positions.requires_grad_(), batch.lattice.requires_grad_())
    assert torch.autograd.gradcheck(compute, geometry, fast_mode=True)
    assert torch.autograd.gradgradcheck(compute, geometry, fast_mode=True)


def test_the_memory_of_a_large_cell_is_bounded() -> None:
    """Elements of a block per head for 300 atoms, the share of the whole cell that is held at once."""
    sums = LatticeSums.plan(CrystalBatch.from_crystals([cubic(18.0, 300)]), SIGMA_MIN, 1e-7)
    held = [block.target.numel() * max(block.frequency.shape[1], 300) for block in sums.blocks]
    assert len(held) > 1
    assert max(held) <= lattice_sums.BLOCK_ELEMENTS


@pytest.mark.parametrize("name", ["random", "left-handed", "cubic 12 Å"])
def test_every_gradient(name: str) -> None:
    """q, k, v, variance, positions and lattice (with fractional coordinates fixed); far pairs included (12 Å)."""
    batch = CrystalBatch.from_crystals([CRYSTALS[name], make_crystal("tiny")])
    frac = torch.linalg.solve(batch.lattice[batch.crystal_of_atom].mT, batch.positions[..., None])[..., 0]
    q, k, v, variance = problem(batch, dim=2)

    def compute(q: Tensor, k: Tensor, v: Tensor, variance: Tensor, moved: Tensor, lattice: Tensor) -> Tensor:
        positions = torch.einsum("ak,akx->ax", frac, lattice[batch.crystal_of_atom]) + moved
        strained = CrystalBatch(batch.numbers, positions, lattice, batch.ptr)
        sums = LatticeSums.plan(strained, 0.9 * SIGMA_MIN, 1e-13)
        assert (any(len(block.far.target) for block in sums.blocks)) == ("12" in name)
        return reciprocal.attention(q, k, v, variance, sums)

    inputs = (q, k, v, variance, torch.zeros_like(batch.positions), batch.lattice)
    assert torch.autograd.gradcheck(compute, [tensor.clone().requires_grad_() for tensor in inputs], fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda moved, lattice: compute(q, k, v, variance, moved, lattice),
        [tensor.clone().requires_grad_() for tensor in inputs[4:]],
    )


def test_gradients_of_alpha_survive_where_the_sum_is_tiny() -> None:
    """d alpha / d p_j = -(p_j - p_i) / s^2 for a nearest image alone, at a weight of 1e-13 and of 1e-60."""
    for distance in (12.0, 26.0):
        batch = CrystalBatch.from_crystals(
            [Crystal.from_positions([1, 1], [[0, 0, 0], [distance, 0, 0]], 60 * np.eye(3), "two atoms")]
        )
        batch.positions.requires_grad_()
        variance = torch.full((2, 1), SIGMA_MIN**2, dtype=torch.float64)
        [alpha] = reciprocal_alpha(variance, LatticeSums.plan(batch, SIGMA_MIN, 1e-9))
        assert alpha[0, 0, 1].item() == pytest.approx(-(distance**2) / (2 * SIGMA_MIN**2), rel=1e-9)
        [gradient] = torch.autograd.grad(alpha[0, 0, 1], batch.positions)
        assert float(gradient[1, 0]) == pytest.approx(-distance / SIGMA_MIN**2, rel=1e-9)


def test_the_two_evaluations_meet_without_a_step() -> None:
    """An atom moved through the distance at which its pair changes from one space to the other."""
    switch = SIGMA_MIN * math.sqrt(-2 * math.log(lattice_sums.NEAR))
    values = []
    for distance in (switch - 1e-9, switch + 1e-9):
        crystal = Crystal.from_positions([1, 1], [[0, 0, 0], [distance, 0, 0]], 18 * np.eye(3))
        batch = CrystalBatch.from_crystals([crystal])
        batch.positions.requires_grad_()
        variance = torch.full((2, 1), SIGMA_MIN**2, dtype=torch.float64)
        [alpha] = reciprocal_alpha(variance, LatticeSums.plan(batch, SIGMA_MIN, 1e-12))
        [gradient] = torch.autograd.grad(alpha[0, 0, 1], batch.positions)
        values.append(torch.cat([alpha[0, 0, 1, None].detach(), gradient[1]]))
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-8)


def test_float32_features(mixture: list[Crystal]) -> None:
    batch = CrystalBatch.from_crystals(mixture)
    exact = attended(batch)
    q, k, v, variance = (tensor.float().requires_grad_() for tensor in problem(batch))
    y = reciprocal.attention(q, k, v, variance, LatticeSums.plan(batch.to(torch.float32), SIGMA_MIN, 1e-7))
    assert y.dtype == torch.float32
    assert relative(y, exact) < 1e-5
    for gradient in torch.autograd.grad(y.square().sum(), (q, k, v, variance)):
        assert gradient.isfinite().all()


def test_the_published_rule_is_the_sum_where_it_converges() -> None:
    """|m_k| <= 2 is enough for a 4 Å cube; a 20 Å one shows the truncation."""
    sigmas = torch.tensor([1.6, 2.0], dtype=torch.float64)
    for crystal, agrees in ((cubic(3.0), True), (cubic(20.0), False)):
        batch = CrystalBatch.from_crystals([crystal])
        alpha = published.reciprocal_alpha((sigmas**2).expand(3, -1), batch.positions, batch.lattice[0])
        assert torch.allclose(alpha, real_alpha(crystal, sigmas), atol=1e-8) == agrees
