"""Does a model behave as `crystalformers.models.CrystalModel` says?

>>> from crystalformers.testing import check_model
>>> check_model(MyModel(MyConfig(n_targets=2)))  # doctest: +SKIP

Everything is computed in float64 on the CPU. Invariance to the choice of the cell is tested by `assert_invariant`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crystalformers.checkpoint import load_checkpoint, save_model
from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError, StructureError
from crystalformers.images import CrystalBatch, build_images, with_images
from crystalformers.models import CrystalModel
from crystalformers.models.element_vectors import ROWS
from crystalformers.periodic import MAX_ATOMIC_NUMBER
from crystalformers.target import Target
from crystalformers.testing.assertions import raises, require, require_same, require_same_state, tensors

TOLERANCE = 1e-12
"""Tolerance for which the images are built."""

SEED = 7_301_529
"""Of the random numbers in a check. An unusual one: with that of the model, a forgotten random number would return."""

TABLE_WIDTH = 5
"""Width of the table of element vectors that a model is given."""

Check = Callable[[CrystalModel, list[Crystal]], None]


def check_model(model: CrystalModel, crystals: Sequence[Crystal] | None = None) -> None:
    """Test that a model keeps the contract of its base class.

    Args:
        model: not modified. Small settings make the test quick, and several targets make it find more. Its class must
            be listed in `crystalformers.models.MODELS`, or it cannot be saved.
        crystals: two or more, of different sizes; by default six random ones.

    Raises:
        AssertionError: with one line for each check that failed.
    """
    given = sample_crystals() if crystals is None else list(crystals)
    failures: dict[str, Exception] = {}
    for name, check in CHECKS.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            try:
                check(copy.deepcopy(model).to("cpu", torch.float64).eval(), given)
            except Exception as error:
                failures[name] = error
    if failures:
        lines = [f"{type(model).__name__} fails {len(failures)} of {len(CHECKS)} checks:"]
        for name, failure in failures.items():
            kind = "" if type(failure) is AssertionError else f"{type(failure).__name__}: "
            lines.append(f"{name}: {kind}{failure}")
        raise AssertionError("\n".join(lines)) from next(iter(failures.values()))


def sample_crystals(count: int = 6, seed: int = 0) -> list[Crystal]:
    """Random crystals of one to `count` atoms, which lie near the points of a grid of 3 Å."""
    rng = np.random.default_rng(seed)
    crystals = []
    for n in range(1, count + 1):
        lattice = np.diag([3.0 * n, 3.0, 3.0]) + rng.uniform(-0.3, 0.3, size=(3, 3))
        positions = np.outer(np.arange(n), [3.0, 0.0, 0.0]) + rng.uniform(-0.3, 0.3, size=(n, 3))
        numbers = rng.integers(1, MAX_ATOMIC_NUMBER + 1, size=n)
        crystals.append(Crystal.from_positions(numbers, positions, lattice, f"random crystal {n}"))
    return crystals


def radius_grows(model: CrystalModel, crystals: list[Crystal]) -> None:
    """The radius is positive and finite, and does not shrink with the tolerance."""
    radii = {tolerance: model.radius(tolerance) for tolerance in (1e-2, 1e-4, 1e-7, 1e-12)}
    require(all(0 < radius < math.inf for radius in radii.values()), f"radii by tolerance are {radii} Å")
    require(sorted(radii.values()) == list(radii.values()), f"it shrinks with the tolerance: {radii} Å")


def images_suffice(model: CrystalModel, crystals: list[Crystal]) -> None:
    """Images beyond the radius do not change predictions."""
    radius = model.radius(TOLERANCE)
    farther = _predict(model, crystals, radius=radius + 1)
    require_same(farther, _predict(model, crystals), "predictions with images 1 Å farther")


def predictions_have_their_shape(model: CrystalModel, crystals: list[Crystal]) -> None:
    """Predictions are finite numbers (C, T) in the type of the weights."""
    predictions = _predict(model, crystals)
    expected = (len(crystals), model.config.n_targets)
    require(tuple(predictions.shape) == expected, f"shape {tuple(predictions.shape)}, expected {expected}")
    require(predictions.dtype == torch.float64, f"{predictions.dtype} from weights in float64")
    require(bool(predictions.isfinite().all()), "not all numbers are finite")


def targets_are_counted(model: CrystalModel, crystals: list[Crystal]) -> None:
    """`n_targets` is that of the settings."""
    require(model.n_targets == model.config.n_targets, f"is {model.n_targets}, not {model.config.n_targets}")


def atom_vectors_have_their_shape(model: CrystalModel, crystals: list[Crystal]) -> None:
    """Atom vectors are finite numbers (A, dim)."""
    vectors, expected = _encode(model, crystals), (sum(map(len, crystals)), model.dim)
    require(tuple(vectors.shape) == expected, f"shape {tuple(vectors.shape)}, expected {expected}")
    require(bool(vectors.isfinite().all()), "not all numbers are finite")


def batches_do_not_matter(model: CrystalModel, crystals: list[Crystal]) -> None:
    """A crystal alone has the prediction that it has in a batch."""
    alone = torch.cat([_predict(model, [crystal]) for crystal in crystals])
    require_same(alone, _predict(model, crystals), "predictions of single crystals")


def predictions_follow_the_order_of_crystals(model: CrystalModel, crystals: list[Crystal]) -> None:
    """Crystals in another order have the same predictions in that order."""
    reverse = _predict(model, crystals[::-1])
    require_same(reverse.flip(0), _predict(model, crystals), "predictions in the reverse order")


def order_of_atoms_does_not_matter(model: CrystalModel, crystals: list[Crystal]) -> None:
    """Atoms in another order give the same prediction and the same vectors, unless the settings are not invariant."""
    if not model.config.invariant:
        return
    for crystal in crystals:
        reverse = Crystal(crystal.numbers[::-1], crystal.frac_coords[::-1], crystal.lattice)
        require_same(_predict(model, [reverse]), _predict(model, [crystal]), "predictions with reversed atoms")
        require_same(_encode(model, [reverse]).flip(0), _encode(model, [crystal]), "vectors of reversed atoms")


def batches_are_not_modified(model: CrystalModel, crystals: list[Crystal]) -> None:
    """A batch holds the same numbers after it was used."""
    batch = _batch(model, crystals)
    before = copy.deepcopy(tensors(batch))
    model(batch)
    model.encode(batch)
    if not model.is_calibrated:
        model.calibrate(batch)
    changed = [name for name, tensor in tensors(batch).items() if not torch.equal(tensor, before[name])]
    require(not changed, f"{', '.join(changed)} changed")


def evaluation_is_deterministic(model: CrystalModel, crystals: list[Crystal]) -> None:
    """In evaluation mode the same batch gives the same bits, and the weights stay as they are."""
    before = copy.deepcopy(model.state_dict())
    first = _predict(model, crystals)
    require(torch.equal(_predict(model, crystals), first), "two predictions for one batch differ")
    require_same_state(model, before, "predicting")


def directions_are_asked_for(model: CrystalModel, crystals: list[Crystal]) -> None:
    """A model that needs no directions gives the same predictions for images built without them."""
    if not model.needs_directions:
        without, given = (_predict(model, crystals, directions=directions) for directions in (False, True))
        require_same(without, given, "predictions without directions")


def every_parameter_learns(model: CrystalModel, crystals: list[Crystal]) -> None:
    """A gradient reaches every parameter that asks for one; that of a bias may be zero."""
    model.train()
    model(_batch(model, crystals)).square().sum().backward()
    idle = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
        and (parameter.grad is None or not (name.endswith("bias") or parameter.grad.abs().max() > 0))
    ]
    require(not idle, f"no gradient reaches {', '.join(idle)}")


def forces_are_slopes(model: CrystalModel, crystals: list[Crystal]) -> None:
    """The gradient with respect to the positions is the slope of the prediction, unless the model says it has none."""
    if model.forces_unsupported_reason is not None:
        return
    model.backend = "torch"
    batch = CrystalBatch.from_crystals(crystals)
    images = build_images(batch, model.radius(TOLERANCE), directions=True)
    direction = torch.from_numpy(np.random.default_rng(0).normal(size=batch.positions.shape))

    def prediction(step: Tensor) -> Tensor:
        moved = replace(batch, positions=batch.positions + step * direction)
        total: Tensor = model(replace(moved, images=images.moved(moved))).sum()
        return total

    step = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(prediction(step), step, materialize_grads=True)
    with torch.no_grad():
        numeric = (prediction(step + 1e-6) - prediction(step - 1e-6)).item() / 2e-6
    same = math.isclose(slope.item(), numeric, rel_tol=1e-4, abs_tol=1e-8)
    require(same, f"the slope along a direction is {numeric:.6g}, its gradient says {slope.item():.6g}")


def weights_can_be_saved(model: CrystalModel, crystals: list[Crystal]) -> None:
    """A weight file gives back the class, the settings, the weights and the predictions."""
    model, batch = model.float(), _batch(model, crystals).to(torch.float32)
    targets = [Target(f"target_{k}", "eV") for k in range(model.n_targets)]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(path, model, targets, {})
        loaded = load_checkpoint(path).model
    require(type(loaded) is type(model), f"it comes back as a {type(loaded).__name__}")
    require(loaded.config == model.config, f"settings {model.config} come back as {loaded.config}")
    require_same_state(loaded, model.state_dict(), "saving and loading")
    require(torch.equal(loaded(batch), model(batch)), "predictions differ afterwards")


def element_vectors_can_be_read(model: CrystalModel, crystals: list[Crystal]) -> None:
    """There is one finite vector for each element, and changing what was read does not change the model."""
    try:
        vectors = model.element_vectors()
    except ConfigError:
        return  # it has none
    shape = tuple(vectors.shape)
    require(len(shape) == 2 and shape[0] >= MAX_ATOMIC_NUMBER, f"shape {shape}, expected (98 or more, width)")
    require(bool(vectors.isfinite().all()) and not vectors.requires_grad, "not finite, or not detached")
    before = _predict(model, crystals)
    vectors.zero_()
    require(torch.equal(_predict(model, crystals), before), "what is read is the model's own memory, no copy")


def tables_are_taken(model: CrystalModel, crystals: list[Crystal]) -> None:
    """Vectors of a table stay while frozen, change while trained, and their elements are the only ones accepted.

    A model takes a table if its settings have `element_dim`; others refuse it.
    """
    table, known = torch.randn(ROWS, TABLE_WIDTH, dtype=torch.float64), torch.ones(ROWS, dtype=torch.bool)
    if "element_dim" not in {field.name for field in fields(model.config)}:
        refused = raises(ConfigError, lambda: model.set_element_vectors(table, known, trainable=False))
        require(refused, "a model without the setting element_dim takes a table all the same")
        return
    model = type(model)(replace(model.config, element_dim=TABLE_WIDTH)).double()  # type: ignore[call-arg]
    refused = raises(ConfigError, lambda: model.set_element_vectors(table[:, 1:], known, trainable=False))
    require(refused, "a table of another width is not refused")
    for trainable in (False, True):
        model.set_element_vectors(table, known, trainable=trainable)
        require(torch.equal(model.element_vectors(), table), "the vectors read out are not those of the table")
        _step(model, _batch(model, crystals))
        moved = not torch.equal(model.element_vectors(), table)
        require(moved == trainable, "trained vectors stay" if trainable else "frozen vectors change")
    known[crystals[0].numbers - 1] = False
    model.set_element_vectors(table, known, trainable=False)
    refused = raises(StructureError, lambda: _predict(model, crystals[:1]))
    require(refused, "an element that the table lacks is not refused")


def calibration_happens_once(model: CrystalModel, crystals: list[Crystal]) -> None:
    """After `calibrate` a model is calibrated, and a second call changes nothing."""
    if not model.is_calibrated:
        model.calibrate(_batch(model, crystals))
        require(model.is_calibrated, "is_calibrated is False after calibrate()")
    before = copy.deepcopy(model.state_dict())
    raises(ConfigError, lambda: model.calibrate(_batch(model, crystals[-1:])))
    require_same_state(model, before, "a second calibration")


CHECKS: dict[str, Check] = {
    "radius": radius_grows,
    "images": images_suffice,
    "forward": predictions_have_their_shape,
    "n_targets": targets_are_counted,
    "encode": atom_vectors_have_their_shape,
    "batching": batches_do_not_matter,
    "order of crystals": predictions_follow_the_order_of_crystals,
    "order of atoms": order_of_atoms_does_not_matter,
    "inputs": batches_are_not_modified,
    "determinism": evaluation_is_deterministic,
    "needs_directions": directions_are_asked_for,
    "gradients": every_parameter_learns,
    "forces": forces_are_slopes,
    "weight file": weights_can_be_saved,
    "element_vectors": element_vectors_can_be_read,
    "set_element_vectors": tables_are_taken,
    "calibrate": calibration_happens_once,
}
"""What `check_model` tests, by the name that a failure has in its message."""


def _batch(
    model: CrystalModel, crystals: list[Crystal], directions: bool | None = None, radius: float | None = None
) -> CrystalBatch:
    """The crystals with images as the model asks for them, or as told."""
    directions = model.needs_directions if directions is None else directions
    return with_images(CrystalBatch.from_crystals(crystals), radius or model.radius(TOLERANCE), directions=directions)


@torch.no_grad()
def _predict(model: CrystalModel, crystals: list[Crystal], **images: Any) -> Tensor:
    predictions: Tensor = model(_batch(model, crystals, **images))
    return predictions


@torch.no_grad()
def _encode(model: CrystalModel, crystals: list[Crystal]) -> Tensor:
    return model.encode(_batch(model, crystals))


def _step(model: CrystalModel, batch: CrystalBatch) -> None:
    """One step of gradient descent."""
    model.zero_grad()
    model(batch).square().sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
