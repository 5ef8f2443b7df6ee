"""The optimiser, and the learning rate as a pure function of the progress of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from crystalformers.models import CrystalModel
from crystalformers.training.published_slips import bias_decay
from crystalformers.training.recipe import Recipe

VECTORS = "elements.vectors"
"""Name, in any model, of the vectors that come from a table (`models.elements`)."""


def optimizer(model: CrystalModel, loss: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """What the recipe asks for; weights decay, biases, vectors of a table and weights of the loss do not.

    Of a model that was trained before, the learning rate shrinks with the distance from the head.
    """
    groups = [
        {"params": parameters, "weight_decay": _decay(recipe, *key), **_pace(recipe, *key)}
        for key, parameters in _grouped(model, recipe).items()
    ]
    if balancing := list(loss.parameters()):
        groups.append({"params": balancing, "weight_decay": 0.0})
    match recipe.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)
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


def _grouped(model: CrystalModel, recipe: Recipe) -> dict[tuple[bool, bool, int], list[nn.Parameter]]:
    """Learned parameters by whether they are vectors of a table, whether biases, and how far from the head.

    The distance counts in stages and is 0 for all parameters of a model that starts from random weights.
    """
    stages = model.stages if recipe.init is not None else []
    distance = {id(p): len(stages) - 1 - k for k, stage in enumerate(stages) for p in stage.parameters()}
    groups: dict[tuple[bool, bool, int], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            vectors = recipe.elements is not None and name.endswith(VECTORS)
            key = (vectors, name.endswith("bias"), distance.get(id(parameter), max(0, len(stages) - 1)))
            groups.setdefault(key, []).append(parameter)
    return dict(sorted(groups.items()))


def _decay(recipe: Recipe, vectors: bool, bias: bool, _: int) -> float:
    if vectors:
        return 0.0
    return bias_decay(recipe) if bias else recipe.weight_decay


def _pace(recipe: Recipe, vectors: bool, bias: bool, distance: int) -> dict[str, Any]:
    """The share of the learning rate that a group has, and whether it waits for the head."""
    scale = recipe.elements.lr_scale if vectors and recipe.elements is not None else 1.0
    if recipe.init is None:
        return {"lr_scale": scale}
    return {"lr_scale": scale * recipe.init.lr_decay**distance, "head": distance == 0}


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, *, head_only: bool = False) -> None:
    """Give every group of parameters its learning rate; with `head_only` all but the head stand still."""
    for group in optimizer.param_groups:
        waits = head_only and not group.get("head", True)
        group["lr"] = 0.0 if waits else lr * group.get("lr_scale", 1.0)


def learning_rate(recipe: Recipe, step: int, fraction: float) -> float:
    """Learning rate of a step (from 0), with `fraction` of the run done.

    Published for Crystalformer: lr sqrt(T / (T + t)), T = 4000, without warm-up.
    """
    warmup = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
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
