"""The Crystalformer module: its size, its initial weights, its width statistics, and what it can and cannot see."""

from __future__ import annotations

import math
from dataclasses import replace
from types import NoneType

import numpy as np
import pytest
import torch
from strategies import make_crystal, random_crystals
from torch import Tensor, nn

from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import MODELS, build_model
from crystalformers.models.crystalformer import Block, Crystalformer, CrystalformerConfig, t_fixup_scale

SMALL = {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 4}


def batch_of(crystals: list[Crystal], dtype: torch.dtype = torch.float64, radius: float = 6.0) -> CrystalBatch:
    return with_images(CrystalBatch.from_crystals(crystals), radius).to(dtype)


def small(seed: int = 0, **changes: int) -> Crystalformer:
    torch.manual_seed(seed)
    model: Crystalformer = build_model("crystalformer", SMALL | changes).double().eval()
    return model


def blocks(model: Crystalformer) -> list[Block]:
    return [block for block in model.blocks if isinstance(block, Block)]


# --- size and initial weights ---


@pytest.mark.parametrize(
    ("settings", "published"),
    [
        ({}, 853_517),
        ({"radial_functions": 0}, 820_749),
        ({"blocks": 7}, 1_471_766),
        ({"blocks": 8}, 1_677_849),
    ],
)
def test_the_published_numbers_of_parameters(settings: dict[str, int], published: int) -> None:
    """Published counts hold 3 numbers per block that are not trained: the two statistics, and one unused."""
    model = Crystalformer(CrystalformerConfig(**settings))
    trained = sum(parameter.numel() for parameter in model.parameters())
    n_blocks = model.config.blocks
    assert trained == published - 3 * n_blocks
    statistics = [name for name, _ in model.named_buffers() if "width" in name]
    assert len(statistics) == 2 * n_blocks


def test_the_numbers_of_one_block() -> None:
    block = Crystalformer().blocks[0]
    assert sum(parameter.numel() for parameter in block.parameters()) == 206_083 - 3
    assert Crystalformer().embedding.weight.numel() == 12_544


def uniform(tensor: Tensor, bound: float) -> None:
    """All within the bound, and filling it evenly."""
    assert tensor.abs().max() <= bound * (1 + 1e-6)
    assert tensor.abs().max() > 0.99 * bound
    assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    assert abs(tensor.mean().item()) < 0.03 * bound


@pytest.mark.parametrize(("n_blocks", "scale"), [(4, 0.4738), (7, 0.4119), (8, 0.3984)])
def test_initial_weights_follow_t_fixup(n_blocks: int, scale: float) -> None:
    torch.manual_seed(0)
    model = Crystalformer(CrystalformerConfig(blocks=n_blocks))
    assert t_fixup_scale(n_blocks) == pytest.approx(scale, abs=5e-5)
    scale = t_fixup_scale(n_blocks)
    embedding = 128**-0.5 * (9 * n_blocks) ** -0.25
    assert model.embedding.weight.std().item() == pytest.approx(embedding, rel=0.03)
    square, wide = math.sqrt(6 / 256), math.sqrt(6 / 640)
    for block in blocks(model):
        attention = block.attention
        for linear in (attention.query, attention.key):
            uniform(linear.weight, square)
        for linear in (attention.value, attention.out):
            uniform(linear.weight, scale * square)
        for linear in (block.expand, block.contract):
            uniform(linear.weight, scale * wide)
        assert attention.value_encoding is not None
        uniform(attention.value_encoding, 64**-0.5 * math.sqrt(6 / (128 + 64)))
        biases = [p for name, p in block.named_parameters() if name.endswith("bias")]
        assert len(biases) == 6
        assert all((bias == 0).all() for bias in biases)
    widths = torch.cat([block.attention.width.flatten() for block in blocks(model)])
    assert widths.std().item() == pytest.approx(0.25, rel=0.1)
    assert model.head[0].weight.abs().max() <= 128**-0.5


def test_published_initial_numbers_of_four_blocks() -> None:
    torch.manual_seed(0)
    model = Crystalformer()
    assert model.embedding.weight.std().item() == pytest.approx(0.0361, rel=0.03)
    assert model.blocks[0].attention.value_encoding.abs().max().item() == pytest.approx(0.0221, rel=0.01)


# --- width statistics ---


def observe_widths(model: Crystalformer, batch: CrystalBatch) -> list[Tensor]:
    """rho of every atom and head, one tensor per block."""
    seen: list[Tensor] = []

    def hook(attention: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        q = attention.heads(attention.query(inputs[0]))
        seen.append(attention.rho(q))

    hooks = [block.attention.register_forward_hook(hook) for block in blocks(model)]
    model(batch)
    for handle in hooks:
        handle.remove()
    return seen


def test_after_calibration_the_mean_width_is_that_of_the_recipe() -> None:
    torch.manual_seed(0)
    model = Crystalformer(CrystalformerConfig(dim=32, heads=4, feedforward=64, radial_functions=8)).double()
    batch = batch_of(random_crystals(40))
    model.calibrate(batch)
    for rho in observe_widths(model, batch):
        assert rho.mean().item() == pytest.approx(1, abs=0.02)
        assert rho.std().item() == pytest.approx(0.1, rel=0.15)
        assert rho.min() > model.config.sigma_floor


def test_the_statistics_are_those_of_all_atoms_and_heads() -> None:
    model, batch = small(), batch_of(random_crystals(6))
    first = model.blocks[0].attention
    score = (first.heads(first.query(model.embed(batch))) * first.width).sum(-1)
    model.calibrate(batch)
    assert first.width_mean.item() == pytest.approx(score.mean().item())
    assert first.width_std.item() == pytest.approx(score.std(unbiased=True).item())


def test_calibration_happens_once_and_travels_with_the_weights() -> None:
    model, batch = small(), batch_of(random_crystals(6))
    assert not model.calibrated
    model.calibrate(batch)
    with pytest.raises(ConfigError, match="already set"):
        model.calibrate(batch)
    other = small(seed=1)
    other.load_state_dict(model.state_dict())
    assert other.calibrated
    assert torch.equal(other(batch), model(batch))
    with pytest.raises(ConfigError, match="already set"):
        other.calibrate(batch)


def test_evaluation_before_calibration_is_defined_and_changes_nothing() -> None:
    model, batch = small(), batch_of(random_crystals(6))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model.train()(batch)
    assert first.isfinite().all()
    assert torch.equal(model.eval()(batch), first)
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_no_gaussian_is_wider_than_the_bound() -> None:
    model = small()
    attention = model.blocks[0].attention
    q = 1e3 * torch.randn(50, 2, 4, dtype=torch.float64)
    inverse_variance = attention.rho(q) / attention.config.sigma**2
    assert (inverse_variance >= model.config.sigma_bound**-2 * (1 - 1e-12)).all()
    assert model.config.sigma_bound == pytest.approx(1.4 / math.sqrt(0.5))
    rho = inverse_variance * model.config.sigma**2
    x = ((q * attention.width).sum(-1) - attention.width_mean) / attention.width_std
    expected = torch.where(x >= 0, 1 + 0.1 * x, 0.5 + 0.5 * torch.exp(0.2 * x.clamp(max=0)))
    assert torch.allclose(rho, expected)


# --- forward ---


def test_a_batch_of_one_is_a_batch_of_many() -> None:
    model, crystals = small(n_targets=3), random_crystals(9)
    together = model(batch_of(crystals))
    assert together.shape == (9, 3)
    for crystal, expected in zip(crystals, together, strict=True):
        assert torch.allclose(model(batch_of([crystal]))[0], expected, atol=1e-13)


def test_atom_vectors_are_pooled_by_their_mean() -> None:
    model, batch = small(), batch_of(random_crystals(5))
    atoms = model.encode(batch)
    assert atoms.shape == (batch.n_atoms, 8)
    means = torch.stack([part.mean(0) for part in atoms.split(batch.ptr.diff().tolist())])
    assert torch.allclose(model(batch), model.head(means))


def test_every_parameter_takes_part() -> None:
    model, batch = small(), batch_of(random_crystals(20))
    model.calibrate(batch)
    model(batch).square().sum().backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().max() == 0]
    # A key's bias adds one number to all scores of an atom; its gradient is zero but for rounding.
    assert [name for name in idle if not name.endswith("key.bias")] == []


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_backends_give_the_model_the_same_answer(backend: str) -> None:
    model, crystals = small(), [make_crystal("random", 3), make_crystal("symmetric")]
    model.calibrate(batch_of(crystals))
    batch = batch_of(crystals, radius=model.radius(1e-12))
    expected = model(batch)
    model.backend = backend  # type: ignore[assignment]
    assert torch.allclose(model(batch), expected, atol=1e-12)


def test_the_authors_image_rule_differs_by_its_truncation_where_coordinates_are_wrapped() -> None:
    model, crystals = small(), [make_crystal("random", 3), make_crystal("symmetric")]
    model.calibrate(batch_of(crystals))
    batch = batch_of(crystals, radius=model.radius(1e-12))
    expected, weights = model(batch), model.state_dict()
    model.image_rule = "published"
    assert torch.allclose(model(batch), expected, atol=1e-3)
    assert not torch.equal(model(batch), expected)
    assert model.state_dict().keys() == weights.keys(), "not part of the weights"
    with pytest.raises(ConfigError, match="'cube' is not one of sphere, published"):
        model.image_rule = "cube"  # type: ignore[assignment]


def monatomic(times: float) -> Crystal:
    return Crystal(np.array([29]), np.zeros((1, 3)), times * (1 - np.eye(3)))


def test_the_simplified_model_cannot_see_the_lattice_of_an_element() -> None:
    model = small(radial_functions=0)
    one, other = (model(batch_of([monatomic(a)])) for a in (1.8, 2.5))
    assert torch.allclose(one, other, atol=1e-14)


def test_the_whole_model_does_see_it() -> None:
    model = small()
    one, other = (model(batch_of([monatomic(a)])) for a in (1.8, 2.5))
    assert (one - other).abs().max() > 1e-6


def test_elements_have_rows_of_their_own() -> None:
    model = small()
    batch = batch_of([monatomic(1.8)])
    assert torch.equal(model.embed(batch)[0], model.embedding.weight[28])
    heaviest = Crystal(np.array([98]), np.zeros((1, 3)), 3 * np.eye(3))
    assert torch.equal(model.embed(batch_of([heaviest]))[0], model.embedding.weight[97])


def test_forces_and_stress_flow_through_the_model() -> None:
    """The gradient of a prediction by positions sums to zero: a common translation changes nothing."""
    model = small()
    batch = with_images(CrystalBatch.from_crystals([make_crystal("random", 4)]), 6.0, directions=True)
    assert batch.images is not None
    positions, lattice = batch.positions.clone().requires_grad_(), batch.lattice.clone().requires_grad_()
    moved = replace(batch, positions=positions, lattice=lattice)
    prediction = model(replace(moved, images=batch.images.moved(moved))).sum()
    forces, stress = torch.autograd.grad(prediction, [positions, lattice])
    assert forces.abs().max() > 1e-8
    assert stress.abs().max() > 1e-8
    assert forces.sum(0).abs().max() < 1e-12


def test_seeds_fix_the_weights() -> None:
    for mine, same, other in zip(*(small(seed).parameters() for seed in (3, 3, 4)), strict=True):
        assert torch.equal(mine, same)
        assert mine.numel() < 20 or not torch.equal(mine, other) or (mine == 0).all()


# --- settings ---


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dim": 0}, "dim = 0"),
        ({"dim": 10, "heads": 4}, "multiple of heads"),
        ({"blocks": -1}, "blocks"),
        ({"radial_functions": -1}, "radial_functions"),
        ({"sigma": 0.0}, "sigma"),
        ({"sigma": math.nan}, "sigma"),
        ({"sigma_floor": 1.0}, "sigma_floor"),
        ({"n_targets": 0}, "n_targets"),
        ({"layers": 4}, "Unknown model setting 'layers'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_model("crystalformer", settings)


def test_an_unknown_architecture_is_refused_with_those_known() -> None:
    with pytest.raises(ConfigError, match="crystalformer"):
        build_model("latticeformer", {})


def test_every_architecture_has_settings_of_plain_types_and_a_radius() -> None:
    for model_class in MODELS.values():
        config = model_class.Config()
        assert all(isinstance(value, (int, float, str, bool, tuple, NoneType)) for value in vars(config).values())
    model = small()
    assert 5 < model.radius(1e-3) < model.radius(1e-7) < 20
