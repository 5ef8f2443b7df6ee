"""The optimiser, and the learning rate as a pure function of the progress of a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from crystalformers.training.recipe import Recipe

VECTORS = "elements.vectors"
"""Name, in any model, of the vectors that come from a table (`models.elements`)."""


def optimizer(model: nn.Module, loss: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """What the recipe asks for; weights decay, biases, vectors of a table and weights of the loss do not."""
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    vectors = {name for name in named if recipe.elements is not None and name.endswith(VECTORS)}
    biases = {name for name in named if name.endswith("bias")}
    groups: list[dict[str, Any]] = [
        {"params": [named[k] for k in named if k not in vectors | biases], "weight_decay": recipe.weight_decay},
        {"params": [named[k] for k in named if k in biases], "weight_decay": 0.0},
    ]
    if recipe.elements is not None and vectors:
        scale = recipe.elements.lr_scale
        groups.append({"params": [named[k] for k in vectors], "weight_decay": 0.0, "lr_scale": scale})
    if balancing := list(loss.parameters()):
        groups.append({"params": balancing, "weight_decay": 0.0})
    match recipe.optimizer:
        case "adamw":
            return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)
        case "sgd":
            return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group of parameters its learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


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
