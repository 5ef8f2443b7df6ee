"""What a training step is made of: loss, learning rate, decay, averaged weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import ENERGY, TINY, recipe, table_of

from crystalformers.models import build_model
from crystalformers.training import Recipe, fit
from crystalformers.training.averaging import WeightAverage, other_weights
from crystalformers.training.batching import Batches
from crystalformers.training.dataset import Dataset
from crystalformers.training.loss import Loss
from crystalformers.training.optimisation import denormals_flushed, learning_rate
from crystalformers.training.state import TrainingState


class TestStep:
    def test_loss_is_the_mean_over_present_labels(self) -> None:
        predicted = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
        loss = Loss("l1", "none", 2)(predicted, torch.tensor([[0.0, float("nan")], [1.0, 3.5]]))
        assert loss.item() == pytest.approx((1 + 2 + 0.5) / 3)
        loss.backward()
        assert predicted.grad is not None
        assert predicted.grad[0, 1] == 0

    def test_loss_without_labels_is_zero(self) -> None:
        assert Loss("l1", "none", 1)(torch.ones(2, 1), torch.full((2, 1), float("nan"))).item() == 0

    def test_learning_rates(self) -> None:
        published = Recipe.parse({"defaults": "published"})
        assert learning_rate(published, 0, 0.0) == 5e-4
        assert learning_rate(published, 12000, 0.5) == pytest.approx(2.5e-4)
        cosine = Recipe.parse({"lr": 5e-4, "schedule": "cosine", "warmup_steps": 10})
        assert learning_rate(cosine, 0, 0.0) == pytest.approx(5e-5)
        assert learning_rate(cosine, 50, 0.5) == pytest.approx(2.5e-4)
        assert learning_rate(cosine, 99, 1.0) == pytest.approx(0)

    def test_warmup_of_a_short_run_ends_after_a_tenth(self) -> None:
        settings = Recipe.parse({"lr": 1.0, "schedule": "constant", "warmup_steps": 250})
        rates = [learning_rate(settings, step, step / 100) for step in range(100)]
        assert rates[:3] == pytest.approx([1 / 250, 0.1, 0.2])
        assert rates[9:] == pytest.approx([0.9, *[1.0] * 90])
        long = [learning_rate(settings, step, step / 10000) for step in range(10000)]
        assert long[:250] == pytest.approx([(step + 1) / 250 for step in range(250)])

    def test_average_is_the_mean_of_the_weights(self) -> None:
        model = torch.nn.Linear(3, 2)
        average = WeightAverage(model)
        seen = []
        for _ in range(5):
            with torch.no_grad():
                model.weight.add_(torch.randn(2, 3))
            seen.append(model.weight.detach().clone())
            average.update()
        own = model.weight.detach().clone()
        with other_weights(model, average.mean):
            torch.testing.assert_close(model.weight.detach(), torch.stack(seen).mean(0))
        assert torch.equal(model.weight.detach(), own)

    @pytest.mark.parametrize("name", ["adamw", "muon"])
    def test_biases_do_not_decay(self, name: str, tmp_path: Path) -> None:
        dataset = Dataset.of(table_of(tmp_path), [ENERGY], recipe())
        model = build_model("crystalformer", TINY)
        state = TrainingState(model, Batches(dataset, 5.0, recipe(weight_decay=0.1, optimizer=name)), {})
        decays = {id(p): group["weight_decay"] for group in state.optimizer.param_groups for p in group["params"]}
        for parameter, p in model.named_parameters():
            assert decays.pop(id(p)) == (0 if parameter.endswith("bias") else 0.1), parameter
        assert not decays

    def test_tiny_moments_become_zero(self) -> None:
        weight = torch.nn.Parameter(torch.ones(40))
        optimizer = torch.optim.AdamW([weight], fused=True)
        weight.grad = torch.zeros(40)
        optimizer.step()
        moments = optimizer.state[weight]["exp_avg"]
        moments.fill_(1e-40)
        optimizer.step()
        assert (moments > 0).all()
        with denormals_flushed():
            optimizer.step()
        assert (moments == 0).all()

    @pytest.mark.parametrize("before", [True, False])
    def test_denormals_are_treated_as_before_afterwards(self, before: bool) -> None:
        torch.set_flush_denormal(before)
        try:
            with pytest.raises(ZeroDivisionError), denormals_flushed():
                raise ZeroDivisionError
            assert (_denormal() == 0) == before
        finally:
            torch.set_flush_denormal(False)

    def test_steps_of_a_training_flush_denormals(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen, step = [], torch.optim.AdamW.step

        def recorded(self: torch.optim.AdamW, *given: Any, **named: Any) -> Any:
            seen.append(_denormal())
            return step(self, *given, **named)

        monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
        fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe(epochs=1))
        assert set(seen) == {0.0}
        assert _denormal() > 0


def _denormal() -> float:
    return float(torch.tensor(1e-38) * 0.1)
