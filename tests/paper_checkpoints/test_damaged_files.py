"""Damaged and forged checkpoints of the authors: refused by name, before they take time or memory."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from paper_files import FIRST_PAPER, SMALL, lightning, state, written
from torch import Tensor

from crystalformers.errors import CheckpointError
from crystalformers.models import crystalformer
from crystalformers.paper_checkpoints import read_paper_checkpoint
from crystalformers.prediction.loading import load_model
from crystalformers.target import Target

NAME = "model.mlp.0.bias"


def refused(path: Path, words: str) -> None:
    for read in (read_paper_checkpoint, load_model):
        with pytest.raises(CheckpointError, match=words) as caught:
            read(path)
        assert str(path) in str(caught.value)


def rewrite(path: Path, how: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("entry", [b"PK\x01\x02", b"PK\x05\x06"])
def test_a_damaged_archive_is_refused(entry: bytes, tmp_path: Path) -> None:
    path = written(tmp_path / "x.ckpt", FIRST_PAPER)
    content = path.read_bytes()
    for changed in (content.replace(entry, b"XX\x01\x02", 1), content[: content.rindex(entry) + 10]):
        path.write_bytes(changed)
        refused(path, "not a whole file of torch.save|cannot be read|not one that torch.save wrote")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "x.ckpt", FIRST_PAPER)
    rewrite(path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 9] |= 0x08  # this name is UTF-8
    content[entry + 46] = 0xFF
    path.write_bytes(content)
    refused(path, "not a whole file of torch.save")


def test_a_compressed_archive_is_refused_before_it_unfolds(tmp_path: Path) -> None:
    path = written(tmp_path / "x.ckpt", FIRST_PAPER)
    rewrite(path, zipfile.ZIP_DEFLATED)
    refused(path, "a compressed zip archive, which torch.save never writes")


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.zeros(8).to(torch.float8_e4m3fn), f"tensor '{NAME[6:]}' has the type float8_e4m3fn, which is not read"),
        (torch.zeros(8, dtype=torch.complex64), f"tensor '{NAME[6:]}' has the type complex64, which is not read"),
        (torch.zeros(8, dtype=torch.int64), f"tensor '{NAME[6:]}' has the type int64, which is not read"),
        (torch.zeros(1).expand(10**6, 10**6), f"tensor '{NAME}' has more numbers than are stored for it"),
        (torch.empty(10**12, device="meta"), f"tensor '{NAME}' has more numbers than are stored for it"),
    ],
)
def test_tensors_that_are_not_read_are_named(tensor: Tensor, words: str, tmp_path: Path) -> None:
    content = lightning(FIRST_PAPER, state(FIRST_PAPER))
    content["state_dict"] = {
        name.replace("swa_model.module", "model"): value for name, value in content["state_dict"].items()
    } | {NAME: tensor}
    content["state_dict"].pop("swa_model.n_averaged")
    torch.save(content, tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", words)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_dim": 20_000, "embedding_dim": [20_000]},
        {"num_layers": 10**6},
        {"num_layers": 900},
        {"ff_dim": 10**30},
        {"scale_real": [10**400]},
        {"scale_real": [float("nan")]},
        {"value_pe_dist_max": 1e300},
        {"gauss_lb_real": 10**400},
        {"targets": ["e_form"] * 100_000},
    ],
)
def test_forged_settings_are_refused_before_a_model_is_built(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    original = crystalformer.Crystalformer.__init__

    def init(model: Any, config: Any) -> None:
        built.append(torch.get_default_device().type)
        original(model, config)

    monkeypatch.setattr(crystalformer.Crystalformer, "__init__", init)
    torch.save(lightning(FIRST_PAPER | changes, state(FIRST_PAPER)), tmp_path / "x.ckpt")
    refused(tmp_path / "x.ckpt", re.escape("x.ckpt"))
    assert set(built) <= {"meta"}


def test_a_truncated_state_dict_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save(state(FIRST_PAPER), path)
    whole = path.read_bytes()
    for size in range(0, len(whole), len(whole) // 7):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"not a whole file of torch\.save"):
            load_model(path, preset=SMALL, targets=[Target("energy", "eV")])
