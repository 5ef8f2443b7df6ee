"""The rules for lists of images: both implementations see the same in lists that were damaged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from strategies import random_crystals

from crystalformers.csrc.kernels import library
from crystalformers.images import CrystalBatch, Images, build_images
from crystalformers.images.checks import RULES, broken_rules_compiled, broken_rules_torch

LISTS = ("ptr", "pair", "pair_target", "pair_source")


@pytest.fixture(scope="module")
def images() -> Images:
    if library() is None:
        pytest.skip("NOT TESTED: the compiled kernels are not installed")
    return build_images(CrystalBatch.from_crystals(random_crystals(3)), 4.0)


def test_nothing_is_wrong_with_lists_as_built(images: Images) -> None:
    assert broken_rules_compiled(images) == broken_rules_torch(images) == [False] * len(RULES)


def test_both_implementations_find_the_same_in_damaged_lists(images: Images) -> None:
    rng, seen = np.random.default_rng(0), set[str]()
    for _ in range(600):
        name = str(rng.choice(LISTS))
        changed = getattr(images, name).clone()
        for place in rng.integers(len(changed), size=rng.integers(1, 4)):
            near = int(changed[place]) + int(rng.integers(-2, 3))
            changed[place] = int(rng.choice([near, near, -1, 0, len(images.pair), 2**31 - 1]))
        damaged = replace(images, **{name: changed})
        found = broken_rules_compiled(damaged)
        assert found == broken_rules_torch(damaged), name
        seen.update(rule for rule, broken in zip(RULES, found, strict=True) if broken)
    assert seen == set(RULES)


@pytest.mark.parametrize("n_images", [0, 1])
def test_lists_with_few_or_no_images(images: Images, n_images: int) -> None:
    none = torch.zeros(0, dtype=torch.int64)
    empty = replace(
        images,
        distance=images.distance[:n_images],
        pair=torch.zeros(n_images, dtype=torch.int32),
        ptr=torch.tensor([0, n_images]),
        pair_target=none,
        pair_source=none,
    )
    assert broken_rules_compiled(empty) == broken_rules_torch(empty)
    assert any(broken_rules_compiled(empty)) == bool(n_images)
