"""Muon against its formula, singular value decompositions, PyTorch's own class and AdamW."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from options import ENERGY, TINY, StopAfter, StoppedError, recipe, table_of
from torch import Tensor, nn

from crystalformers.models import build_model
from crystalformers.training import fit
from crystalformers.training.batching import Batches
from crystalformers.training.dataset import Dataset
from crystalformers.training.loss import Loss
from crystalformers.training.muon import Muon, hidden_matrices, orthogonalised
from crystalformers.training.optimisation import optimizer, set_learning_rate
from crystalformers.training.state import TrainingState

SETTINGS: dict[str, Any] = {"lr": 0.01, "betas": (0.9, 0.98), "eps": 1e-8, "bf16": False}

SMALL = {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def of_both(weights: list[nn.Parameter], rest: list[nn.Parameter], decay: float, momentum: float = 0.95) -> Muon:
    groups = [{"params": weights, "matrices": True, "weight_decay": decay}, {"params": rest, "weight_decay": decay}]
    return Muon(groups, momentum=momentum, **SETTINGS)


def copies(tensors: list[nn.Parameter]) -> list[nn.Parameter]:
    return [nn.Parameter(tensor.detach().clone()) for tensor in tensors]


def step_alike(
    ours: Muon, mine: list[nn.Parameter], reference: torch.optim.Optimizer, theirs: list[nn.Parameter]
) -> None:
    """Five steps of both optimisers with the same gradients."""
    for turn in range(5):
        for own, other in zip(mine, theirs, strict=True):
            own.grad = random(*own.shape, seed=turn)
            other.grad = own.grad.clone()
        ours.step()
        reference.step()


class TestOrthogonalised:
    @pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8), (1, 1, 5), (1, 1, 1)])
    def test_singular_vectors_stay_and_values_come_near_1(self, shape: tuple[int, int, int]) -> None:
        u, values, vt = torch.linalg.svd(random(*shape).double(), full_matrices=False)
        values = values / values.norm(dim=1, keepdim=True)
        for _ in range(5):
            values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
        expected = u @ torch.diag_embed(values) @ vt
        torch.testing.assert_close(orthogonalised(random(*shape).double()), expected)
        well = torch.linalg.svdvals(random(*shape).double())
        well = well / well.norm(dim=1, keepdim=True) > 0.01
        assert bool(((values > 0.67) & (values < 1.21))[well].all())

    def test_scale_does_not_matter(self) -> None:
        matrices = random(2, 6, 9).double()
        torch.testing.assert_close(orthogonalised(matrices * 1e-12), orthogonalised(matrices))
        torch.testing.assert_close(orthogonalised(matrices * 1e12), orthogonalised(matrices))

    def test_each_matrix_counts_alone(self) -> None:
        matrices = random(3, 6, 9) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
        alone = torch.cat([orthogonalised(one[None]) for one in matrices])
        torch.testing.assert_close(orthogonalised(matrices), alone)

    def test_no_gradient_no_step(self) -> None:
        assert torch.equal(orthogonalised(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))

    def test_bfloat16_is_near_enough(self) -> None:
        rounded = orthogonalised(random(2, 16, 32).bfloat16()).float()
        values = torch.linalg.svdvals(rounded)
        assert bool(((values > 0.6) & (values < 1.3)).all())


class TestMuon:
    @pytest.mark.parametrize("decay", [0.0, 0.5])
    def test_steps_follow_the_formula(self, decay: float) -> None:
        shapes = [(4, 6), (6, 4), (4, 6), (5, 5)]
        weights = [nn.Parameter(random(*shape, seed=k)) for k, shape in enumerate(shapes)]
        expected, moments = [w.detach().clone() for w in weights], [torch.zeros(shape) for shape in shapes]
        steps = of_both(weights, [nn.Parameter(torch.ones(3))], decay)
        for turn in range(4):
            for k, weight in enumerate(weights):
                weight.grad = random(*shapes[k], seed=10 * turn + k)
                moments[k] = 0.95 * moments[k] + 0.05 * weight.grad
                direction = orthogonalised((0.95 * moments[k] + 0.05 * weight.grad)[None])[0]
                expected[k] = (1 - 0.01 * decay) * expected[k] - 0.01 * 0.2 * max(shapes[k]) ** 0.5 * direction
            steps.step()
        for weight, wanted in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.detach(), wanted)

    @pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9 has no Muon of its own")
    def test_steps_are_those_of_pytorch(self) -> None:
        weights = [nn.Parameter(random(*shape, seed=k)) for k, shape in enumerate([(4, 6), (6, 4), (4, 6)])]
        theirs = copies(weights)
        ours = Muon(
            [{"params": weights, "matrices": True, "weight_decay": 0.1}], momentum=0.9, **{**SETTINGS, "bf16": True}
        )
        reference = torch.optim.Muon(
            theirs, lr=0.01, weight_decay=0.1, momentum=0.9, adjust_lr_fn="match_rms_adamw", eps=1e-30
        )
        step_alike(ours, weights, reference, theirs)
        for mine, other in zip(weights, theirs, strict=True):
            # Both round to bfloat16, in another order.
            torch.testing.assert_close(mine, other, atol=5e-4, rtol=0)

    def test_all_else_is_stepped_by_adamw(self) -> None:
        rest = [nn.Parameter(random(5)), nn.Parameter(random(4, 3))]
        theirs = copies(rest)
        ours = of_both([nn.Parameter(random(3, 3))], rest, 0.1)
        reference = torch.optim.AdamW(theirs, lr=0.01, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1)
        step_alike(ours, rest, reference, theirs)
        for mine, other in zip(rest, theirs, strict=True):
            torch.testing.assert_close(mine, other)

    def test_matrices_without_gradients_stand_still(self) -> None:
        weights = [nn.Parameter(random(3, 3)), nn.Parameter(random(3, 3, seed=1))]
        still = weights[1].detach().clone()
        steps = of_both(weights, [nn.Parameter(torch.ones(2))], 0.1)
        weights[0].grad = random(3, 3, seed=2)
        steps.step()
        assert torch.equal(weights[1].detach(), still)
        assert not torch.equal(weights[0].detach(), random(3, 3))
        steps.zero_grad()
        before = weights[0].detach().clone()
        steps.step()  # none at all
        assert torch.equal(weights[0].detach(), before)

    def test_a_saved_state_goes_on_alike(self) -> None:
        weights, rest = [nn.Parameter(random(3, 4))], [nn.Parameter(random(5))]
        first = of_both(weights, rest, 0.1)

        def turns(steps: Muon, matrix: nn.Parameter, vector: nn.Parameter, seeds: range) -> None:
            for seed in seeds:
                matrix.grad, vector.grad = random(3, 4, seed=seed), random(5, seed=seed)
                steps.step()

        turns(first, weights[0], rest[0], range(3))
        others = copies(weights), copies(rest)
        second = of_both(*others, 0.1)
        second.load_state_dict(deepcopy(first.state_dict()))
        turns(first, weights[0], rest[0], range(3, 6))
        turns(second, others[0][0], others[1][0], range(3, 6))
        assert torch.equal(weights[0], others[0][0])
        assert torch.equal(rest[0], others[1][0])


class TestRecipe:
    def test_momentum_left_out(self) -> None:
        assert recipe(optimizer="muon").momentum == 0.95
        assert recipe(optimizer="muon", momentum=0.9).momentum == 0.9
        assert recipe(optimizer="sgd").momentum == 0.9

    @pytest.mark.parametrize("bf16", [True, False])
    def test_optimizer_is_that_of_the_recipe(self, bf16: bool) -> None:
        model = build_model("crystalformer", SMALL)
        settings = recipe(optimizer="muon", momentum=0.8, precision="bf16" if bf16 else "32", weight_decay=0.1)
        chosen = optimizer(model, Loss("l1", "uncertainty", 2), settings)
        assert isinstance(chosen, Muon)
        assert (chosen.momentum, chosen.dtype) == (0.8, torch.bfloat16 if bf16 else torch.float32)
        names = {id(p): name for name, p in model.named_parameters()}
        matrices = [names[id(p)] for group in chosen.param_groups if group["matrices"] for p in group["params"]]
        layers = ["attention.query", "attention.key", "attention.value", "attention.out", "expand", "contract"]
        assert sorted(matrices) == sorted(f"blocks.{k}.{layer}.weight" for k in (0, 1) for layer in layers)
        held = [p for group in chosen.param_groups for p in group["params"]]
        assert len(held) == len({id(p) for p in held}) == len(list(model.parameters())) + 1

    @pytest.mark.parametrize("architecture", ["cgcnn", "megnet", "alignn", "crystaltransformer", "crystalformer"])
    def test_hidden_matrices_are_neither_input_nor_output(self, architecture: str) -> None:
        model = build_model(architecture, {})
        hidden = {id(p) for p in hidden_matrices(model)}
        assert hidden
        assert all(p.dim() == 2 for p in hidden_matrices(model))
        for part in (model.stages[0], model.stages[-1]):
            assert not hidden & {id(p) for p in part.parameters()}

    def test_pace_of_fine_tuning_holds_for_matrices(self) -> None:
        settings = recipe(optimizer="muon").model_copy(update={"init": _Init(), "elements": None})
        model = build_model("crystalformer", SMALL)
        chosen = optimizer(model, Loss("l1", "none", 1), settings)
        set_learning_rate(chosen, 0.4)
        rates = sorted({group["lr"] for group in chosen.param_groups if group["matrices"]})
        assert rates == pytest.approx([0.1, 0.2])
        set_learning_rate(chosen, 0.4, head_only=True)
        assert {group["lr"] for group in chosen.param_groups if group["matrices"]} == {0.0}

    def test_a_stopped_run_ends_with_the_same_weights(self, tmp_path: Path) -> None:
        table, settings = table_of(tmp_path), recipe(optimizer="muon")
        fit(table, [ENERGY], tmp_path / "whole", settings)
        with pytest.raises(StoppedError):
            fit(table, [ENERGY], tmp_path / "stopped", settings, observer=StopAfter(5))
        fit(table, [ENERGY], tmp_path / "stopped", settings, resume=True)
        whole, stopped = (tmp_path / name / "model.safetensors" for name in ("whole", "stopped"))
        assert whole.read_bytes() == stopped.read_bytes()

    def test_another_optimizer_trains_other_weights(self, tmp_path: Path) -> None:
        dataset = Dataset.of(table_of(tmp_path), [ENERGY], recipe())
        model = build_model("crystaltransformer", TINY["crystaltransformer"])
        groups = {
            name: TrainingState(model, Batches(dataset, 5.0, recipe(optimizer=name)), {}).optimizer.param_groups
            for name in ("adamw", "muon")
        }
        assert [len(groups[name]) for name in ("adamw", "muon")] == [2, 3]


class _Init:
    lr_decay = 0.5
