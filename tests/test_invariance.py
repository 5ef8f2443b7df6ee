"""Predictions belong to the crystal: in float64 to rounding, in float32 to what a user should expect.

`benchmarks/accuracy/invariance.py` measures every transformation on every crystal; here each crystal of a large sample
meets all of them at once, and a small sample each one alone. Large cells cost: one thread, cells of at most 12 atoms.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from strategies import random_crystals

from crystalformers import testing
from crystalformers.checkpoint import load_checkpoint
from crystalformers.crystal import Crystal
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.prediction import bundled
from crystalformers.testing import (
    CONTROL,
    E3,
    Transformation,
    assert_invariant,
    invariance_report,
    network_predictor,
    table,
)

DOUBLE = {"tolerance": 1e-14, "dtype": torch.float64}
SINGLE = {"tolerance": 1e-7, "dtype": torch.float32}

GENERATED = random_crystals(28, seed=100, most=6)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small tensors in float64: threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """The bundled model, or a random one that listens to distances more than a fresh one does."""
    if bundled.names():
        model: torch.nn.Module = load_checkpoint(bundled.find_weights(bundled.DEFAULT)).model
        return model
    torch.manual_seed(0)
    fresh = Crystalformer()
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            if name.endswith("value_encoding"):
                parameter.mul_(10)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
            elif "query" in name or "key" in name:
                parameter.mul_(3)
    fresh.calibrate(with_images(CrystalBatch.from_crystals(GENERATED, torch.float32), fresh.radius(1e-5)))
    return fresh


@pytest.fixture(scope="module")
def real(shared: Path) -> list[Crystal]:
    """200 crystals of the Materials Project, spread over the table."""
    columns = ["id", "n_atoms", "atomic_numbers", "lattice", "frac_coords"]
    rows = pq.read_table(shared / "data/mp36k.parquet", columns=columns)
    rows = rows.filter(pc.less_equal(rows["n_atoms"], 12))
    chosen = rows.take(np.linspace(0, len(rows) - 1, 200).astype(int)).to_pylist()
    return [
        Crystal(
            np.array(row["atomic_numbers"]),
            np.reshape(row["frac_coords"], (-1, 3)),
            np.reshape(row["lattice"], (3, 3)),
            row["id"],
        )
        for row in chosen
    ]


def changed_in_every_way(crystal: Crystal, rng: np.random.Generator) -> Crystal:
    """A supercell in a random, left-handed, mirrored cell with its atoms moved, unwrapped and reordered."""
    if rng.random() < 0.5:
        crystal = testing.repeated(crystal, (2, 1, 1))
    for change in (
        testing.randomly_rebased,
        testing.other_handed,
        testing.translated,
        testing.unwrapped,
        testing.reordered,
        testing.rotated,
        testing.reflected,
    ):
        crystal = change(crystal, rng)
    return crystal


EVERYTHING = [Transformation("everything at once", changed_in_every_way)]


def test_the_network_does_see_the_geometry(network: torch.nn.Module) -> None:
    """Or else all that follows would prove nothing."""
    predict = network_predictor(network, **DOUBLE)
    (row,) = invariance_report(predict, GENERATED, [CONTROL])
    assert row.median > 1e-4


@pytest.mark.parametrize(("settings", "limit"), [(DOUBLE, 1e-9), (SINGLE, 2e-5)], ids=["float64", "float32"])
def test_generated_crystals_of_every_shape(network: torch.nn.Module, settings: Any, limit: float) -> None:
    print("\n" + table(assert_invariant(network_predictor(network, **settings), GENERATED, limit, E3)))


@pytest.mark.shared
@pytest.mark.parametrize(("settings", "limit"), [(DOUBLE, 1e-9), (SINGLE, 2e-5)], ids=["float64", "float32"])
def test_200_real_crystals_changed_in_every_way_at_once(
    network: torch.nn.Module, real: list[Crystal], settings: Any, limit: float
) -> None:
    print("\n" + table(assert_invariant(network_predictor(network, **settings), real, limit, EVERYTHING)))


@pytest.mark.shared
@pytest.mark.parametrize(("settings", "limit"), [(DOUBLE, 1e-9), (SINGLE, 2e-5)], ids=["float64", "float32"])
def test_small_real_crystals_changed_in_each_way(
    network: torch.nn.Module, real: list[Crystal], settings: Any, limit: float
) -> None:
    small = [crystal for crystal in real if len(crystal) <= 5][:20]
    print("\n" + table(assert_invariant(network_predictor(network, **settings), small, limit, E3)))
