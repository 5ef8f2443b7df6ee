"""What the tensors of a file are checked for, whichever of the authors' models they belong to."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from crystalformers.errors import CheckpointError

TYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Types of weights that are read; complex numbers, float8 and whole numbers are not."""


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: str | None = None) -> None:
    """Compare the tensors of a file with those of the model that its settings or the preset describe.

    Args:
        found: tensors of the file by the authors' names.
        expected: tensors of the model by the same names; only their shapes are used.
        optional: end of the names that the file may lack.

    Raises:
        CheckpointError: naming the first tensor that is missing, unknown, of another shape or type, or not finite.
    """
    for name in sorted(found.keys() ^ expected.keys()):
        if name in found:
            raise CheckpointError(f"tensor '{name}' is not part of the model that its settings or the preset describe")
        if optional is None or not name.endswith(optional):
            raise CheckpointError(f"tensor '{name}' is missing")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)}, expected {tuple(expected[name].shape)}"
            raise CheckpointError(f"tensor '{name}' has shape {shapes}")
        if tensor.dtype not in TYPES:
            problem = f"tensor '{name}' has the type {str(tensor.dtype).removeprefix('torch.')}, which is not read"
            raise CheckpointError(problem, remedy="save it as float32")
        if not tensor.isfinite().all():
            raise CheckpointError(f"tensor '{name}' holds NaN or infinite numbers")
