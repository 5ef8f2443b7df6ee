"""Every listed model keeps the contract of its base class, and a model that breaks it is caught."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import ENERGY, many, rock_salt
from torch import Tensor, nn
from toy_model import Toy, ToyConfig

from crystalformers import load_model
from crystalformers.calculator import CrystalformersCalculator
from crystalformers.checkpoint import save_model
from crystalformers.elements import load_elements
from crystalformers.errors import CheckpointError, ConfigError
from crystalformers.explain import explain
from crystalformers.images import CrystalBatch, build_images
from crystalformers.models import MODELS, CrystalModel, build_model
from crystalformers.models.base import mean_over_atoms
from crystalformers.testing import check_model
from crystalformers.testing.contract import CHECKS, sample_crystals
from crystalformers.training.recipe import Recipe

SMALL: dict[str, dict[str, Any]] = {
    "crystalformer": {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 4},
    "crystaltransformer": {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 4},
    "cgcnn": {"dim": 8, "hidden": 8},
    "megnet": {"dim": 8, "blocks": 2},
    "alignn": {"dim": 8, "angle_layers": 1, "bond_layers": 1, "embedding": 8},
}
"""Settings that make a quick test; a model that is not here is tested with its defaults."""

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in MODELS},
    "max frames": ("crystalformer", {"frame": "max", "angular_functions": 4}),
    "lattice frames": ("crystalformer", {"frame": "lattice", "angular_functions": 4}),
    "dual space": ("crystalformer", {"space": "dual"}),
    "reciprocal space": ("crystalformer", {"space": "reciprocal", "radial_functions": 0}),
    "dropout": ("crystalformer", {"dropout": 0.5}),
    "table": ("crystalformer", {"element_dim": 3}),
    "published variant": ("crystaltransformer", {"variant": "published"}),
    "composition variant": ("crystaltransformer", {"variant": "composition"}),
    "no angles": ("alignn", {"angle_layers": 0}),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_listed_model_keeps_the_contract(variant: str) -> None:
    name, settings = VARIANTS[variant]
    torch.manual_seed(0)
    check_model(build_model(name, {**SMALL.get(name, {}), **settings, "n_targets": 2}))


# --- a model of one's own ---


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line."""
    monkeypatch.setitem(MODELS, "toy", Toy)


@pytest.mark.usefixtures("listed")
def test_one_file_and_one_line_add_a_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_model(Toy(ToyConfig(n_targets=2)))
    model = build_model("toy", Recipe.parse({"architecture": "toy", "model": {"cutoff": 4}}).model)
    path = tmp_path / "toy.safetensors"
    save_model(path, model, [ENERGY], {"element_counts": {"Na": 1}})
    loaded, crystals = load_model(path), many(3)
    assert [np.isfinite(row.values["energy"]) for row in loaded.predict(crystals)] == [True] * 3
    assert loaded.embed(crystals).shape == (3, 8)
    assert loaded.radius == 4
    assert torch.equal(torch.from_numpy(load_elements(path)["Na"]), model.element_vectors()[10])
    slope = CrystalformersCalculator(loaded).slope(rock_salt())
    assert np.abs(slope.stress).max() > 0
    with pytest.raises(ConfigError, match="no periodic attention"):
        explain(loaded, rock_salt())


def test_without_the_line_a_model_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="Toy is not an architecture that can be saved; list it in"):
        save_model(tmp_path / "toy.safetensors", Toy(), [ENERGY], {})
    with pytest.raises(
        AssertionError, match=rf"fails 1 of {len(CHECKS)} checks:\nweight file: CheckpointError: .*list it"
    ):
        check_model(Toy())


@pytest.mark.usefixtures("listed")
def test_checking_changes_neither_the_model_nor_the_random_numbers() -> None:
    model = Toy().train()
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    check_model(model, many(4))
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_the_sample_holds_crystals_of_many_sizes_whose_atoms_are_apart() -> None:
    crystals = sample_crystals()
    assert [len(crystal) for crystal in crystals] == [1, 2, 3, 4, 5, 6]
    distance = build_images(CrystalBatch.from_crystals(crystals), 5.0).distance
    assert distance[distance > 0].min() > 1.5


# --- broken models ---


class ShrinkingRadius(Toy):
    def radius(self, tolerance: float) -> float:
        return self.config.cutoff + tolerance


class InfiniteRadius(Toy):
    def radius(self, tolerance: float) -> float:
        return float("inf") if tolerance < 1e-3 else self.config.cutoff


class AllImages(Toy):
    def encode(self, batch: CrystalBatch) -> Tensor:
        assert batch.images is not None
        near = torch.exp(-batch.images.distance).unsqueeze(-1)
        return super().encode(batch) + near.new_zeros(batch.n_atoms, 1).index_add(0, batch.images.target, near)


class OneTarget(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        return super().forward(batch)[:, :1]


class OtherPrecision(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        return super().forward(batch).float()


class Miscounted(Toy):
    @property
    def n_targets(self) -> int:
        return 1


class Narrow(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        return self.head(mean_over_atoms(super().encode(batch), batch))

    def encode(self, batch: CrystalBatch) -> Tensor:
        return super().encode(batch)[:, 1:]


class Centred(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        predictions = super().forward(batch)
        return predictions - predictions.mean(0)


class Numbered(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        return super().forward(batch) + torch.arange(len(batch)).unsqueeze(1)


class FirstAtom(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        return self.head(self.encode(batch)[batch.ptr[:-1]])


class NumberedAtoms(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        return self.head(mean_over_atoms(super().encode(batch), batch))

    def encode(self, batch: CrystalBatch) -> Tensor:
        return super().encode(batch) + (torch.arange(batch.n_atoms) - batch.ptr[batch.crystal_of_atom]).unsqueeze(1)


class ChangesInputs(Toy):
    def encode(self, batch: CrystalBatch) -> Tensor:
        x = super().encode(batch)
        batch.positions.add_(1.0)
        return x


class Noisy(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        predictions = super().forward(batch)
        return predictions + 0.1 * torch.randn_like(predictions)


class Counting(Toy):
    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, batch: CrystalBatch) -> Tensor:
        self.calls += 1
        return super().forward(batch)


class SecretDirections(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        assert batch.images is not None
        return super().forward(batch) * (1 if batch.images.vectors is None else 2)


class MissingDirections(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        assert batch.images is not None
        assert batch.images.vectors is not None, "I want vectors"
        return super().forward(batch)


class Idle(Toy):
    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.unused = nn.Linear(2, 2)


class ZeroGradient(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        return super().forward(batch).detach() + 0 * torch.cat([p.flatten() for p in self.parameters()]).sum()


class Detached(Toy):
    def forward(self, batch: CrystalBatch) -> Tensor:
        assert batch.images is not None
        return super().forward(replace(batch, images=replace(batch.images, distance=batch.images.distance.detach())))


class Forgetful(Toy):
    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.scale = float(torch.rand(()))

    def forward(self, batch: CrystalBatch) -> Tensor:
        return self.scale * super().forward(batch)


class Alias(Toy):
    def element_vectors(self) -> Tensor:
        return self.elements.vectors.detach()


class TooFewRows(Toy):
    def element_vectors(self) -> Tensor:
        return super().element_vectors()[:50]


class AlwaysTrained(Toy):
    def set_element_vectors(self, vectors: Tensor, known: Tensor, *, trainable: bool) -> None:
        super().set_element_vectors(vectors, known, trainable=True)


class AlwaysFrozen(Toy):
    def set_element_vectors(self, vectors: Tensor, known: Tensor, *, trainable: bool) -> None:
        super().set_element_vectors(vectors, known, trainable=False)


class Scaled(Toy):
    def set_element_vectors(self, vectors: Tensor, known: Tensor, *, trainable: bool) -> None:
        super().set_element_vectors(2 * vectors, known, trainable=trainable)


class KnowsAll(Toy):
    def set_element_vectors(self, vectors: Tensor, known: Tensor, *, trainable: bool) -> None:
        super().set_element_vectors(vectors, torch.ones_like(known), trainable=trainable)


class AnyWidth(Toy):
    def set_element_vectors(self, vectors: Tensor, known: Tensor, *, trainable: bool) -> None:
        width = self.elements.vectors.shape[1]
        super().set_element_vectors(nn.functional.pad(vectors, (0, width))[:, :width], known, trainable=trainable)


class Recalibrated(Toy):
    def __init__(self, config: ToyConfig | None = None) -> None:
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(()))

    @property
    def is_calibrated(self) -> bool:
        return bool(self.mean != 0)

    def calibrate(self, batch: CrystalBatch) -> None:
        self.mean.copy_(batch.numbers.double().mean())


class NeverCalibrated(Toy):
    @property
    def is_calibrated(self) -> bool:
        return False


BROKEN: dict[str, tuple[type[CrystalModel], ...]] = {
    "radius": (ShrinkingRadius, InfiniteRadius),
    "images": (AllImages,),
    "forward": (OneTarget, OtherPrecision),
    "n_targets": (Miscounted,),
    "encode": (Narrow,),
    "batching": (Centred,),
    "order of crystals": (Numbered,),
    "order of atoms": (FirstAtom, NumberedAtoms),
    "inputs": (ChangesInputs,),
    "determinism": (Noisy, Counting),
    "needs_directions": (SecretDirections, MissingDirections),
    "gradients": (Idle, ZeroGradient),
    "forces": (Detached,),
    "weight file": (Forgetful,),
    "element_vectors": (Alias, TooFewRows),
    "set_element_vectors": (AlwaysTrained, AlwaysFrozen, Scaled, KnowsAll, AnyWidth),
    "calibrate": (Recalibrated, NeverCalibrated),
}


def test_every_check_catches_someone() -> None:
    assert BROKEN.keys() == CHECKS.keys()


@pytest.mark.parametrize(("check", "broken"), [(check, broken) for check in BROKEN for broken in BROKEN[check]])
def test_a_broken_model_is_caught(check: str, broken: type[CrystalModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "broken", broken)
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match=rf"(?m)^{check}: .") as caught:
        check_model(broken(broken.Config(n_targets=2)))
    assert str(caught.value).startswith(f"{broken.__name__} fails ")
