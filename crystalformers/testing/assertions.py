"""Assertions about tensors and models, whose messages say what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

ROUNDING = 1e-9
"""Largest difference that counts as rounding in float64, relative to the largest number."""


def tensors(value: Any, name: str = "") -> dict[str, Tensor]:
    """The tensors of nested dataclasses, by their dotted names."""
    if isinstance(value, Tensor):
        return {name: value}
    if not is_dataclass(value):
        return {}
    found: dict[str, Tensor] = {}
    for field in fields(value):
        found |= tensors(getattr(value, field.name), f"{name}.{field.name}".lstrip("."))
    return found


def raises(kind: type[Exception], call: Callable[[], object]) -> bool:
    """Whether a call raises an exception of this kind."""
    try:
        call()
    except kind:
        return True
    return False


def require(condition: bool, problem: str) -> None:
    """Raise AssertionError with the problem unless the condition holds."""
    if not condition:
        raise AssertionError(problem)


def require_same(found: Tensor, expected: Tensor, what: str) -> None:
    """Raise AssertionError unless both are equal up to rounding."""
    require(found.shape == expected.shape, f"{what} have shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    difference = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-300))
    require(difference <= ROUNDING, f"{what} differ by {difference:.1e} of the largest")


def require_same_state(model: nn.Module, before: Mapping[str, Tensor], event: str) -> None:
    """Raise AssertionError unless weights and buffers are bit for bit those of the state dict `before`."""
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    require(not changed, f"{event} changes {', '.join(changed)}")
