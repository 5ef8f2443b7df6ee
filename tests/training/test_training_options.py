"""Settings of a recipe beyond the published ones: losses, optimisers, poses, exclusions, element tables, memory."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import many, rock_salt, write_table

from crystalformers.checkpoint import load_checkpoint, read_description
from crystalformers.crystal import Crystal
from crystalformers.data.table import CrystalTable, open_table
from crystalformers.elements.table import ElementTable
from crystalformers.errors import BatchMemoryError, ConfigError, TableError
from crystalformers.images import CrystalBatch, build_images, with_images
from crystalformers.models import build_model
from crystalformers.target import Target
from crystalformers.training import Observer, Recipe, augmentation, fit, memory, published_slips
from crystalformers.training.augmentation import posed
from crystalformers.training.batching import Batches, LabelledBatch
from crystalformers.training.dataset import Dataset
from crystalformers.training.exclusion import composition
from crystalformers.training.loop import TrainingLoop
from crystalformers.training.loss import Loss
from crystalformers.training.optimisation import learning_rate, optimizer, set_learning_rate
from crystalformers.training.recipe import Augment
from crystalformers.training.state import Progress

ENERGY, GAP = Target("energy", "eV/atom", "per_atom"), Target("gap", "eV")
NAN = float("nan")

TINY: dict[str, dict[str, Any]] = {
    "crystaltransformer": {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16},
    "cgcnn": {"dim": 8, "hidden": 8, "convolutions": 1},
}
SETTINGS: dict[str, Any] = {
    "epochs": 2, "average_epochs": 1, "batch_size": 4, "lr": 0.01, "threads": 1, "accelerator": "cpu",
    "tolerance": 1e-3, "checkpoint_steps": 1,
}  # fmt: skip


def recipe(architecture: str = "crystaltransformer", model: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    settings = {**SETTINGS, "architecture": architecture, "model": {**TINY[architecture], **(model or {})}}
    return Recipe.parse({**settings, **changes})


PUBLISHED = {"variant": "published", "dropout": 0.1}


def table_of(folder: Path, count: int = 24) -> CrystalTable:
    crystals = many(count)
    energy = [float(crystal.numbers[0] % 7) for crystal in crystals]
    gap = [None if k % 3 else k / count for k in range(count)]
    split = ["train"] * (count - 8) + ["val"] * 4 + ["test"] * 4
    return open_table(write_table(folder / "table.parquet", crystals, energy=energy, gap=gap, split=split))


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


class StoppedError(Exception):
    """In place of a kill."""


class StopAfter(Observer):
    """Raises `StoppedError` after given steps."""

    def __init__(self, *steps: int) -> None:
        self.steps = steps

    def step(self, progress: Progress) -> None:
        if progress.step in self.steps:
            raise StoppedError


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


class TestExclusion:
    def other(self, folder: Path, **columns: Any) -> Path:
        """Rows of a test: one has an id of ours, another a formula of ours in another structure."""
        crystals = [rock_salt("Na", "O", 4.9, "x3"), rock_salt("Mg", "O", 6.0, "y"), rock_salt("Cs", "Cl", 7.0, "z")]
        return write_table(folder / "other.parquet", crystals, split=["test", "test", "train"], **columns)

    def test_reduced_formulas(self) -> None:
        assert composition(np.array([8, 26, 26, 8, 8])) == ((8, 3), (26, 2))
        assert composition(np.array([8, 8])) == ((8, 1),)

    def test_by_id(self, tmp_path: Path) -> None:
        settings = recipe(exclude=[{"table": str(self.other(tmp_path))}])
        dataset = Dataset.of(table_of(tmp_path), [ENERGY], settings)
        assert "x3" not in dataset.ids["train"]
        assert len(dataset.ids["train"]) == 15
        (excluded,) = dataset.excluded
        assert (excluded.table, excluded.split, excluded.by, excluded.rows) == ("other", "test", "id", 1)

    def test_by_composition_from_training_and_validation(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        settings = recipe(exclude=[{"table": str(self.other(tmp_path)), "by": "composition", "split": "test"}])
        dataset = Dataset.of(table, [ENERGY], settings)
        left = {composition(table.numbers(row)) for name in ("train", "val") for row in dataset.splits[name]}
        assert not left & {((8, 1), (11, 1)), ((8, 1), (12, 1))}
        assert len(dataset.splits["test"]) == 4
        assert dataset.excluded[0].rows == 20 - len(dataset.splits["train"]) - len(dataset.splits["val"])

    def test_the_scale_does_not_know_what_was_excluded(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        settings = recipe(exclude=[{"table": str(self.other(tmp_path)), "by": "composition"}])
        dataset = Dataset.of(table, [ENERGY], settings)
        assert dataset.targets[0].mean == pytest.approx(dataset.values[dataset.splits["train"], 0].mean())

    def test_its_own_test_split(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        settings = recipe(exclude=[{"table": str(table.path), "by": "composition"}])
        dataset = Dataset.of(table, [ENERGY], settings)
        tested = {composition(table.numbers(row)) for row in dataset.splits["test"]}
        assert not tested & {composition(table.numbers(row)) for row in dataset.splits["train"]}

    def test_what_cannot_be_done_is_named(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        bare = write_table(tmp_path / "bare.parquet", many(3))
        with pytest.raises(TableError, match=r"bare\.parquet: there is no column 'split'.*split: null"):
            Dataset.of(table, [ENERGY], recipe(exclude=[{"table": str(bare)}]))
        with pytest.raises(TableError, match="Nothing is left of the train split"):
            Dataset.of(table, [ENERGY], recipe(exclude=[{"table": str(table.path), "split": None}]))
        with pytest.raises(ConfigError, match="exclude"):
            recipe(exclude=[{"table": "a", "by": "prototype"}])

    def test_the_card_tells_it_and_counts_the_elements(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        settings = recipe(exclude=[{"table": str(self.other(tmp_path))}])
        weights = fit(table, [ENERGY, GAP], tmp_path / "run", settings)
        card = read_description(weights)["card"]
        assert card["data"]["excluded"][0]["rows"] == 1
        assert card["data"]["rows"]["train"] == 15
        counts = card["element_counts"]
        assert counts["O"] == 15
        assert "H" not in counts
        assert sum(counts.values()) == 2 * 15


class TestElements:
    symbols = ("O", "Na", "Mg", "Al", "Si", "P", "S", "Cl")

    def table(self, folder: Path, symbols: tuple[str, ...] = symbols, seed: int = 0) -> str:
        rng = np.random.default_rng(seed)
        path = folder / "vectors.safetensors"
        ElementTable.of("mine", {symbol: rng.normal(size=5) for symbol in symbols}).save(path)
        return str(path)

    @pytest.mark.parametrize(("trainable", "standardise"), [(True, True), (False, True), (False, False)])
    def test_fine_tuned_or_frozen(self, tmp_path: Path, trainable: bool, standardise: bool) -> None:
        vectors = self.table(tmp_path)
        chosen = {"table": vectors, "trainable": trainable, "standardise": standardise}
        settings = recipe("cgcnn", elements=chosen)
        weights = fit(table_of(tmp_path), [ENERGY], tmp_path / "run", settings)
        checkpoint = load_checkpoint(weights)
        assert checkpoint.model.config.element_dim == 5
        table = ElementTable.load(vectors)
        table = table.standardised() if standardise else table
        after = checkpoint.model.elements.vectors.detach().numpy()[table.numbers - 1]
        assert np.array_equal(after, table.vectors) != trainable
        assert np.abs(after - table.vectors).max() < 0.1
        assert checkpoint.card["elements"] == {"name": "mine", "dim": 5}
        assert checkpoint.model.elements.known.sum() == 8

    def test_a_table_that_lacks_an_element_is_refused_before_training(self, tmp_path: Path) -> None:
        settings = recipe("cgcnn", elements={"table": self.table(tmp_path, self.symbols[:-1])})
        with pytest.raises(TableError, match=r"x\d+ \(train\): mine: has no vector for Cl"):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", settings)

    def test_another_table_is_another_run(self, tmp_path: Path) -> None:
        settings = recipe("cgcnn", elements={"table": self.table(tmp_path)})
        with pytest.raises(StoppedError):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", settings, observer=StopAfter(1))
        self.table(tmp_path, seed=1)
        with pytest.raises(ConfigError, match="element table"):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", settings, resume=True)

    def test_a_model_with_its_own_table_takes_none(self) -> None:
        with pytest.raises(ConfigError, match="crystaltransformer has a table of its own"):
            recipe(elements={"table": "mat2vec"})


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


def test_numbers_of_a_row_are_those_of_its_crystal(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    crystal: Crystal = table[5]
    assert np.array_equal(table.numbers(5), crystal.numbers)
