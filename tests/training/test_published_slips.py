"""What the published training did and a recipe leaves out unless it is asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from options import ENERGY, PUBLISHED, TINY, recipe, table_of
from samples import many, rock_salt

from crystalformers.attention import Geometry, RadialBasis
from crystalformers.attention.backends.cpu.images import unsupported_images
from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import build_model
from crystalformers.training import fit, published_slips
from crystalformers.training.batching import Batches, LabelledBatch
from crystalformers.training.dataset import Dataset
from crystalformers.training.loop import TrainingLoop
from crystalformers.training.loss import Loss
from crystalformers.training.optimisation import optimizer
from crystalformers.training.recipe import Augment


class TestPublishedSlips:
    """What the published code does, behind its own switch."""

    augment = Augment(probability=0.5)

    def test_a_third_of_the_reflections_distorts(self) -> None:
        rng = np.random.default_rng(0)
        matrices = [published_slips.random_matrix(rng) for _ in range(3000)]
        isometric = np.array([np.allclose(m @ m.T, np.eye(3), atol=1e-9) for m in matrices])
        assert isometric.mean() == pytest.approx(2 / 3, abs=0.03)
        assert all(np.linalg.det(matrix) == pytest.approx(-1) for matrix in matrices)

    def test_a_pose_is_kept_for_the_run_and_worn_in_evaluation(self) -> None:
        crystals, rows = CrystalBatch.from_crystals(many(20)), np.arange(20)
        first, again = (published_slips.posed(crystals, rows, self.augment, 1, None).positions for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, crystals.positions)
        jittered = self.augment.model_copy(update={"jitter": 0.1})
        assert torch.equal(published_slips.posed(crystals, rows, jittered, 1, None).positions, first)

    @pytest.mark.parametrize("slips", [True, False])
    def test_they_are_off_unless_asked_for(self, tmp_path: Path, slips: bool) -> None:
        settings = recipe(model=PUBLISHED, augment={}, published_slips=slips)
        batches = Batches(Dataset.of(table_of(tmp_path), [ENERGY], settings), 1.0, settings)
        for batch in batches.evaluation("val"):
            plain = batches.store.batch(batch.rows).positions
            assert torch.equal(batch.crystals.positions, plain) != slips

    def test_biases_decay(self) -> None:
        model = build_model("crystaltransformer", TINY["crystaltransformer"])
        for name, decay in (("adamw", 0.01), ("sgd", 1e-3)):
            settings = recipe(optimizer=name, weight_decay=1e-3, published_slips=True)
            chosen = optimizer(model, Loss("l1", "none", 1), settings)
            assert [group["weight_decay"] for group in chosen.param_groups] == [1e-3, decay]

    def test_batches_are_cut_from_a_plain_shuffle(self, tmp_path: Path) -> None:
        """Ours deal crystals of all sizes to every batch; all batches of a plain shuffle cannot cost the same."""
        orders = {}
        for slips in (True, False):
            settings = recipe(batch_size=4, published_slips=slips)
            batches = Batches(Dataset.of(table_of(tmp_path, 48), [ENERGY], settings), 1.0, settings)
            orders[slips] = [np.concatenate(order) for order in (batches.train_order(0), batches.train_order(1))]
            assert [len(rows) for rows in batches.train_order(0)] == [4] * batches.per_epoch
            assert len(np.unique(orders[slips][0])) == len(orders[slips][0])
            assert not np.array_equal(*orders[slips])
        shuffled = np.random.default_rng([settings.seed, 0]).permutation(batches.dataset.splits["train"])
        np.testing.assert_array_equal(orders[True][0], shuffled[: len(orders[True][0])])
        assert not np.array_equal(orders[False][0], orders[True][0])

    def test_ties_of_frames_are_drawn(self) -> None:
        """With ties averaged every batch gives the same vectors; with ties drawn each epoch gives others."""
        # Two equal neighbours of the first atom, 2.5 Å away, which the fourth atom tells apart.
        positions = np.array([[0, 0, 0], [2.5, 0, 0], [0, 2.5, 0], [3, 1, 2.5]])
        one = Crystal.from_positions(np.array([11, 17, 17, 19]), positions, 6 * np.eye(3), "tied")
        crystals, rows = CrystalBatch.from_crystals([one, rock_salt()]), np.arange(2)
        batch = with_images(crystals, 5.0, directions=True)
        assert batch.images is not None
        noisy = [published_slips.with_ties_drawn(batch, rows, 1, epoch) for epoch in (0, 0, 1, None)]
        distances = [found.images.distance for found in noisy if found.images is not None]
        assert torch.equal(distances[0], distances[1])
        assert not torch.equal(distances[0], distances[2])
        squared = batch.images.distance.square()
        assert (distances[3].square() - squared).abs().max() <= 0.5e-5 * 1.001
        assert torch.equal(distances[0] == 0, squared == 0)  # atoms themselves stay where they are
        torch.manual_seed(0)
        small = {"dim": 16, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 8, "angular_functions": 8}
        model = build_model("crystalformer", {**small, "frame": "max", "tie_width": 1e-8}).double().eval()
        model.calibrate(batch)
        drawn = [published_slips.with_ties_drawn(batch, rows, 1, epoch) for epoch in range(8)]
        vectors = torch.stack([model.encode(found).detach()[0] for found in drawn])
        spread = (vectors - vectors[0]).abs().amax(1)
        assert spread.max() > 1e-4
        assert (spread[1:] < 1e-5).any()
        averaged = build_model("crystalformer", {**small, "frame": "max"}).double().eval()
        averaged.load_state_dict(model.state_dict())
        vectors = torch.stack([averaged.encode(found).detach()[0] for found in drawn])
        assert (vectors - vectors[0]).abs().max() < 1e-5
        assert published_slips.with_ties_drawn(with_images(crystals, 5.0), rows, 1, 0).images is not None

    def test_the_compiled_kernels_compute_drawn_ties(self) -> None:
        """They need the images of an atom in order of their distances; PyTorch's way takes gigabytes here."""
        rng = np.random.default_rng(0)
        rattled = Crystal(rock_salt().numbers, rng.random((2, 3)), rng.normal(size=(3, 3)) + 5 * np.eye(3))
        crystals = CrystalBatch.from_crystals([rock_salt(), rattled])
        batch = with_images(crystals, 9.0, directions=True)
        images = published_slips.with_ties_drawn(batch, np.arange(2), 1, 0).images
        assert images is not None
        assert images.vectors is not None
        assert batch.images is not None
        assert images.distance.max() <= batch.images.radius
        assert not torch.equal(images.vectors, batch.images.vectors), "equal distances change places"
        assert (images.vectors.norm(dim=1) - images.distance).abs().max() < 1e-5
        assert unsupported_images(Geometry(replace(batch, images=images), RadialBasis(64, 14.0))) is None
        model = build_model("crystalformer", {"dim": 32, "heads": 4, "frame": "max"}).eval()
        model.calibrate(batch)
        with torch.no_grad():
            fast = model.encode(replace(batch, images=images))[2:]  # ties averaged, which rounding does not change
            exact = model.double().encode(replace(batch, images=images))[2:]
        assert (fast - exact).abs().max() < 1e-5 * exact.abs().max()

    def test_they_are_those_of_random_poses(self) -> None:
        with pytest.raises(ConfigError, match=r"published_slips: .*add 'augment'"):
            recipe(model=PUBLISHED, published_slips=True)

    @pytest.mark.parametrize("slips", [True, False])
    def test_dropout_ends_with_the_first_epoch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slips: bool
    ) -> None:
        modes: list[bool] = []
        before = TrainingLoop.step

        def watch(loop: TrainingLoop, batch: LabelledBatch) -> None:
            before(loop, batch)
            modes.append(loop.state.model.training)

        monkeypatch.setattr(TrainingLoop, "step", watch)
        settings = recipe(model=PUBLISHED, augment={}, published_slips=slips)
        fit(table_of(tmp_path), [ENERGY], tmp_path / "run", settings)
        assert modes == [True] * 4 + [not slips] * 4
