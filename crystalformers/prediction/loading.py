"""Loading a trained model by its name or from its file."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, overload

import torch

from crystalformers.checkpoint import load_checkpoint
from crystalformers.errors import ConfigError
from crystalformers.models import MODELS, CrystalModel
from crystalformers.paper_checkpoints import Config, is_paper_checkpoint, load_paper_checkpoint
from crystalformers.prediction.bundled import DEFAULT, find_weights
from crystalformers.prediction.model import Model
from crystalformers.prediction.several import Models
from crystalformers.target import Target

Name = str | os.PathLike[str]
"""Bundled name, run folder or weight file."""


@overload
def load_model(
    name_or_path: Name | None = None,
    device: str = "cpu",
    tolerance: float = 1e-7,
    dtype: torch.dtype = torch.float32,
    preset: str | Config | None = None,
    targets: Sequence[Target] | None = None,
) -> Model: ...
@overload
def load_model(
    name_or_path: list[str] | list[Path] | tuple[Name, ...],
    device: str = "cpu",
    tolerance: float = 1e-7,
    dtype: torch.dtype = torch.float32,
) -> Models: ...
def load_model(
    name_or_path: Name | list[str] | list[Path] | tuple[Name, ...] | None = None,
    device: str = "cpu",
    tolerance: float = 1e-7,
    dtype: torch.dtype = torch.float32,
    preset: str | Config | None = None,
    targets: Sequence[Target] | None = None,
) -> Model | Models:
    """Load a bundled model by name, or any model from a run folder or weight file, the papers' checkpoints included.

    Args:
        name_or_path: bundled name (`crystalformers models` lists them), run folder or weight file;
            None: `bundled.DEFAULT`. A list of them gives `Models`, which predict together.
        device: `cpu`, `cuda`, `cuda:1`...
        tolerance: share of an atom's attention weight that may be neglected beyond the radius of the images.
        dtype: floating-point type of the network.
        preset: the published model whose weights are in an authors' file, if the file does not say (a state dict).
        targets: what such a file predicts, if it does not say. See
            `paper_checkpoints.read_paper_checkpoint`; what could not be mapped is listed in `card["unmapped"]`.

    Raises:
        CheckpointError: if there is no such model or it cannot be read.
        ConfigError: if the device is not available or the tolerance is out of range, or if models of a list do not
            fit together.
    """
    if isinstance(name_or_path, list | tuple):
        if not name_or_path:
            raise ConfigError("the list of models is empty", remedy="name at least one")
        return Models([load_model(name, device, tolerance, dtype, preset, targets) for name in name_or_path])
    name = DEFAULT if name_or_path is None else str(name_or_path)
    path = find_weights(name)
    with path.open("rb") as file:
        fingerprint = hashlib.file_digest(file, "sha256").hexdigest()
    if is_paper_checkpoint(path):
        checkpoint = load_paper_checkpoint(path, preset, targets)
    elif preset is None and targets is None:
        checkpoint = load_checkpoint(path)
    else:
        problem = "a file of this library holds its own settings and targets"
        raise ConfigError(problem, where=str(path), remedy="leave out yours")
    return Model(checkpoint, name, fingerprint, device, tolerance, dtype)


def member_of(model: Model, member: int) -> CrystalModel:
    """A member of an ensemble, counted from 0; the network itself if the model is none.

    Raises:
        ConfigError: if there are not so many members.
    """
    members = model.network.members
    if not 0 <= member < len(members):
        raise ConfigError(f"there is no member {member}, the first of {len(members)} is 0", where=model.name)
    return members[member]


def trained_architecture(name_or_path: str, member: int = 0) -> tuple[str, dict[str, Any]]:
    """Name and settings of the architecture of a trained model, without the number of its targets.

    Args:
        name_or_path: as of `load_model`.
        member: which member, if the model is an ensemble.

    Raises:
        CheckpointError: if there is no such model or it cannot be read.
        ConfigError: if there is no such member.
    """
    network = member_of(load_model(name_or_path), member)
    settings = asdict(network.config)
    del settings["n_targets"]
    return next(name for name, listed in MODELS.items() if type(network) is listed), settings
