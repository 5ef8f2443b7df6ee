"""Numbers that stand in no configuration: half or twice as large they change nothing beyond the tolerance.

So a checkpoint need not hold them. Widths are driven to their upper bound, where most is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from types import ModuleType
from typing import get_args
from unittest.mock import patch

import numpy as np
import pytest
from strategies import SYMMETRIC_CRYSTALS, make_crystal
from test_settings import BASE, error, solve
from torch import Tensor

from crystalformers.attention import Geometry, RadialBasis
from crystalformers.attention.frames import crystal as crystal_frames
from crystalformers.attention.frames import local, symmetry
from crystalformers.attention.frames.local import FrameMethod
from crystalformers.attention.reciprocal import far_pairs, lattice_sums
from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch, build, radius_for, with_images
from crystalformers.images import batch as image_batch
from crystalformers.models.crystalformer import CrystalformerConfig
from crystalformers.testing import repeated

TOLERANCE = 1e-6


def shaken(crystal: Crystal, amplitude: float) -> Crystal:
    """Atoms moved by about so many Angstrom."""
    moved = crystal.positions + np.random.default_rng(0).uniform(-amplitude, amplitude, (len(crystal), 3))
    return Crystal.from_positions(crystal.numbers, moved, crystal.lattice)


DOUBLE = repeated(SYMMETRIC_CRYSTALS["low"], (2, 1, 1))
CRYSTALS = [
    *(SYMMETRIC_CRYSTALS[name] for name in ("low", "chain", "alone", "rock salt", "hexagonal")),
    make_crystal("random", 3),
    make_crystal("needle", 2),
    Crystal([6, 8, 8], [[0, 0, 0], [0.5, 0.5, 0.5], [0.48, 0, 0]], 14 * np.eye(3)),  # pairs far apart
    shaken(DOUBLE, 1e-4),  # atoms that still are at the same place after half a cell
    shaken(DOUBLE, 1e-2),  # atoms that no longer are
]

WIDE = replace(BASE, frame=None, sigma_slope=5.0)
CONFIGS: dict[str, CrystalformerConfig] = {
    "distances": WIDE,
    "dual": replace(WIDE, space="dual"),
    **{method: replace(WIDE, frame=method) for method in get_args(FrameMethod)},
}
MAX, PRINCIPAL = ("max", "static-local"), ("weighted-pca", "pca")


def outputs(name: str, *, move: bool) -> dict[str, Tensor]:
    """A layer's output and its gradients, of positions too if they move; the images are those of the tolerance."""
    config = CONFIGS[name]
    batch = with_images(
        CrystalBatch.from_crystals(CRYSTALS), radius_for(TOLERANCE, config.sigma_bound), directions=True
    )
    others = {}
    if move:
        assert batch.images is not None
        others = {"positions": batch.positions.clone().requires_grad_()}
        moved = replace(batch, **others)
        batch = replace(moved, images=batch.images.moved(moved))
    geometry = Geometry(batch, RadialBasis(config.radial_functions, config.radial_maximum, config.radial_width))
    return solve(config, geometry, "torch", others)


def multiplied(factor: float, name: str, *modules: ModuleType) -> ExitStack:
    """A number of some modules multiplied until the stack is closed."""
    stack = ExitStack()
    for module in modules:
        stack.enter_context(patch.object(module, name, factor * getattr(module, name)))
    return stack


def density(factor: float) -> ExitStack:
    stack, defaults = ExitStack(), (factor * build.REFERENCE_DENSITY,)
    for function in (build.radius_of_tail, build.tail):
        stack.enter_context(patch.object(function, "__defaults__", defaults))
    return stack


def not_collinear(factor: float) -> ExitStack:
    """1 - |cos| from which on a direction may be the second axis."""
    stack = ExitStack()
    stack.enter_context(patch.object(local, "COLLINEAR", 1 - factor * (1 - local.COLLINEAR)))
    return stack


def decimals(factor: float) -> ExitStack:
    """A decimal less or more: axes that differ by 1e-8 or 1e-10 are one."""
    stack, count = ExitStack(), local.AXIS_DECIMALS + (1 if factor > 1 else -1)
    for module in (local, crystal_frames):
        stack.enter_context(patch.object(module, "AXIS_DECIMALS", count))
    return stack


NUMBERS: dict[str, tuple[Callable[[float], ExitStack], tuple[str, ...]]] = {
    "ENVELOPE_WIDTH": (lambda f: multiplied(f, "ENVELOPE_WIDTH", image_batch, build), tuple(CONFIGS)),
    "REFERENCE_DENSITY": (density, tuple(CONFIGS)),
    "NEAR": (lambda f: multiplied(f, "NEAR", far_pairs, lattice_sums), ("dual",)),
    "SAME_PLACE": (lambda f: multiplied(f, "SAME_PLACE", symmetry), ("pca", "lattice")),
    "AXIS_DECIMALS": (decimals, (*MAX, "lattice")),
    "DEGENERATE": (lambda f: multiplied(f, "DEGENERATE", local), PRINCIPAL),
    "VANISHING": (lambda f: multiplied(f, "VANISHING", local), PRINCIPAL),
    "COLLINEAR": (not_collinear, MAX),
    "PENALTY_FLOOR": (lambda f: multiplied(f, "PENALTY_FLOOR", local), MAX),
    "EXACTLY_COLLINEAR": (lambda f: multiplied(f, "EXACTLY_COLLINEAR", local), MAX),
}
"""How each is changed, and the models that follow it."""


@pytest.mark.parametrize(("number", "model"), [(n, model) for n, (_, models) in NUMBERS.items() for model in models])
def test_a_number_does_not_matter(number: str, model: str) -> None:
    changed, move = NUMBERS[number][0], number != "AXIS_DECIMALS"  # axes that carry a gradient are never one
    usual = outputs(model, move=move)
    for factor in (0.5, 2.0):
        with changed(factor):
            found = outputs(model, move=move)
        for name in usual:
            # A gradient of positions divides by widths, of Gaussians and of ties of frames.
            bound = 5 * TOLERANCE if name == "positions" else TOLERANCE
            assert error({name: found[name]}, {name: usual[name]}) < bound, (factor, name)


@pytest.mark.parametrize(
    ("number", "model", "factor"),
    [
        *(("SAME_PLACE", "pca", 30), ("SAME_PLACE", "lattice", 0.01)),
        *(("DEGENERATE", "pca", 1e8), ("VANISHING", "weighted-pca", 1e8), ("PENALTY_FLOOR", "max", 1e5)),
    ],
)
def test_one_that_is_far_off_does(number: str, model: str, factor: float) -> None:
    usual = outputs(model, move=True)
    with NUMBERS[number][0](factor):
        assert error(outputs(model, move=True), usual) > 100 * TOLERANCE
