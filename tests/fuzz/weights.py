"""Changed files of weights and of saved training states, in a child process with bounds on time and memory.

    python tests/fuzz/weights.py --inputs 10000 [--seed 0] [--kinds ours lightning ...] [--output summary.json]

An input is handled well if it ends in finite predictions, or in an error of the library's own. The exit status is 1 if
any is not. Everything follows from a seed: `mutant(kind, seed)` is always the same bytes.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import io
import json
import random
import resource
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import fuzz  # the first, since it makes the other folders of tests known
import numpy as np
import torch
from mutations import VALUES
from mutations import _bytes as change_bytes
from mutations import _json_value as change_json
from mutations import _nodes as nodes
from paper_files import FIRST_PAPER, SECOND_PAPER, SMALL, lightning, state
from safetensors import safe_open
from safetensors.torch import load, save
from samples import many, rock_salt, tiny_model, write_table

from crystalformers.checkpoint import HASH_KEY, HEADER_KEY, read_description, save_model
from crystalformers.elements.trained import from_model
from crystalformers.errors import CrystalformersError
from crystalformers.models import build_model
from crystalformers.models.crystaltransformer import CrystalTransformer, CrystalTransformerConfig
from crystalformers.paper_checkpoints import crystaltransformer
from crystalformers.prediction.domain import Domain
from crystalformers.prediction.intervals import ENOUGH_TO_CHOOSE, Calibration
from crystalformers.prediction.loading import load_model
from crystalformers.prediction.reference import Reference
from crystalformers.target import Target
from crystalformers.training.folder import DIGEST_MARK, RunFolder
from crystalformers.training.report import environment
from crystalformers.training.state import TrainingState

GOOD = ("predicted", "resumed", "refused")
"""How an input may end."""

FILENAME = {
    "ours": "x.safetensors",
    "lightning": "x.ckpt",
    "state dict": "x.pt",
    "authors' safetensors": "x.safetensors",
    "crystaltransformer": "x.pth.tar",
    "resume": "resume.pt",
}

TARGET = Target("energy", "eV", mean=1.0, std=2.0)

TRANSFORMER = CrystalTransformerConfig(
    variant="published", dim=8, heads=4, blocks=2, feedforward=16, head="published", n_targets=1
)
"""Settings of a small CrystalTransformer."""


# --- right files, which mutations start from ---


@lru_cache
def originals(kind: str) -> tuple[bytes, ...]:
    """Right files of a kind."""
    files: dict[str, Callable[[], tuple[bytes, ...]]] = {
        "ours": lambda: (_ours(), _without_hash(_ours()), _without_hash(_describing())),
        "lightning": lambda: tuple(_saved(lightning(params, state(params))) for params in (FIRST_PAPER, SECOND_PAPER)),
        "state dict": lambda: (_saved(state(FIRST_PAPER)),),
        "authors' safetensors": lambda: (save(state(FIRST_PAPER)),),
        "crystaltransformer": lambda: (_saved(_crystaltransformer()),),
        "resume": lambda: (_resume(),),
    }
    return files[kind]()


def _ours() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return tiny_model(Path(folder) / "model.safetensors", [TARGET]).read_bytes()


def _describing() -> bytes:
    """A weight file that says what the training crystals were like, and how far it is off."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = tiny_model(Path(folder) / "model.safetensors", [TARGET])
        model = load_model(path)
        reference = Reference.of(rng.normal(size=(20, model.dim)), rng.normal(size=(30, model.dim)))
        distances = rng.uniform(1, 2, ENOUGH_TO_CHOOSE)
        calibration = Calibration.of(distances * rng.normal(size=ENOUGH_TO_CHOOSE), {"distance": distances})
        domain = Domain({}, (5.0, 100.0), 1.0)
        card = {"element_counts": {"Na": 20, "Cl": 20}, "domain": domain.to_dict()}
        card["calibration"] = {TARGET.name: calibration.to_dict()}
        save_model(path, model.network, model.targets, card, reference.to_arrays())
        return path.read_bytes()


def _without_hash(data: bytes) -> bytes:
    """The same weight file without its hash, so that what is changed is looked at and not only noticed."""
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    description = json.loads(header["__metadata__"][HEADER_KEY])
    del description[HASH_KEY]
    header["__metadata__"][HEADER_KEY] = json.dumps(description)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def _crystaltransformer() -> dict[str, Any]:
    torch.manual_seed(0)
    tensors = crystaltransformer.to_theirs(CrystalTransformer(TRANSFORMER))
    normalizer = {"mean": torch.tensor(1.0), "std": torch.tensor(2.0)}
    return {"epoch": 3, "state_dict": tensors, "normalizer": normalizer, "args": {"lr": 1e-3, "task": "regression"}}


@lru_cache
def _fresh_run() -> tuple[Any, Any]:
    """Batches and identity of a small run."""
    from crystalformers.data.table import open_table
    from crystalformers.training.batching import Batches
    from crystalformers.training.dataset import Dataset
    from crystalformers.training.recipe import Recipe

    with tempfile.TemporaryDirectory() as folder:
        table = write_table(
            Path(folder) / "t.parquet", many(6), energy=[0.1 * k for k in range(6)], split=["train"] * 4 + ["val"] * 2
        )
        recipe = Recipe.parse({"epochs": 2, "batch_size": 2, "average_epochs": 1, "accelerator": "cpu"})
        dataset = Dataset.of(open_table(table), [Target("energy", "eV")], recipe)
        batches = Batches(dataset, 5.0, recipe, directions=False)
        batches.store.batch(batches.train_order(0)[0])
    return batches, {"recipe setting epochs": 2}


def _fresh_state() -> TrainingState:
    torch.manual_seed(0)
    model = build_model("crystalformer", {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 8, "radial_functions": 4})
    batches, identity = _fresh_run()
    return TrainingState(model, batches, identity)


def _resume() -> bytes:
    with tempfile.TemporaryDirectory() as name:
        folder, training = RunFolder(Path(name)), _fresh_state()
        for weight in training.model.parameters():
            weight.grad = torch.full_like(weight, 0.1)
        training.optimizer.step()
        training.average.update()
        training.remember_best(1.5)
        training.progress.step = training.progress.batch = 1
        folder.save_state(training)
        return folder.state.read_bytes()


# --- mutations ---


def mutant(kind: str, seed: int) -> bytes:
    """The changed file that belongs to a seed; of one in fifty nothing is changed."""
    rng = random.Random(f"{kind} {seed}")
    torch.manual_seed(seed)
    data = rng.choice(originals(kind))
    if rng.random() < 0.02:
        return data
    if kind == "resume":
        content, _, _ = data.rpartition(DIGEST_MARK)
        if rng.random() < 0.3:
            return change_bytes(data, rng)
        content = _changed(kind, content, rng)
        return content + DIGEST_MARK + hashlib.sha256(content).digest()
    return _changed(kind, data, rng)


def _changed(kind: str, data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        data = rng.choice(MUTATIONS[kind])(data, rng)
    return data


def _header(data: bytes, rng: random.Random) -> bytes:
    """Change the header of a safetensors file: settings, shapes, types, places."""
    (size,) = struct.unpack("<Q", data[:8]) if len(data) >= 8 else (0,)
    if size > len(data) - 8:
        return change_bytes(data, rng)
    header = data[8 : 8 + size]
    if rng.random() < 0.5:
        header = change_json(header, rng)
    else:
        try:
            tree = json.loads(header)
            place = tree["__metadata__"]
            name = rng.choice(list(place))
            place[name] = change_json(place[name].encode(), rng).decode("utf-8", "replace")
            header = json.dumps(tree).encode()
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
            header = change_bytes(header, rng)
    if rng.random() < 0.9:
        size = len(header)
    return struct.pack("<Q", size) + header + data[8 + struct.unpack("<Q", data[:8])[0] :]


def _tensor(data: bytes, rng: random.Random) -> bytes:
    """Change, add or leave out one tensor of a safetensors file, with everything else right."""
    try:
        tensors = load(data)
        with tempfile.NamedTemporaryFile(suffix=".safetensors") as file:
            file.write(data)
            file.flush()
            with safe_open(file.name, "pt") as opened:
                metadata = opened.metadata()
    except Exception:  # what was changed before may be no weight file any more
        return change_bytes(data, rng)
    name = rng.choice(sorted(tensors))
    match rng.randrange(6):
        case 0:
            tensors.pop(name)
        case 1:
            tensors[name + "x"] = tensors[name].clone()
        case _:
            tensors[name] = _another(tensors[name], rng).contiguous().clone()
    return save(tensors, metadata)


def _another(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """A tensor of another type or shape, or with other numbers."""
    types = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64)
    numbers = (float("nan"), float("inf"), 3e38, -1e30, 0.0)
    changes = (
        lambda: tensor.to(rng.choice(types)),
        lambda: tensor.to(torch.float32).to(rng.choice((torch.float8_e4m3fn, torch.float8_e5m2))),
        lambda: tensor.flatten()[: max(1, tensor.numel() // 2)],
        lambda: tensor.reshape(-1, 1),
        lambda: tensor.new_zeros(0),
        lambda: torch.cat([tensor.flatten()] * 3),
        lambda: torch.full_like(tensor, rng.choice(numbers)) if tensor.is_floating_point() else tensor + 1,
        lambda: tensor + torch.randn(tensor.shape) if tensor.is_floating_point() else tensor.logical_not(),
    )
    return rng.choice(changes)()


def _strange(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
    """A tensor that only `torch.save` can hold."""
    flat = tensor.flatten().float()
    changes = (
        lambda: flat[:1].expand(10**6, 10**6),
        flat.to_sparse,
        lambda: torch.quantize_per_tensor(flat, 0.1, 0, torch.qint8),
        lambda: torch.empty(10**12, device="meta"),
        lambda: torch.nn.Parameter(flat),
    )
    return rng.choice(changes)()


def _value(data: bytes, rng: random.Random) -> bytes:
    """Change one value in a file of `torch.save`; half of the time one that is no tensor."""
    try:
        content = torch.load(io.BytesIO(data), weights_only=True)
        found = list(nodes(content))
        plain = [(parent, key) for parent, key in found if not isinstance(parent[key], torch.Tensor)]
        parent, key = rng.choice(plain if plain and rng.random() < 0.5 else found)
        match rng.randrange(6):
            case 0:
                del parent[key]
            case 1 if isinstance(parent, dict):
                parent["x"] = parent.pop(key)
            case 2 | 3 if isinstance(parent[key], torch.Tensor):
                parent[key] = _another(parent[key], rng)
            case 4 if isinstance(parent[key], torch.Tensor):
                parent[key] = _strange(parent[key], rng)
            case _:
                parent[key] = rng.choice(VALUES)
        return _saved(content)
    except Exception:  # what was changed before may be no such file any more
        return change_bytes(data, rng)


def _member(data: bytes, rng: random.Random) -> bytes:
    """Change one member of the zip archive that `torch.save` writes, mostly the pickle; its checksums are right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # what was changed before may be no archive any more
        return change_bytes(data, rng)
    name = next((name for name in members if name.endswith("data.pkl")), None)
    name = name if name and rng.random() < 0.6 else rng.choice(list(members))
    how = zipfile.ZIP_STORED
    match rng.randrange(10):
        case 0:
            del members[name]
        case 1:
            members[name + "x"] = members.pop(name)
        case 2:
            members[name] += b"\0" * rng.choice((1, 64, 10**7))
            how = zipfile.ZIP_DEFLATED
        case 3:
            members["../" + name] = members[name]
        case _:
            members[name] = change_bytes(members[name], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


SAFETENSORS = (_header, _header, _tensor, _tensor, change_bytes)

TORCH = (_value, _value, _value, _member, change_bytes)

MUTATIONS: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    "ours": SAFETENSORS,
    "lightning": TORCH,
    "state dict": TORCH,
    "authors' safetensors": SAFETENSORS,
    "crystaltransformer": TORCH,
    "resume": TORCH,
}
"""How files of each kind are changed."""


# --- verdicts ---

SETTINGS: dict[str, dict[str, Any]] = {
    "state dict": {"preset": SMALL, "targets": [TARGET]},
    "authors' safetensors": {"preset": SMALL, "targets": [TARGET]},
    "crystaltransformer": {"preset": TRANSFORMER, "targets": [TARGET]},
}
"""What a user has to say about files that do not tell it."""


def outcome(kind: str, data: bytes, folder: Path) -> str:
    """What becomes of an input: the kind of its happy end; any other exception is a finding."""
    path = folder / FILENAME[kind]
    path.write_bytes(data)
    try:
        if kind == "resume":
            RunFolder(folder).load_state(_fresh_state())
            return "resumed"
        model = load_model(path, **SETTINGS.get(kind, {}))
        (predicted,) = model.predict(rock_salt())  # refuses what is not finite
        if model.card.get("element_counts"):
            from_model(model)
        hashed = kind == "ours" and HASH_KEY in read_description(path)
        return "another prediction" if hashed and predicted.values != _prediction() else "predicted"
    except CrystalformersError as error:
        return "refused" if str(error).strip() else "refused without a reason"


@lru_cache
def _prediction() -> dict[str, float]:
    """What the right file of this library predicts."""
    with tempfile.TemporaryDirectory() as folder:
        (predicted,) = load_model(tiny_model(Path(folder) / "model.safetensors", [TARGET])).predict(rock_salt())
    return predicted.values


def judged(kind: str, data: bytes, folder: Path) -> tuple[str, bool]:
    """What becomes of an input, and whether that is a finding."""
    try:
        text = outcome(kind, data, folder)
    except BaseException as error:  # whatever it is, it is to be told
        return fuzz.told(error), True
    return text, text not in GOOD


def work(kind: str, seeds: range, pipe: Connection) -> None:
    """The child: seed by seed, tell what is begun and how it ended."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        for data in originals(kind):  # imports all that reading and predicting take
            judged(kind, data, Path(folder))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + fuzz.MEMORY, resource.RLIM_INFINITY))
        for seed in seeds:
            data = mutant(kind, seed)
            pipe.send(("begin", seed, None))
            text, wrong = judged(kind, data, Path(folder))
            pipe.send(("wrong" if wrong else "end", seed, text))
        pipe.send(("done", 0, None))


def main() -> int:
    """Parse the command line; attack; report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1000, help="over all kinds together")
    parser.add_argument("--seed", type=int, default=0, help="the first; inputs are numbered from it")
    parser.add_argument("--kinds", nargs="+", choices=MUTATIONS, default=list(MUTATIONS))
    parser.add_argument("--output", type=Path, help="JSON file for the summary")
    given = parser.parse_args()
    findings, outcomes, start = [], {}, time.monotonic()
    for number, kind in enumerate(given.kinds):
        count = given.inputs // len(given.kinds) + (number < given.inputs % len(given.kinds))
        counted: collections.Counter[str] = collections.Counter()
        for seed, text, wrong in fuzz.attack(kind, given.seed, count, work):
            counted["WRONG" if wrong else text] += 1
            if wrong:
                findings.append({"kind": kind, "seed": seed, "what": text})
                print(f"{kind} {seed}: {text}", flush=True)
        outcomes[kind] = dict(counted)
        print(kind, outcomes[kind], flush=True)
    summary = {
        "inputs": given.inputs,
        "seed": given.seed,
        "seconds_per_input_at_most": fuzz.SECONDS,
        "bytes_per_input_at_most": fuzz.MEMORY,
        "outcomes": outcomes,
        "findings": findings,
        "seconds": round(time.monotonic() - start),
        "machine": environment(),
    }
    if given.output is not None:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(summary, indent=1) + "\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
