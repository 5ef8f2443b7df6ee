"""The authors' files: what is refused, in words that help, and that no code in them runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from paper_files import FIRST_PAPER, SECOND_PAPER, SMALL, lightning, state, written
from safetensors.torch import save_file
from torch import Tensor, nn

from crystalformers.errors import CheckpointError
from crystalformers.paper_checkpoints import read_paper_checkpoint
from crystalformers.prediction.loading import load_model


class TestRefusing:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"pooling": "max"}, "pooling = 'max' is not supported, only 'avr' is"),
            ({"norm_type": "bn"}, "norm_type = 'bn'"),
            ({"pre_pooling_op": "w+bn+relu"}, "pre_pooling_op"),
            ({"use_cgcnn_feat": True}, "use_cgcnn_feat = True"),
            ({"exclude_self": True}, "exclude_self = True"),
            ({"value_pe_condproj": "ij"}, "value_pe_condproj = 'ij'"),
            ({"value_pe_headed": False}, "value_pe_headed"),
            ({"norm_func_mode": 3}, "norm_func_mode = 3"),
            ({"gauss_state": "x"}, "gauss_state = 'x'"),
            ({"normalize_gauss": False}, "normalize_gauss"),
            ({"t_fixup_init": False}, "t_fixup_init"),
            ({"t_activation": "gelu"}, "t_activation = 'gelu'"),
            ({"value_pe_wave_real": 4}, "value_pe_wave_real"),
            ({"value_pe_dist_reci": 64}, "value_pe_dist_reci"),
            ({"k_dim": 32}, "k_dim = 32"),
            ({"positive_func": "softplus=1"}, "positive_func = 'softplus=1' is not supported, only 'elu=...' is"),
            ({"positive_func": "elu=x"}, "positive_func"),
            ({"domain": "RECI"}, "domain = 'RECI'"),
            ({"domain": "reci-real"}, "domain = 'reci-real'"),
            ({"domain": ["real"]}, "domain"),
            ({"embedding_dim": [8, 8]}, r"embedding_dim = \[8, 8\]"),
            ({"embedding_dim": 8}, "embedding_dim = 8"),
            ({"scale_real": [1.4, 2.0]}, r"scale_real = \[1.4, 2.0\] is not supported, only one value for all blocks"),
            ({"scale_real": []}, "scale_real"),
            ({"scale_real": "wide"}, "scale_real = 'wide' is not supported, only numbers are"),
            ({"domain": "multihead", "gauss_lb_reci": 0.4}, "gauss_lb_reci = 0.4"),
            ({"num_layers": "2"}, "num_layers = '2' is not supported, only whole numbers are"),
            ({"num_layers": 0}, "blocks = 0"),
            ({"head_num": 3}, "multiple of heads"),
            ({"targets": []}, "targets"),
            ({"targets": None}, "targets"),
            ({"targets": {"a": 1}}, "'targets' is neither a number nor a text"),
            ({"occupancy": "mixed"}, "occupancy = 'mixed' is not supported, since this version does not know it"),
        ],
    )
    def test_hyper_parameters_of_another_model(self, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
        path = tmp_path / "a.ckpt"
        torch.save(lightning(FIRST_PAPER | changes, state(FIRST_PAPER)), path)
        with pytest.raises(CheckpointError, match=words) as caught:
            read_paper_checkpoint(path)
        assert caught.value.where == str(path)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"cos_abs": 1}, "cos_abs = 1 is not supported, only 0 is"),
            ({"frame_method": "max_wo_orthogonal"}, "frame_method = 'max_wo_orthogonal'"),
            ({"frame_method": "no"}, "frame_method = 'no'"),
            ({"domain": "multihead"}, "only 'real' is with frames"),
            ({"value_pe_angle_real": 1}, "angular_functions must be at least 2"),
        ],
    )
    def test_frames_of_another_model(self, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
        path = tmp_path / "a.ckpt"
        torch.save(lightning(SECOND_PAPER | changes, state(SECOND_PAPER)), path)
        with pytest.raises(CheckpointError, match=words):
            read_paper_checkpoint(path)

    @pytest.mark.parametrize("name", ["pooling", "num_layers", "value_pe_dist_real", "value_pe_width_scale", "targets"])
    def test_a_missing_hyper_parameter(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "a.ckpt"
        torch.save(lightning({k: v for k, v in FIRST_PAPER.items() if k != name}, state(FIRST_PAPER)), path)
        with pytest.raises(CheckpointError, match=r"hyper-parameter '\w+' is missing"):
            read_paper_checkpoint(path)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda t: t.pop("mlp.3.bias"), "'mlp.3.bias' is missing"),
            (lambda t: t.pop("input_embeddings.weight"), "not a model of Crystalformer's authors"),
            (lambda t: t.pop("encoder.layers.0.self_attn.pe_dist_proj"), "pe_dist_proj' is missing"),
            (lambda t: t.update({"mlp.4.bias": torch.zeros(1)}), "'mlp.4.bias' is not part of the model"),
            (lambda t: t.update({"encoder.layers.0.norm1.weight": torch.ones(8)}), "norm1.weight' is not part"),
            (lambda t: t.update({"encoder.layers.2.linear1.bias": torch.ones(8)}), "file holds 3 blocks.* say 2"),
            (lambda t: t.update({"mlp.0.bias": torch.zeros(9)}), r"'mlp.0.bias' has shape \(9,\), expected \(8,\)"),
            (lambda t: t.update({"input_embeddings.weight": torch.zeros(8, 92)}), r"shape \(8, 92\)"),
            (lambda t: t.update({"mlp.0.bias": torch.full((8,), torch.nan)}), "'mlp.0.bias' holds NaN"),
        ],
    )
    def test_tensors_of_another_model(
        self, tmp_path: Path, change: Callable[[dict[str, Tensor]], object], words: str
    ) -> None:
        path, weights = tmp_path / "a.pt", state(FIRST_PAPER)
        change(weights)
        torch.save(weights, path)
        with pytest.raises(CheckpointError, match=words):
            read_paper_checkpoint(path, SMALL)

    def test_other_content(self, tmp_path: Path) -> None:
        path, whole = tmp_path / "a.ckpt", lightning(FIRST_PAPER, state(FIRST_PAPER))
        tensors = whole["state_dict"]
        for content, words in (
            ([1, 2], "holds a list"),
            ({}, "no tensors"),
            ({"state_dict": 3}, "no tensors"),
            ({"weights": state(FIRST_PAPER)}, "entry 'weights' is not a tensor"),
            (whole | {"hyper_parameters": [1]}, "hyper-parameters are a list"),
            (whole | {"state_dict": {**tensors, "teacher.weight": torch.zeros(1)}}, "'teacher.weight' is not part"),
            (whole | {"state_dict": {**tensors, "target_mean": torch.zeros(2)}}, "target_mean and target_std"),
            (whole | {"state_dict": {**tensors, "target_std": torch.zeros(1)}}, "std positive"),
            (
                {f"{prefix}.{name}": tensor for prefix in "ab" for name, tensor in state(FIRST_PAPER).items()},
                "holds 2 models",
            ),
        ):
            torch.save(content, path)
            with pytest.raises(CheckpointError, match=words):
                read_paper_checkpoint(path, SMALL)

    @pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.safetensors"])
    @pytest.mark.parametrize("keep", [0, 3, 100, 0.5, 0.99])
    def test_truncated_files(self, tmp_path: Path, name: str, keep: float) -> None:
        path = tmp_path / name
        if name == "a.safetensors":
            save_file(state(FIRST_PAPER), path)
        else:
            written(path, FIRST_PAPER)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(keep * len(whole) if 0 < keep < 1 else keep)])
        with pytest.raises(CheckpointError, match=rf"{name}.*truncated"):
            read_paper_checkpoint(path)
        with pytest.raises(CheckpointError, match=rf"{name}.*truncated"):
            load_model(path)

    def test_a_damaged_pickle(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.ckpt", FIRST_PAPER)
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        for at in (0, 10, 200):
            with zipfile.ZipFile(path, "w") as archive:
                for name, content in entries.items():
                    bad = content[:at] + b"\xff" + content[at + 1 :] if name.endswith("data.pkl") else content
                    archive.writestr(name, bad)
            with pytest.raises(CheckpointError, match=r"a\.ckpt"):
                read_paper_checkpoint(path)

    def test_no_file(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.ckpt", tmp_path):
            with pytest.raises(CheckpointError, match="no such weight file"):
                read_paper_checkpoint(path)


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


class TestCodeInPickles:
    @pytest.mark.parametrize("name", ["a.ckpt", "a.pt", "a.pth", "a.bin"])
    @pytest.mark.parametrize("place", ["hyper_parameters", "state_dict", "callbacks", "whole"])
    def test_it_never_runs(self, tmp_path: Path, name: str, place: str) -> None:
        path, sprung = tmp_path / name, tmp_path / "sprung"
        whole = lightning(FIRST_PAPER, state(FIRST_PAPER))
        content: Any = Trap(sprung) if place == "whole" else whole
        if place != "whole":
            whole[place] = {**whole[place], "trap": Trap(sprung)}
        torch.save(content, path)
        for read in (read_paper_checkpoint, load_model):
            with pytest.raises(CheckpointError, match=rf"{name}: refused.*would call '.*mkdir'. Nothing of it was run"):
                read(path)
        assert not sprung.exists()
        torch.load(path, weights_only=False)
        assert sprung.exists(), "the trap itself does not work"

    @pytest.mark.parametrize("form", ["pickle", "legacy", "zip"])
    def test_nor_in_other_forms_of_pickle(self, tmp_path: Path, form: str) -> None:
        path, sprung = tmp_path / "a.ckpt", tmp_path / "sprung"
        if form == "pickle":
            path.write_bytes(pickle.dumps(Trap(sprung)))
        elif form == "legacy":
            torch.save({"state_dict": Trap(sprung)}, path, _use_new_zipfile_serialization=False)
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("data.pkl", pickle.dumps(Trap(sprung)))
        with pytest.raises(CheckpointError, match=r"a\.ckpt"):
            load_model(path)
        assert not sprung.exists()

    @pytest.mark.filterwarnings("ignore:.*torch.jit")
    def test_nor_a_compiled_module(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pt"
        torch.jit.script(nn.Linear(2, 2)).save(path)
        with pytest.raises(CheckpointError, match=r"not one that torch\.save wrote"):
            load_model(path)
