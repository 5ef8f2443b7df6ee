"""Settings of a recipe beyond the published ones: losses, optimisers, poses, memory; stops with any of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from options import ENERGY, GAP, NAN, PUBLISHED, TINY, StopAfter, StoppedError, recipe, table_of
from samples import many, rock_salt

from crystalformers.errors import BatchMemoryError, ConfigError
from crystalformers.images import CrystalBatch, build_images, with_images
from crystalformers.models import build_model
from crystalformers.training import augmentation, fit, memory
from crystalformers.training.augmentation import posed
from crystalformers.training.batching import Batches
from crystalformers.training.dataset import Dataset
from crystalformers.training.loss import Loss
from crystalformers.training.optimisation import learning_rate, optimizer, set_learning_rate
from crystalformers.training.recipe import Augment


class TestLoss:
    predicted = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    labels = torch.tensor([[0.0, NAN], [1.0, NAN], [2.0, 2.0]])

    def test_every_label_or_every_target_alike(self) -> None:
        assert Loss("l1", "none", 2)(self.predicted, self.labels) == pytest.approx((1 + 2 + 3 + 4) / 4)
        assert Loss("l1", "targets", 2)(self.predicted, self.labels) == pytest.approx((2 + 4) / 2)
        assert Loss("mse", "none", 2)(self.predicted, self.labels) == pytest.approx((1 + 4 + 9 + 16) / 4)
        assert Loss("mse", "targets", 2)(self.predicted, self.labels) == pytest.approx((14 / 3 + 16) / 2)
        assert Loss("mse", "sum", 2)(self.predicted, self.labels) == pytest.approx(14 / 3 + 16)
        assert Loss("l1", "sum", 2)(self.predicted[:2], self.labels[:2]) == pytest.approx(1.5)

    def test_a_target_without_labels_does_not_count(self) -> None:
        for balance in ("targets", "uncertainty"):
            loss = Loss("l1", balance, 2)(self.predicted[:2], self.labels[:2])  # type: ignore[arg-type]
            assert loss.item() == pytest.approx(1.5)

    def test_learned_weights_find_the_errors(self) -> None:
        """The minimum over s of error exp(-s) + s lies at the logarithm of the error."""
        loss = Loss("l1", "uncertainty", 2)
        assert loss.log_scale is not None
        assert loss(self.predicted, self.labels).item() == pytest.approx(3)
        steps = torch.optim.SGD(loss.parameters(), lr=0.3)
        for _ in range(200):
            steps.zero_grad()
            loss(self.predicted, self.labels).backward()
            steps.step()
        assert loss.log_scale.tolist() == pytest.approx([math.log(2), math.log(4)], abs=1e-3)


class TestOptimiser:
    def test_step_schedule(self) -> None:
        stepped = recipe(epochs=50, schedule="step", schedule_epochs=10, schedule_factor=0.5)
        rates = [learning_rate(stepped, 0, epoch / 50) for epoch in (0, 9, 10, 29, 30)]
        assert rates == pytest.approx([0.01, 0.01, 0.005, 0.0025, 0.00125])

    def test_sgd_is_that_of_the_recipe(self) -> None:
        model = build_model("crystaltransformer", TINY["crystaltransformer"])
        settings = recipe(optimizer="sgd", momentum=0.8, weight_decay=1e-3)
        chosen = optimizer(model, Loss("mse", "uncertainty", 2), settings)
        assert isinstance(chosen, torch.optim.SGD)
        assert [group["weight_decay"] for group in chosen.param_groups] == [1e-3, 0, 0]
        assert chosen.defaults["momentum"] == 0.8
        assert chosen.param_groups[2]["params"][0].shape == (2,)

    @pytest.mark.parametrize("trainable", [True, False])
    def test_vectors_of_a_table_have_their_own_rate(self, trainable: bool) -> None:
        model = build_model("cgcnn", {**TINY["cgcnn"], "element_dim": 5})
        model.elements.vectors.requires_grad_(trainable)
        settings = recipe("cgcnn", elements={"table": "any", "trainable": trainable, "lr_scale": 0.25})
        chosen = optimizer(model, Loss("l1", "none", 1), settings)
        set_learning_rate(chosen, 0.4)
        held = [p for group in chosen.param_groups for p in group["params"]]
        assert any(p is model.elements.vectors for p in held) == trainable
        assert [group["lr"] for group in chosen.param_groups] == ([0.4, 0.4, 0.1] if trainable else [0.4, 0.4])


class TestPoses:
    crystals = CrystalBatch.from_crystals(many(6))
    rows = np.arange(6)

    @staticmethod
    def distances(batch: CrystalBatch) -> torch.Tensor:
        return build_images(batch, 5.0).distance

    def test_change_no_distance_and_every_coordinate(self) -> None:
        moved = posed(self.crystals, self.rows, Augment(), 1, 0)
        torch.testing.assert_close(self.distances(moved), self.distances(self.crystals))
        assert (moved.positions - self.crystals.positions).abs().min() > 0

    def test_follow_from_seed_epoch_and_row_alone(self) -> None:
        first = posed(self.crystals, self.rows, Augment(), 1, 0).positions
        assert torch.equal(posed(self.crystals, self.rows, Augment(), 1, 0).positions, first)
        assert not torch.equal(posed(self.crystals, self.rows, Augment(), 1, 1).positions, first)
        assert not torch.equal(posed(self.crystals, self.rows, Augment(), 2, 0).positions, first)
        alone = posed(CrystalBatch.from_crystals(many(6)[5:]), self.rows[5:], Augment(), 1, 0)
        assert torch.equal(alone.positions, first[-len(alone.positions) :])

    def test_are_uniform_over_all_rotations_and_reflections(self) -> None:
        rng = np.random.default_rng(0)
        matrices = np.array([augmentation.random_orthogonal(rng) for _ in range(4000)])
        identity = np.broadcast_to(np.eye(3), matrices.shape)
        np.testing.assert_allclose(matrices @ matrices.transpose(0, 2, 1), identity, atol=1e-12)
        assert (np.linalg.det(matrices) > 0).mean() == pytest.approx(0.5, abs=0.03)
        # Haar: each entry is uniform on the projection of a sphere, moments 1/3 and 1/5.
        assert (matrices**2).mean(axis=0) == pytest.approx(np.full((3, 3), 1 / 3), abs=0.02)
        assert (matrices**4).mean(axis=0) == pytest.approx(np.full((3, 3), 1 / 5), abs=0.02)

    def test_share_and_jitter(self) -> None:
        kept = posed(self.crystals, self.rows, Augment(probability=0.0, jitter=0.01), 1, 0)
        change = (kept.positions - self.crystals.positions).numpy()
        assert change.std() == pytest.approx(0.01, rel=0.3)
        assert torch.equal(kept.numbers, self.crystals.numbers)

    def test_evaluation_sees_none(self, tmp_path: Path) -> None:
        settings = recipe(model=PUBLISHED, augment={})
        batches = Batches(Dataset.of(table_of(tmp_path), [ENERGY], settings), 1.0, settings)
        plain = [batches.store.batch(rows).positions for rows in batches.train_order(3)]
        seen = [batch.crystals.positions for batch in batches.train(3, 0)]
        assert all(not torch.equal(one, other) for one, other in zip(seen, plain, strict=True))
        for batch in batches.evaluation("val"):
            assert torch.equal(batch.crystals.positions, batches.store.batch(batch.rows).positions)

    def test_only_a_model_that_sees_coordinates_takes_them(self) -> None:
        with pytest.raises(ConfigError, match="random poses change nothing"):
            recipe(augment={})


@pytest.mark.parametrize(
    "changes",
    [
        {"model": PUBLISHED, "augment": {"jitter": 0.01}, "optimizer": "sgd", "schedule": "step", "loss": "mse"},
        {"loss_balance": "uncertainty", "model": {"dropout": 0.2}},
    ],
)
def test_a_run_that_was_stopped_ends_with_the_same_bits(tmp_path: Path, changes: dict[str, Any]) -> None:
    table, settings = table_of(tmp_path), recipe(**changes)
    whole = fit(table, [ENERGY, GAP], tmp_path / "whole", settings).read_bytes()

    for _ in range(2):
        with pytest.raises(StoppedError):
            fit(table, [ENERGY, GAP], tmp_path / "stopped", settings, resume=True, observer=StopAfter(3, 6))
    assert fit(table, [ENERGY, GAP], tmp_path / "stopped", settings, resume=True).read_bytes() == whole


class TestMemory:
    MESSAGES = (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:115] . DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    )

    @pytest.mark.parametrize(
        ("place", "error"),
        list(zip(("forward", "backward", "validation"), MESSAGES, strict=True)),
        ids=["cuda", "cpu", "numpy"],
    )
    def test_batch_and_remedy_are_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, error: Exception
    ) -> None:
        from crystalformers.models.crystaltransformer import CrystalTransformer

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise error

        before = CrystalTransformer.forward
        match place:
            case "forward":
                monkeypatch.setattr(CrystalTransformer, "forward", fail)
            case "backward":
                monkeypatch.setattr(torch.Tensor, "backward", fail)
            case "validation":
                monkeypatch.setattr(
                    CrystalTransformer, "forward", lambda m, batch: before(m, batch) if m.training else fail()
                )
        with pytest.raises(BatchMemoryError) as caught:
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", recipe())
        assert caught.value.__cause__ is error
        said = str(caught.value)
        assert "Out of memory at epoch 1, step " in said
        assert "a batch of 4 crystals, " in said
        assert "max_atoms below" in said
        assert "batch_size below 4" in said

    def test_numbers_are_those_of_the_batch(self) -> None:
        batch = with_images(CrystalBatch.from_crystals([rock_salt(), *many(2)]), 4.0)
        assert batch.images is not None
        with pytest.raises(BatchMemoryError) as caught, memory.memory_named(batch, recipe(max_atoms=None), "here"):
            raise MemoryError
        said = str(caught.value)
        assert f"3 crystals, {batch.n_atoms} atoms" in said
        assert f"and {len(batch.images.distance)} images" in said
        assert "(now none)" in said

    def test_other_errors_pass(self) -> None:
        batch = CrystalBatch.from_crystals([rock_salt()])
        with pytest.raises(RuntimeError, match="shapes do not fit"), memory.memory_named(batch, recipe(), "here"):
            raise RuntimeError("shapes do not fit")
