"""The optimiser, and the learning rate as a pure function of the progress of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn

from crystalformers.models import CrystalModel
from crystalformers.training.muon import Muon, hidden_matrices
from crystalformers.training.published_slips import bias_decay
from crystalformers.training.recipe import Recipe

LONGEST_WARMUP = 0.1
"""Share of a run after which its learning rate rises no further, however few steps it has."""

VECTORS = "elements.vectors"
"""Name, in any model, of the vectors that come from a table (`models.elements`)."""


def optimizer(model: CrystalModel, loss: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """What the recipe asks for; weights decay, biases, vectors of a table and weights of the loss do not.

    Of a model that was trained before, the learning rate shrinks with the distance from the head.
    """
    groups = [
        {"params": found, "weight_decay": _decay(recipe, kind), **_pace(recipe, kind), "matrices": kind.matrix}
        for kind, found in _grouped(model, recipe).items()
    ]
    if balancing := list(loss.parameters()):
        groups.append({"params": balancing, "weight_decay": 0.0})
    match recipe.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)
        case "muon":
            settings = {"lr": recipe.lr, "betas": recipe.betas, "eps": recipe.eps, "fused": True}
            return Muon(groups, momentum=recipe.momentum, bf16=recipe.precision == "bf16", **settings)
        case "sgd":
            return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """On this thread, results below the normal numbers of their type (1e-38 in float32) become 0.

    The moments of a parameter without gradients, as behind a hidden unit that no crystal turns on, decay to such
    numbers and stay there, since 0.9 times the least of them is rounded back to it. Processors take many times as long
    for them: with such moments of every second weight, an AdamW step took 13 times as long.
    """
    before = bool(torch.tensor(torch.finfo(torch.float32).tiny) * 0.5 == 0)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


class _Kind(NamedTuple):
    """What the steps of a parameter depend on.

    Attributes:
        vectors: whether it is the vectors of a table.
        bias: whether it is a bias.
        matrix: whether Muon takes it for a matrix.
        distance: from the head, in stages; 0 for all parameters of a model that starts from random weights.
    """

    vectors: bool
    bias: bool
    matrix: bool
    distance: int


def _grouped(model: CrystalModel, recipe: Recipe) -> dict[_Kind, list[nn.Parameter]]:
    """Learned parameters by their kind."""
    stages = model.stages if recipe.init is not None else []
    distance = {id(p): len(stages) - 1 - k for k, stage in enumerate(stages) for p in stage.parameters()}
    matrices = {id(p) for p in hidden_matrices(model)} if recipe.optimizer == "muon" else set()
    groups: dict[_Kind, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key, vectors = id(parameter), recipe.elements is not None and name.endswith(VECTORS)
            kind = _Kind(vectors, name.endswith("bias"), key in matrices, distance.get(key, max(0, len(stages) - 1)))
            groups.setdefault(kind, []).append(parameter)
    return dict(sorted(groups.items()))


def _decay(recipe: Recipe, kind: _Kind) -> float:
    if kind.vectors:
        return 0.0
    return bias_decay(recipe) if kind.bias else recipe.weight_decay


def _pace(recipe: Recipe, kind: _Kind) -> dict[str, Any]:
    """The share of the learning rate that a group has, and whether it waits for the head."""
    scale = recipe.elements.lr_scale if kind.vectors and recipe.elements is not None else 1.0
    if recipe.init is None:
        return {"lr_scale": scale}
    return {"lr_scale": scale * recipe.init.lr_decay**kind.distance, "head": kind.distance == 0}


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, *, head_only: bool = False) -> None:
    """Give every group of parameters its learning rate; with `head_only` all but the head stand still."""
    for group in optimizer.param_groups:
        waits = head_only and not group.get("head", True)
        group["lr"] = 0.0 if waits else lr * group.get("lr_scale", 1.0)


def learning_rate(recipe: Recipe, step: int, fraction: float) -> float:
    """Learning rate of a step (from 0), with `fraction` of the run done.

    Published for Crystalformer: lr sqrt(T / (T + t)), T = 4000, without warm-up.
    """
    warmup = min(1.0, max((step + 1) / recipe.warmup_steps, fraction / LONGEST_WARMUP)) if recipe.warmup_steps else 1.0
    match recipe.schedule:
        case "inverse-sqrt":
            decay = math.sqrt(recipe.schedule_steps / (recipe.schedule_steps + step))
        case "cosine":
            decay = 0.5 * (1 + math.cos(math.pi * fraction))
        case "step":
            epoch = math.floor(fraction * recipe.epochs + 1e-9)
            decay = recipe.schedule_factor ** (epoch // recipe.schedule_epochs)
        case "constant":
            decay = 1.0
    return recipe.lr * warmup * decay
