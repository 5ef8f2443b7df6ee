"""CrystalTransformer: the published network to the number, the invariant one that replaces it, and their control."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import ENERGY, many, rock_salt, supercell
from strategies import random_crystals
from torch import Tensor, nn

from crystalformers.checkpoint import save_model
from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError
from crystalformers.explain import explain
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import build_model, crystaltransformer
from crystalformers.models.base import mean_over_atoms
from crystalformers.models.crystaltransformer import CrystalTransformer, CrystalTransformerConfig
from crystalformers.models.presets import preset
from crystalformers.paper_checkpoints.crystaltransformer import UNUSED
from crystalformers.prediction.loading import load_model
from crystalformers.testing import CONTROL, E3, assert_invariant, invariance_report, network_predictor

SMALL = {"dim": 16, "heads": 2, "blocks": 2, "feedforward": 32, "radial_functions": 8}
VARIANTS = ("invariant", "published", "composition")
CRYSTALS = random_crystals(12, seed=3, most=5)


def network(seed: int = 0, **settings: Any) -> CrystalTransformer:
    """A small random network; its numbers are large enough to see what it answers to."""
    torch.manual_seed(seed)
    model = CrystalTransformer(CrystalTransformerConfig(**{**SMALL, **settings})).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("value_encoding", "atom_embed.weight")):
                parameter.mul_(5)
    batch = batch_of(CRYSTALS, model)
    model.calibrate(batch)
    return model.eval()


def batch_of(crystals: list[Crystal], model: CrystalTransformer) -> CrystalBatch:
    return with_images(CrystalBatch.from_crystals(crystals), model.radius(1e-6))


def predict(model: CrystalTransformer, crystals: list[Crystal]) -> Tensor:
    with torch.no_grad():
        output: Tensor = model(batch_of(crystals, model))
    return output


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def published(targets: int, **changes: Any) -> CrystalTransformer:
    config = preset("crystaltransformer-published")
    assert isinstance(config, CrystalTransformerConfig)
    return CrystalTransformer(replace(config, n_targets=targets, **changes))


class TestPublishedSize:
    dead = sum(int(np.prod([256 if size is None else size for size in shape])) for shape in UNUSED.values())

    def test_one_target(self) -> None:
        assert size(published(1)) == 4_263_297
        assert size(published(1)) + self.dead == 4_329_089

    def test_four_targets(self) -> None:
        assert size(published(4)) + self.dead == 4_560_260

    def test_the_head_of_the_released_checkpoints(self) -> None:
        assert size(published(1, head="linear").heads) == 257


class TestPublishedOutput:
    """Against a plain re-computation from the description: one crystal at a time, no padding, no torch.nn."""

    @staticmethod
    def layer_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[name + ".weight"] + weights[name + ".bias"]

    @staticmethod
    def linear(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
        return x @ weights[name + ".weight"].T + weights[name + ".bias"]

    def attention(self, x: Tensor, weights: dict[str, Tensor], name: str, heads: int) -> Tensor:
        width = x.shape[1] // heads
        joined = x @ weights[name + ".in_proj_weight"].T + weights[name + ".in_proj_bias"]
        results = []
        for head in range(heads):
            q, k, v = (joined[:, part * x.shape[1] + head * width :][:, :width] for part in range(3))
            score = (q @ k.T / width**0.5).exp()
            results.append(score / score.sum(1, keepdim=True) @ v)
        return self.linear(torch.cat(results, dim=1), weights, name + ".out_proj")

    def output(self, crystal: Crystal, weights: dict[str, Tensor], config: CrystalTransformerConfig) -> Tensor:
        one_hot = torch.zeros(len(crystal), 100, dtype=torch.float64)
        one_hot[torch.arange(len(crystal)), torch.from_numpy(crystal.numbers) - 1] = 1
        coords = torch.from_numpy(crystal.frac_coords @ crystal.lattice)
        x = torch.cat(
            [self.linear(one_hot, weights, "atom_embed"), self.linear(coords, weights, "encoder.coords_embed")], dim=1
        )
        for number in range(config.blocks):
            layer = f"encoder.layers.layers.{number}"
            added = x + self.attention(x, weights, layer + ".self_attn", config.heads)
            x = self.layer_norm(added, weights, layer + ".norm1")
            hidden = self.linear(x, weights, layer + ".linear1").clamp(min=0)
            x = self.layer_norm(x + self.linear(hidden, weights, layer + ".linear2"), weights, layer + ".norm2")
        if config.n_targets == 1:
            return self.linear(self.linear(x[0], weights, "heads.0.0"), weights, "heads.0.1")
        hidden = [self.linear(x[0], weights, f"heads.{t}.0").clamp(min=0) for t in range(config.n_targets)]
        return torch.cat([self.linear(h, weights, f"heads.{t}.2") for t, h in enumerate(hidden)])

    @pytest.mark.parametrize("targets", [1, 3])
    @pytest.mark.parametrize("gradients", [False, True])
    def test_equals_a_plain_computation(self, targets: int, gradients: bool) -> None:
        model = network(variant="published", head="published", n_targets=targets)
        weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
        crystals = many(7)
        with torch.set_grad_enabled(gradients):  # torch.nn computes the layers in two ways
            output = model(CrystalBatch.from_crystals(crystals)).detach()
        expected = torch.stack([self.output(crystal, weights, model.config) for crystal in crystals])
        torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)
        assert expected.std(0).min() > 1e-3

    def test_groups_of_like_size_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, crystals = network(variant="published"), many(9)
        together = predict(model, crystals)
        monkeypatch.setattr(crystaltransformer, "PADDED_PAIRS", 20)
        torch.testing.assert_close(predict(model, crystals), together, rtol=1e-12, atol=1e-12)

    def test_full_size_in_float32(self) -> None:
        torch.manual_seed(0)
        model = published(2).eval()
        crystals = many(3)
        weights = {name: tensor.double() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            output = model(CrystalBatch.from_crystals(crystals, torch.float32))
        expected = torch.stack([self.output(crystal, weights, model.config) for crystal in crystals])
        torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)


class TestTable:
    @pytest.mark.parametrize(("variant", "width"), [("invariant", 16), ("published", 8), ("composition", 16)])
    def test_vectors_are_those_that_the_encoder_gets(self, variant: str, width: int) -> None:
        model = network(variant=variant)
        vectors = model.element_vectors()
        assert vectors.shape == (100, width)
        batch = CrystalBatch.from_crystals([rock_salt("Cf", "H")])
        assert torch.equal(model.embed(batch), vectors[[97, 0]])
        weight, bias = model.atom_embed.weight, model.atom_embed.bias
        assert torch.equal(vectors[25], weight[:, 25] + bias)

    @pytest.mark.parametrize("variant", ["invariant", "composition"])
    def test_a_small_beginning_is_forgotten(self, variant: str) -> None:
        """Two trainings from other vectors: what they leave in the tables is alike only if the beginning is small."""
        batch = CrystalBatch.from_crystals(many(14))
        energy = mean_over_atoms(torch.sin(batch.numbers.double()).unsqueeze(1), batch)

        def trained(seed: int, scale: float) -> Tensor:
            torch.manual_seed(0)
            model = CrystalTransformer(CrystalTransformerConfig(**SMALL, variant=variant, element_scale=scale)).double()
            whole = with_images(batch, model.radius(1e-2))
            with torch.no_grad():
                beginning = torch.randn(16, 100, generator=torch.Generator().manual_seed(seed)).double()
                model.atom_embed.weight.copy_(scale * 0.2 * beginning)
            model.calibrate(whole)
            optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
            for _ in range(60):
                loss = (model(whole) - energy).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            return model.element_vectors()[batch.numbers.unique() - 1]

        def likeness(scale: float) -> float:
            one, other = (trained(seed, scale) for seed in (1, 2))
            return float(torch.corrcoef(torch.stack([torch.pdist(one), torch.pdist(other)]))[0, 1])

        found = likeness(1.0), likeness(0.03)
        assert found[1] > 0.9, found
        assert found[0] < 0.7, found

    def test_the_widths_do_not_know_how_small_the_vectors_begin(self) -> None:
        models = [CrystalTransformer(CrystalTransformerConfig(**SMALL, element_scale=scale)) for scale in (1.0, 0.03)]
        models[1].load_state_dict(models[0].state_dict())
        with torch.no_grad():
            models[1].atom_embed.weight.mul_(0.03)
        statistics = []
        for model in models:
            model.calibrate(batch_of(CRYSTALS, model).to(torch.float32))
            statistics.append([b for name, b in model.named_buffers() if "width" in name])
        assert len(statistics[0]) == 4
        torch.testing.assert_close(*statistics, rtol=1e-5, atol=1e-6)

    def test_only_elements_that_are_there_are_trained(self) -> None:
        model = network()
        model(batch_of([rock_salt()], model)).sum().backward()
        gradient = model.atom_embed.weight.grad
        assert gradient is not None
        assert gradient.abs().sum(0).nonzero().flatten().tolist() == [10, 16]


class TestInvariance:
    def test_the_default_passes_and_sees_the_geometry(self) -> None:
        predictor = network_predictor(network(), tolerance=1e-14)
        assert_invariant(predictor, CRYSTALS, 1e-9, E3)
        assert invariance_report(predictor, CRYSTALS, [CONTROL])[0].median > 1e-4

    def test_the_published_one_follows_pose_origin_order_and_cell(self) -> None:
        """Documented in docs/differences.md: what the default repairs."""
        rows = invariance_report(network_predictor(network(variant="published"), tolerance=1e-14), CRYSTALS, E3)
        change = {row.transformation: row.change for row in rows}
        assert change.pop("batch mates") < 1e-12
        assert change.pop("sheared cell a+3b") < 1e-12  # the lattice is no input, and no atom moves
        for same_atoms in ("sheared cell a+6b", "random cell", "Niggli cell", "left-handed cell"):
            assert change.pop(same_atoms) < 1e-12
        assert min(change.values()) > 0.01, change
        with pytest.raises(AssertionError, match="rotation"):
            assert_invariant(network_predictor(network(variant="published"), tolerance=1e-14), CRYSTALS, 1e-5, E3)

    def test_the_published_one_confuses_crystals_that_differ_in_the_lattice_alone(self) -> None:
        wide, narrow = (Crystal(np.array([11]), np.zeros((1, 3)), a * np.eye(3)) for a in (3.0, 5.0))
        values = {variant: predict(network(variant=variant), [wide, narrow]) for variant in VARIANTS}
        assert values["published"][0] == values["published"][1]
        assert (values["invariant"][0] - values["invariant"][1]).abs() > 1e-6

    def test_the_control_sees_the_formula_alone(self) -> None:
        predictor = network_predictor(network(variant="composition"), tolerance=1e-14)
        assert_invariant(predictor, CRYSTALS, 1e-12, [*E3, CONTROL])

    def test_the_control_weighs_elements_by_their_shares(self) -> None:
        model = network(variant="composition")
        one = rock_salt("Na", "Cl")
        lattice = one.lattice
        more = Crystal(np.array([11, 17, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.2, 0.2, 0.2]]), lattice)
        values = predict(model, [one, supercell(one, 3), more])
        torch.testing.assert_close(values[0], values[1], rtol=1e-13, atol=1e-13)
        assert (values[0] - values[2]).abs() > 1e-6

    def test_the_control_attends_as_if_to_every_atom(self) -> None:
        """Softmax over the elements with log shares is softmax over the atoms."""
        block = network(variant="composition").encoder.blocks[0]
        x = torch.randn(1, 2, 16, dtype=torch.float64)
        shares = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
        atoms = x[:, [0, 1, 1, 1]]
        with torch.no_grad():
            torch.testing.assert_close(block(x, shares), block(atoms, torch.zeros(1, 4).double())[:, :2])


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "words"),
        [
            ({"variant": "cartesian"}, "variant = 'cartesian' is not one of invariant, published, composition"),
            ({"head": "cls"}, "head = 'cls'"),
            ({"dim": 15}, "multiple of heads"),
            ({"variant": "published", "dim": 15, "heads": 1}, "must be even"),
            ({"head": "linear", "n_targets": 2}, "'linear' is that of one target"),
            ({"element_scale": 0.0}, r"element_scale = 0.0 must lie in \(0, 1\]"),
            ({"variant": "published", "element_scale": 0.1}, "element_scale is not for the published variant"),
            ({"dropout": 1.0}, r"dropout = 1.0 must lie in \[0, 1\)"),
            ({"sigma": 0}, "sigma = 0"),
        ],
    )
    def test_wrong_ones_are_named(self, settings: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            build_model("crystaltransformer", {**SMALL, **settings})

    @pytest.mark.parametrize("head", ["separate", "joint"])
    def test_heads(self, head: str) -> None:
        model = network(head=head, n_targets=3)
        assert predict(model, many(4)).shape == (4, 3)
        assert len(model.heads) == (3 if head == "separate" else 1)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_dropout_is_for_training_only(self, variant: str) -> None:
        model = network(variant=variant, dropout=0.5)
        batch = batch_of(many(4), model)
        assert torch.equal(model(batch), model(batch))
        model.train()
        assert not torch.equal(model(batch), model(batch))

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_rounding_the_dense_layers(self, variant: str) -> None:
        model = network(variant=variant).float()
        batch = batch_of(many(4), model).to(torch.float32)
        with torch.no_grad():
            exact = model(batch)
            with torch.autocast("cpu", torch.bfloat16):
                rounded = model(batch)
        torch.testing.assert_close(rounded.float(), exact, atol=0.1, rtol=0.1)

    def test_attention_of_the_default_can_be_explained(self, tmp_path: Path) -> None:
        models = {}
        for variant in VARIANTS:
            save_model(tmp_path / f"{variant}.safetensors", network(variant=variant), [ENERGY], {})
            models[variant] = load_model(tmp_path / f"{variant}.safetensors", dtype=torch.float64)
            assert np.isfinite(models[variant].values(many(2))).all()
        assert len(explain(models["invariant"], rock_salt()).attentions) == 2 * 2
        for variant in ("published", "composition"):
            with pytest.raises(ConfigError, match="no periodic attention"):
                explain(models[variant], rock_salt())

    def test_calibration_happens_once(self) -> None:
        model = network()
        with pytest.raises(ConfigError, match="already set"):
            model.calibrate(batch_of(many(2), model))
