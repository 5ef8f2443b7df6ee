"""What the authors' models predict: names from the hyper-parameters, scale from the tensors, units from their data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from crystalformers.errors import CheckpointError
from crystalformers.paper_checkpoints.params import target_names
from crystalformers.paper_checkpoints.tensors import TYPES
from crystalformers.target import Basis, Target

UNITS: dict[str, tuple[str, Basis]] = {
    **dict.fromkeys(("e_form", "formation_energy", "total_energy", "delta_e", "stability"), ("eV/atom", "per_atom")),
    **dict.fromkeys(("bandgap", "opt_bandgap", "mbj_bandgap", "ehull"), ("eV", "intensive")),
    **dict.fromkeys(("bulk", "bulk_modulus", "shear", "shear_modulus"), ("log(GPa)", "intensive")),
}
"""Unit and basis of the targets in their data sets."""

DATA_SETS = "jarvis__"
"""Prefix of the names of their data sets; in any other data set the name of a target does not determine its unit."""


Scale = list[tuple[float, float]]
"""Mean and standard deviation of the training labels of each output."""


def scale_of(mean: Tensor | None, std: Tensor | None, outputs: int) -> Scale | None:
    """The scale in the tensors of a file; None for a state dict, which has none.

    Raises:
        CheckpointError: if there is not one mean and deviation for each output.
    """
    found = [mean, std]
    if all(tensor is None or not tensor.numel() for tensor in found):
        return None
    if any(tensor is None or tensor.numel() != outputs or tensor.dtype not in TYPES for tensor in found):
        raise CheckpointError(f"target_mean and target_std are not {outputs} numbers, one per model output")
    means, stds = (tensor.double().flatten().tolist() for tensor in found if tensor is not None)
    return list(zip(means, stds, strict=True))


def targets_of(
    outputs: int, params: Mapping[str, Any] | None, scale: Scale | None, given: Sequence[Target] | None
) -> tuple[Target, ...]:
    """The targets that the caller gives, or those of the authors' data sets, with the scale of the file.

    Args:
        outputs: number of model outputs.
        params: the authors' hyper-parameters, if the file has them.
        scale: from the file; None leaves mean and standard deviation of `given` as they are.
        given: targets from the caller.

    Returns:
        One target per output; none at all if names and units are unknown.

    Raises:
        CheckpointError: if `given` contradicts the file.
    """
    if given is not None and len(given) != outputs:
        raise CheckpointError(f"{len(given)} targets do not fit {outputs} model outputs")
    if scale is None:
        return tuple(given or ())
    if given is None:
        names = target_names(params) if params and str(params.get("target_set")).startswith(DATA_SETS) else []
        if not UNITS.keys() >= set(names):
            return ()
        given = [Target(name, *UNITS[name]) for name in names]
    return tuple(_scaled(target, *numbers) for target, numbers in zip(given, scale, strict=False))


def _scaled(target: Target, mean: float, std: float) -> Target:
    given = (target.mean, target.std)
    if given != (0.0, 1.0) and not all(map(_close, given, (mean, std))):
        problem = f"the file says mean {mean:g} and std {std:g}"
        raise CheckpointError(problem, where=target.name, remedy="leave them out")
    return replace(target, mean=mean, std=std)


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-8)
