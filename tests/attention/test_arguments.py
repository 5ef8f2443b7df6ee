"""Attention refuses what does not fit together, in every backend, before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from strategies import random_crystals

from crystalformers.attention import AngularBasis, AngularEncoding, Geometry, RadialBasis, infinite_attention
from crystalformers.csrc.kernels import library
from crystalformers.errors import ConfigError
from crystalformers.images import CrystalBatch, with_images

BACKENDS = ["torch", *(["cpu"] if library() is not None else [])]
HEADS, WIDTH, RADIAL, ANGULAR = 3, 5, 4, 6
NAMES = ("q", "k", "v", "inverse_variance", "W", "angular")


def arguments() -> dict[str, Any]:
    """Arguments that are right."""
    torch.manual_seed(0)
    batch = CrystalBatch.from_crystals(random_crystals(3))
    batch = with_images(batch, 4.0, directions=True).to(torch.float32)
    q, k, v = torch.randn(3, batch.n_atoms, HEADS, WIDTH)
    return {
        "q": q,
        "k": k,
        "v": v,
        "inverse_variance": torch.ones(batch.n_atoms, HEADS),
        "W": torch.randn(HEADS, WIDTH, RADIAL),
        "angular": torch.randn(3, HEADS, WIDTH, ANGULAR),
        "geometry": Geometry(batch, RadialBasis(RADIAL, 8.0)),
    }


def attend(given: dict[str, Any], backend: Any) -> torch.Tensor:
    angular = AngularEncoding(given["angular"], AngularBasis(ANGULAR, 1.0), "max")
    tensors = (given[name] for name in ("q", "k", "v", "inverse_variance", "W"))
    return infinite_attention(*tensors, given["geometry"], backend, angular=angular)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_fits_is_computed(backend: str) -> None:
    assert attend(arguments(), backend).isfinite().all()


@pytest.mark.parametrize("backend", [*BACKENDS, "auto", "reference"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("change", ["cut", "longer", "flat", "one more axis", "double", "half", "integer", "meta"])
def test_what_does_not_fit_is_refused(backend: str, name: str, change: str) -> None:
    given = arguments()
    tensor = given[name]
    for axis in range(tensor.dim()) if change in ("cut", "longer") else (0,):
        match change:
            case "cut":
                changed = tensor.narrow(axis, 0, 1)
            case "longer":
                changed = torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
            case "flat":
                changed = tensor.flatten()
            case "one more axis":
                changed = tensor.unsqueeze(0)
            case "meta":
                changed = tensor.to("meta")
            case _:
                types = {"double": torch.float64, "half": torch.float16, "integer": torch.int64}
                changed = tensor.to(types[change])
        with pytest.raises(ConfigError):
            attend({**given, name: changed}, backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_arguments_cut_to_one_atom_are_refused(backend: str) -> None:
    given = arguments()
    cut = {name: given[name][:1] for name in ("q", "k", "v", "inverse_variance")}
    with pytest.raises(ConfigError, match="q has shape"):
        attend({**given, **cut}, backend)


def other(tensor: torch.Tensor, value: int, place: int = -1) -> torch.Tensor:
    tensor = tensor.clone()
    tensor[place] = value
    return tensor


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("pair", lambda t: other(t, 10**6)),
        ("pair", lambda t: other(t, -1)),
        ("pair", lambda t: other(t, 0)),
        ("pair", lambda t: t[:-1]),
        ("pair", lambda t: t.long()),
        ("ptr", lambda t: other(t, 10**6)),
        ("ptr", lambda t: other(t, 5, 0)),
        ("ptr", lambda t: other(t, 10**6, 1)),
        ("ptr", lambda t: other(t, -(10**6), 1)),
        ("ptr", lambda t: t[:-1]),
        ("ptr", lambda t: t.int()),
        ("pair_source", lambda t: other(t, 10**6)),
        ("pair_source", lambda t: other(t, -1)),
        ("pair_target", lambda t: other(t, 10**6)),
        ("pair_target", lambda t: other(t, -1, 0)),
        ("pair_target", lambda t: t.flip(0)),
        ("distance", lambda t: t[:-1]),
        ("vectors", lambda t: t[:-1]),
        ("vectors", lambda t: t.double()),
        ("vectors", lambda t: None),
    ],
)
def test_images_that_do_not_fit_are_refused(backend: str, name: str, change: Any) -> None:
    given = arguments()
    batch = given["geometry"].batch
    images = replace(batch.images, **{name: change(getattr(batch.images, name))})
    with pytest.raises(ConfigError):
        attend({**given, "geometry": Geometry(replace(batch, images=images), RadialBasis(RADIAL, 8.0))}, backend)


@pytest.mark.parametrize("basis", [RadialBasis(RADIAL, 0.0), RadialBasis(RADIAL, 8.0, -1.0), RadialBasis(-1, 8.0)])
def test_a_basis_that_cannot_be_is_refused(basis: RadialBasis) -> None:
    given = arguments()
    with pytest.raises(ConfigError):
        attend({**given, "geometry": Geometry(given["geometry"].batch, basis)}, "auto")
