"""Reading the authors' files: Lightning checkpoints, `torch.save` and safetensors. No code in them is ever run."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from crystalformers.checkpoint import HEADER_KEY
from crystalformers.errors import CheckpointError
from crystalformers.paper_checkpoints.crystalformer import EMBEDDING
from crystalformers.paper_checkpoints.crystaltransformer import TABLE

TORCH = (".ckpt", ".pt", ".pth")
"""Suffixes of files that `torch.save` writes: zip archives with a pickle inside."""

ZIP = b"PK\x03\x04"
"""First bytes of a zip archive."""

LAST, AVERAGE, STEPS = "model.", "swa_model.module.", "swa_model.n_averaged"
"""In a Lightning checkpoint: prefix of the weights of one step, prefix of an average, number of steps averaged."""

Weights = Literal["auto", "average", "last"]
"""Which set of weights: the `average` over the last epochs (the papers' numbers) or those of the `last` step (or best
epoch); `auto` takes the average if the file has one."""

Plain = str | int | float | bool | None


def is_paper_checkpoint(path: Path) -> bool:
    """Whether a file comes from the authors' code and not from this library, by its suffix or content."""
    with path.open("rb") as file:
        if path.suffix in TORCH or file.read(len(ZIP)) == ZIP:
            return True
    try:
        with safe_open(path, "pt") as tensors:
            ours = HEADER_KEY in (tensors.metadata() or {})
            return not ours and any(name.endswith((EMBEDDING, TABLE)) for name in tensors.keys())  # noqa: SIM118
    except (SafetensorError, OSError, ValueError):  # whoever reads it says what is wrong
        return False


@dataclass(frozen=True)
class Content:
    """What this package uses of a file.

    Attributes:
        tensors: by the names in the file.
        params: hyper-parameters (`hyper_parameters` of Lightning, `args` of a training script), if there are any.
        normalizer: CrystalTransformer's mean and standard deviation of the target, unchecked.
    """

    tensors: dict[str, Tensor]
    params: dict[str, Any] | None = None
    normalizer: Any = None


def read_content(path: Path) -> Content:
    """Read a file.

    Raises:
        CheckpointError: if the file is absent, truncated, contains code, or has anything but tensors by name.
    """
    if not path.is_file():
        raise CheckpointError("there is no such weight file")
    with path.open("rb") as file:
        zipped = file.read(len(ZIP)) == ZIP
    if not zipped and path.suffix not in TORCH:
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, LookupError, ValueError) as error:  # LookupError: a type PyTorch lacks
            problem = f"not a readable safetensors file ({error})"
            raise CheckpointError(problem, remedy="it may be truncated, copy it again") from error
        return Content(tensors)
    content = _read_torch(path)
    if not isinstance(content, Mapping):
        raise CheckpointError(f"it holds a {type(content).__name__}, not tensors by name")
    params = content.get("hyper_parameters", content.get("args"))
    tensors = content.get("state_dict", content)
    if not isinstance(tensors, Mapping) or not tensors:
        raise CheckpointError("it holds no tensors by name")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
            raise CheckpointError(f"its entry {name!r} is not a tensor, so this is no state dict")
        # A view may repeat a few stored numbers without end: copying it would take all memory.
        if tensor.device.type != "cpu" or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise CheckpointError(f"tensor '{name}' has more numbers than are stored for it")
    return Content(dict(tensors), None if params is None else _plain(params), content.get("normalizer"))


@dataclass(frozen=True)
class Choice:
    """One set of weights of a file.

    Attributes:
        state: its tensors by the names within the model.
        outer: what precedes `model.` in the names of the file.
        left_out: what else the file holds, one sentence each.
    """

    state: dict[str, Tensor]
    outer: str
    left_out: list[str]


def choose(tensors: Mapping[str, Tensor], weights: Weights) -> Choice:
    """Take one set of weights from a file, which may hold an average of weights as well.

    Raises:
        CheckpointError: if the file holds no model of the authors, several, or tensors of something else, or if it
            lacks the set of weights that is asked for.
    """
    prefixes = sorted(name.removesuffix(EMBEDDING) for name in tensors if name.endswith(EMBEDDING))
    if not prefixes:
        raise CheckpointError(f"no tensor '{EMBEDDING}': this is not a model of Crystalformer's authors")
    outer = prefixes[0].removesuffix(AVERAGE).removesuffix(LAST)
    others = {outer + name for name in ("target_mean", "target_std", STEPS)}
    for name in sorted(tensors.keys() - others):
        if not name.startswith(tuple(prefixes)):
            raise CheckpointError(f"tensor '{name}' is not part of the authors' models")
    prefix, left_out = prefixes[0], []
    if prefixes == [outer + LAST, outer + AVERAGE]:
        steps = int(tensors[outer + STEPS]) if outer + STEPS in tensors else 0
        if weights == "average" and not steps:
            raise CheckpointError("its average of weights had not begun", remedy="take weights='last'")
        order = prefixes if weights == "last" or not steps else prefixes[::-1]
        prefix, other = order
        left_out.append(f"{other}*: second set of weights; taken are {prefix}* (steps in the average: {steps}).")
    elif len(prefixes) > 1:
        raise CheckpointError(f"it holds {len(prefixes)} models ({', '.join(prefixes)})", remedy="leave one in it")
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and name not in others
    }
    return Choice(state, outer, left_out)


def _read_torch(path: Path) -> Any:
    """The data of a file of `torch.save`, in its zip form only: reading older forms or TorchScript could run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:  # ValueError: names not in UTF-8
        problem = f"not a whole file of torch.save ({error})"
        raise CheckpointError(problem, remedy="it may be truncated, copy it again") from error
    names = [member.filename for member in members]
    if any(name.endswith("constants.pkl") for name in names) or not any(name.endswith("data.pkl") for name in names):
        raise CheckpointError("a zip archive, but not one that torch.save wrote")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError("a compressed zip archive, which torch.save never writes")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # foreign bytes: any exception means "cannot be read"
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"refused: it is not data alone, its pickle would call '{found[1]}'. Nothing of it was run",
                remedy="if you trust its source, save its tensors as safetensors where it was made",
            ) from error
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise CheckpointError(f"cannot be read ({reason})") from error


def _plain(params: Any) -> dict[str, Any]:
    """Hyper-parameters as they are, if all of them are numbers, texts or lists of those."""
    if not isinstance(params, Mapping):
        raise CheckpointError(f"its hyper-parameters are a {type(params).__name__}, not values by name")
    for name, value in params.items():
        parts = value if isinstance(value, list | tuple) else [value]
        if not isinstance(name, str) or not all(isinstance(part, Plain) for part in parts):
            raise CheckpointError(f"hyper-parameter {name!r} is neither a number nor a text")
    return dict(params)
