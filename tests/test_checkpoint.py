"""Weight files: what comes back, what is refused, and that nothing half-written is left behind."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from strategies import random_crystals
from torch import Tensor, nn

from crystalformers import checkpoint
from crystalformers.checkpoint import HASH_KEY, HEADER_KEY, load_checkpoint, read_description, save_model
from crystalformers.errors import CheckpointError
from crystalformers.files import write_atomically
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import build_model
from crystalformers.target import Target

CONFIG = {"dim": 8, "heads": 2, "blocks": 2, "feedforward": 16, "radial_functions": 4, "n_targets": 2}
TARGETS = (Target("energy", "eV/atom", "per_atom", mean=-1.0, std=0.5), Target("modulus", "GPa", transform="log10"))
CARD = {"data": "made up", "errors": {"energy": 0.1}, "seed": 7}


def model_with_seed(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    model = build_model("crystalformer", CONFIG)
    model.calibrate(with_images(CrystalBatch.from_crystals(random_crystals(4), torch.float32), 4.0))
    return model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, model_with_seed(), TARGETS, CARD)
    return path


def contents(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[HEADER_KEY])  # noqa: SIM118


def rewrite(path: Path, tensors: dict[str, Tensor], description: Any) -> None:
    save_file(tensors, path, {HEADER_KEY: description if isinstance(description, str) else json.dumps(description)})


def test_what_is_saved_comes_back(weights: Path) -> None:
    model, loaded = model_with_seed(), load_checkpoint(weights)
    assert loaded.targets == TARGETS
    assert loaded.card == CARD
    assert loaded.model.config == model.config
    assert not loaded.model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name]), name
    batch = with_images(CrystalBatch.from_crystals(random_crystals(5), torch.float32), 4.0)
    assert torch.equal(model.eval()(batch), loaded.model(batch))
    assert bool(loaded.model.calibrated)


def test_saving_twice_gives_the_same_bytes(weights: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_model(again, model_with_seed(), TARGETS, CARD)
    assert again.read_bytes() == weights.read_bytes()


def test_the_description_can_be_read_without_the_tensors(weights: Path) -> None:
    description = read_description(weights)
    assert description["architecture"] == "crystalformer"
    assert description["config"]["dim"] == 8
    assert description["card"] == CARD


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(weights: Path, keep: float) -> None:
    whole = weights.read_bytes()
    weights.write_bytes(whole[: int(keep * len(whole) if 0 < keep < 1 else keep)])
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*truncated"):
        load_checkpoint(weights)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="no such weight file"):
            load_checkpoint(path)


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["pickle", "torch", "zip"])
def test_a_pickle_in_disguise_is_refused_and_never_run(tmp_path: Path, form: str) -> None:
    path, sprung = tmp_path / "model.safetensors", tmp_path / "sprung"
    if form == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    elif form == "torch":
        torch.save({"state_dict": Trap(sprung)}, path)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("data.pkl", pickle.dumps(Trap(sprung)))
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        load_checkpoint(path)
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung)))
    assert sprung.exists(), "the trap itself does not work"


def test_a_safetensors_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="not one that crystalformers wrote"):
        load_checkpoint(path)


Change = Callable[[dict[str, Tensor], dict[str, Any]], object]

HEAD = "head.2.bias"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda tensors, _: tensors.pop(HEAD), rf"'{HEAD}' is missing"),
        (lambda tensors, _: tensors.update(extra=torch.zeros(1)), "'extra' is not part of the architecture"),
        (lambda tensors, _: tensors.update({HEAD: torch.zeros(3)}), rf"'{HEAD}' has shape \(3,\), expected \(2,\)"),
        (lambda tensors, _: tensors.update({HEAD: torch.tensor([0, torch.nan])}), rf"'{HEAD}' holds NaN"),
        (lambda tensors, _: tensors.update({HEAD: torch.tensor([0, torch.inf])}), rf"'{HEAD}' holds NaN or inf"),
        (lambda _, header: header["config"].update(dimm=8), "Unknown model setting 'dimm'"),
        (lambda _, header: header["config"].update(dim=9), "multiple of heads"),
        (lambda _, header: header["config"].update(dim=16), "has shape"),
        (lambda _, header: header["config"].update(dim="8"), "cannot be used"),
        (lambda _, header: header.update(config=None), "cannot be used"),
        (lambda _, header: header.update(architecture="mlp"), "'mlp' is not one of crystalformer"),
        (lambda _, header: header.update(architecture=["mlp"]), "cannot be used"),
        (lambda _, header: header.pop("architecture"), "architecture"),
        (lambda _, header: header.pop("card"), "card"),
        (lambda _, header: header.update(card=[1]), "card of the model is not a JSON object"),
        (lambda _, header: header.update(format=99), "format 99.*update crystalformers"),
        (lambda _, header: header.pop("format"), "format None"),
        (lambda _, header: header.update(elements="0"), "order the elements differently"),
        (lambda _, header: header["targets"].append({"name": "x", "unit": "eV", "colour": "red"}), "colour"),
        (lambda _, header: header["targets"][0].update(basis="per_mole"), "per_mole"),
        (lambda _, header: header["targets"].pop(), "1 targets"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_reason(weights: Path, change: Change, words: str) -> None:
    tensors, description = contents(weights)
    rewrite(weights, tensors, description)
    load_checkpoint(weights)
    change(tensors, description)
    rewrite(weights, tensors, description)
    with pytest.raises(CheckpointError, match=words) as caught:
        load_checkpoint(weights)
    assert weights.name in str(caught.value)


@pytest.mark.parametrize("header", ["not json", "[]", "3", "null", ""])
def test_a_description_that_is_no_json_object_is_refused(weights: Path, header: str) -> None:
    tensors, _ = contents(weights)
    rewrite(weights, tensors, header)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(weights)


@pytest.mark.parametrize("header", ["[" * 100_000, '{"format": ' + "1" * 5000 + "}"])
def test_a_description_that_json_cannot_hold_is_refused(weights: Path, header: str) -> None:
    tensors, _ = contents(weights)
    rewrite(weights, tensors, header)
    with pytest.raises(CheckpointError, match="not JSON"):
        load_checkpoint(weights)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64])
def test_types_that_are_not_read_are_refused_by_name(weights: Path, dtype: torch.dtype) -> None:
    tensors, description = contents(weights)
    rewrite(weights, {**tensors, HEAD: tensors[HEAD].to(dtype)}, description)
    with pytest.raises(CheckpointError, match=rf"'{HEAD}' has the type (F8|C64)"):
        load_checkpoint(weights)


@pytest.mark.parametrize(
    "settings",
    [
        {"dim": 20_000},
        {"dim": 100_000, "feedforward": 100_000},
        {"blocks": 10**6},
        {"blocks": 1000},
        {"blocks": 10**400},
        {"sigma": 1e9},
        {"sigma": 10**400},
        {"radial_functions": 10**9},
        {"n_targets": 10**9},
        {"heads": 2.5},
        {"blocks": [1]},
        {"frame_blocks": 3},
    ],
)
def test_forged_settings_are_refused_before_a_model_is_built(
    weights: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors, description = contents(weights)
    description["config"].update(settings)
    rewrite(weights, tensors, description)
    devices = []

    def build(*given: Any) -> Any:
        devices.append(torch.get_default_device().type)
        return build_model(*given)

    monkeypatch.setattr(checkpoint, "build_model", build)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_checkpoint(weights)
    assert devices == ["meta"]


def test_every_flipped_bit_is_noticed(weights: Path) -> None:
    whole = weights.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    header = whole[8 : 8 + size]
    means = header.index(b'mean\\": -1.0') + len(b'mean\\": -')
    generator = random.Random(0)
    for place in [8 + means, *(generator.randrange(8 + size, len(whole)) for _ in range(50))]:
        changed = bytearray(whole)
        changed[place] ^= 1 << generator.randrange(3)
        weights.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"does not agree with the hash|NaN or infinite"):
            load_checkpoint(weights)


def test_a_file_without_a_hash_is_read(weights: Path) -> None:
    tensors, description = contents(weights)
    del description[HASH_KEY]
    rewrite(weights, tensors, description)
    assert load_checkpoint(weights).targets == TARGETS


def test_what_does_not_fit_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="1 targets do not fit 2"):
        save_model(path, model_with_seed(), TARGETS[:1], {})
    with pytest.raises(CheckpointError, match="Linear is not an architecture"):
        save_model(path, nn.Linear(1, 1), [], {})
    with pytest.raises(TypeError):
        save_model(path, model_with_seed(), TARGETS, {"tensor": torch.zeros(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failure_while_writing_leaves_the_old_file(
    weights: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    old = weights.read_bytes()

    def fail(*args: Any) -> None:
        raise error

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), fail)
    with pytest.raises(type(error)):
        save_model(weights, model_with_seed(1), TARGETS, {})
    assert weights.read_bytes() == old
    assert [path.name for path in weights.parent.iterdir()] == [weights.name]


def test_a_process_killed_while_writing_leaves_the_old_file(weights: Path) -> None:
    old = weights.read_bytes()
    script = (
        "import os, sys; from pathlib import Path; from crystalformers.files import write_atomically\n"
        "os.fsync = lambda number: os._exit(9)\n"
        "write_atomically(Path(sys.argv[1]), b'new' * 1000)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(weights)], check=False)
    assert done.returncode == 9
    assert weights.read_bytes() == old
    load_checkpoint(weights)


def test_folders_are_made_and_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]
