"""Weights on disk: one safetensors file whose header contains the description as JSON.

One file rather than two, so that a single rename replaces weights and description together. Nothing in it is
executable; reading it needs neither the training code nor pickle.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crystalformers.errors import CheckpointError
from crystalformers.files import write_atomically
from crystalformers.models import MODELS, CrystalModel, build_model
from crystalformers.periodic import SYMBOLS
from crystalformers.target import Target

HEADER_KEY = "crystalformers"
FORMAT = 1

HASH_KEY = "sha256"
"""Key in the description of the hash of everything else in the file; files without it are read unverified."""

ARRAY_PREFIX = "about."
"""Begins the names of the tensors that are no weights: arrays about the training data."""

MOST_ARRAY_BYTES = 2**24
"""Size of all arrays about the training data together, if each number has 8 bytes."""

TYPES = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL")
"""Types of tensors that are read, as safetensors names them; complex numbers and float8 are not."""

ARRAY_TYPES = tuple(kind for kind in TYPES if kind != "BF16")
"""Types of arrays about the training data: those that NumPy has."""

SETTINGS_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What PyTorch and Python raise for settings of the wrong kind or size; our own errors are ValueErrors."""


Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A model, what it predicts, and what is known about it.

    Attributes:
        model: the network with its weights, in evaluation mode.
        targets: one per output, in order.
        card: free JSON: training data, measured errors, seed, versions.
        arrays: small arrays about the training data, by name; empty in older files.
    """

    model: CrystalModel
    targets: tuple[Target, ...]
    card: dict[str, Any]
    arrays: Arrays = field(default_factory=dict)


def save_model(
    path: Path, model: CrystalModel, targets: Sequence[Target], card: dict[str, Any], arrays: Arrays | None = None
) -> None:
    """Write weights and description to `path`, replacing an older file only once all bytes are on disk.

    Args:
        path: file to write, usually ``*.safetensors``.
        model: of a class in `crystalformers.models.MODELS`.
        targets: one per output of the model.
        card: JSON-serialisable description.
        arrays: small arrays about the training data, of types in `ARRAY_TYPES`.

    Raises:
        CheckpointError: if the model is not of a listed architecture, the targets do not fit it, or the arrays are
            larger than `MOST_ARRAY_BYTES`.
    """
    architecture = next((name for name, listed in MODELS.items() if type(model) is listed), None)
    if architecture is None:
        problem = f"{type(model).__name__} is not an architecture that can be saved"
        raise CheckpointError(problem, where=str(path), remedy="list it in crystalformers.models.MODELS")
    _check_count(path, targets, model)
    description = {
        "format": FORMAT,
        "architecture": architecture,
        "config": asdict(model.config),
        "targets": [target.to_dict() for target in targets],
        "elements": _elements_hash(),
        "card": card,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    about = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in (arrays or {}).items()}
    _check_size(path, sum(8 * tensor.numel() for tensor in about.values()))
    tensors |= {f"{ARRAY_PREFIX}{name}": tensor for name, tensor in about.items()}
    description[HASH_KEY] = _hash(tensors, description)
    write_atomically(path, save(tensors, {HEADER_KEY: json.dumps(description, sort_keys=True)}))


class NothingDrawn(TorchFunctionMode):
    """Leaves weights without the normal numbers of their initialisation, where only their shapes are wanted.

    On the device `meta` PyTorch would load its compiler to draw none: two seconds and 150 MB.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Pass on all calls but `torch.nn.init.normal_`."""
        return (kwargs or {})["tensor"] if func is nn.init.normal_ else func(*args, **(kwargs or {}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a file written by `save_model`.

    Raises:
        CheckpointError: if the file is absent, truncated, of another kind, its tensors do not fit
            its description, or a hash was saved with it that they do not have.
    """
    path = Path(path)
    description = read_description(path)
    if description.get("elements") != _elements_hash():
        raise CheckpointError("the weights order the elements differently from this library", where=str(path))
    try:
        with torch.device("meta"), NothingDrawn():  # no memory, until the shapes in the file are known to fit
            _check_shapes(path, build_model(description["architecture"], description["config"]))
        targets = tuple(Target.from_dict(target) for target in description["targets"])
        if not isinstance(card := description["card"], dict):
            raise CheckpointError("the card of the model is not a JSON object", where=str(path))
    except CheckpointError:
        raise
    except SETTINGS_ERRORS as error:
        raise CheckpointError(f"the description in the file cannot be used: {error}", where=str(path)) from error
    model = build_model(description["architecture"], description["config"])
    _check_count(path, targets, model)
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise CheckpointError(f"tensor '{name}' holds NaN or infinite numbers", where=str(path))
    if HASH_KEY in description and description[HASH_KEY] != _hash(tensors, description):
        problem = "the content does not agree with the hash that was saved with it"
        raise CheckpointError(problem, where=str(path), remedy="the file is damaged or was changed, copy it again")
    arrays = {name.removeprefix(ARRAY_PREFIX): tensors.pop(name).numpy() for name in list(tensors) if _is_array(name)}
    model.load_state_dict(tensors)
    return Checkpoint(model.eval(), targets, card, arrays)


def _is_array(name: str) -> bool:
    return name.startswith(ARRAY_PREFIX)


def _check_size(path: Path, size: int) -> None:
    if size > MOST_ARRAY_BYTES:
        raise CheckpointError(f"the arrays about the training data have {size} bytes, too many", where=str(path))


def _check_count(path: Path, targets: Sequence[Target], model: CrystalModel) -> None:
    if len(targets) != model.n_targets:
        raise CheckpointError(f"{len(targets)} targets do not fit {model.n_targets} model outputs", where=str(path))


def _check_shapes(path: Path, model: CrystalModel) -> None:
    """Compare names, types and shapes in a file, whose tensors are not read yet, with those of a model.

    Raises:
        CheckpointError: naming the tensor that does not fit.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with safe_open(path, "pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    arrays = [slices.pop(name) for name in list(slices) if _is_array(name)]
    for array in arrays:
        if array.get_dtype() not in ARRAY_TYPES:
            raise CheckpointError(f"an array has the type {array.get_dtype()}, which is not read", where=str(path))
    _check_size(path, sum(8 * math.prod(array.get_shape()) for array in arrays))
    for name in sorted(expected.keys() ^ slices.keys()):
        problem = "is missing" if name in expected else "is not part of the architecture"
        raise CheckpointError(f"tensor '{name}' {problem}", where=str(path))
    for name, shape in expected.items():
        if (found := tuple(slices[name].get_shape())) != shape:
            raise CheckpointError(f"tensor '{name}' has shape {found}, expected {shape}", where=str(path))
        if (kind := slices[name].get_dtype()) not in TYPES:
            problem = f"tensor '{name}' has the type {kind}, which is not read"
            raise CheckpointError(problem, where=str(path), remedy="save it as F32")


def read_description(path: Path) -> dict[str, Any]:
    """The JSON of a weight file, without its tensors.

    Raises:
        CheckpointError: if the file is absent, not safetensors, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError("there is no such weight file", where=str(path))
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(HEADER_KEY)
    except (SafetensorError, OSError, ValueError) as error:  # ValueError: text that is not UTF-8
        problem = f"not a readable safetensors file ({error})"
        raise CheckpointError(problem, where=str(path), remedy="it may be truncated, copy it again") from error
    if header is None:
        raise CheckpointError("a safetensors file, but not one that crystalformers wrote", where=str(path))
    try:
        description: dict[str, Any] = json.loads(header)
    except (ValueError, RecursionError) as error:  # ValueError: also an integer of thousands of digits
        raise CheckpointError(f"the description in the file is not JSON ({error})", where=str(path)) from error
    if not isinstance(description, dict):
        raise CheckpointError("the description in the file is not a JSON object", where=str(path))
    if description.get("format") != FORMAT:
        problem = f"format {description.get('format')} is not known to this version (it reads {FORMAT})"
        raise CheckpointError(problem, where=str(path), remedy="update crystalformers")
    return description


def _hash(tensors: dict[str, Tensor], description: dict[str, Any]) -> str:
    """SHA-256 of names, types, shapes and bytes of all tensors, and of the description but its hash."""
    digest = hashlib.sha256()
    rest = {key: value for key, value in description.items() if key != HASH_KEY}
    digest.update(json.dumps(rest, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _elements_hash() -> str:
    """Fingerprint of the order of elements in an embedding table."""
    return hashlib.sha256(" ".join(SYMBOLS).encode()).hexdigest()[:16]
