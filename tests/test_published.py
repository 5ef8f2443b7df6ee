"""The authors' files: what is read of them, what is refused, that no code in them runs, and the way back."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import read_crystals, read_oracle
from safetensors.torch import load_file, save_file
from samples import rock_salt, tiny_model
from torch import Tensor, nn

from crystalformers.checkpoint import save_model
from crystalformers.crystal import CrystalBatch
from crystalformers.errors import CheckpointError, ConfigError
from crystalformers.images import with_images
from crystalformers.models.crystalformer import Crystalformer, CrystalformerConfig
from crystalformers.models.presets import preset
from crystalformers.predict import load_model
from crystalformers.published import read_published, save_published
from crystalformers.target import Target

ENERGY = Target("formation_energy", "eV/atom", "per_atom")

TRAINED = {
    "seed": 123, "experiment_name": "code_v5", "save_path": "result", "optimizer": "adamw", "lr": 5e-4,
    "lr_sch": "inverse_sqrt_nowarmup", "sch_params": [4000.0], "adam_betas": [0.9, 0.98], "weight_decay": 1e-5,
    "clip_norm": 1.0, "clip_grad": 0.0, "batch_size": 128, "n_epochs": 500, "loss_func": "L1", "freeze_bn_epochs": 0,
    "train_filter_max": 0, "train_filter_min": 0, "train_percent_check": 1.0, "val_percent_check": 1.0,
    "model_checkpoint_save_top_k": 1, "pretrained_model": None, "num_workers": 0, "normalize_targets": "scale_bias",
    "swa_epochs": 50, "scale_grad": 0.0, "use_cuda_code": True, "ddp": False, "reproduciblity_state": 0,
    "param_file": "default.json",
}  # fmt: skip
BUILT = {
    "encoder_name": "latticeformer", "num_layers": 2, "lattice_range": 2, "adaptive_cutoff_sigma": -3.5,
    "minimum_range": True, "model_dim": 8, "k_dim": 0, "v_dim": 0, "head_num": 2, "ff_dim": 12, "t_fixup_init": True,
    "embedding_dim": [8], "t_activation": "relu", "domain": "real", "gauss_lb_real": 0.5, "gauss_lb_reci": 0.5,
    "gauss_state": "q", "normalize_gauss": True, "use_cgcnn_feat": False, "scale_real": [1.4], "scale_reci": [2.2],
    "value_pe_dist_real": 6, "value_pe_dist_reci": 0, "value_pe_wave_real": 0, "value_pe_wave_reci": 0,
    "value_pe_dist_max": -10.0, "pooling": "avr", "pre_pooling_op": "no", "norm_type": "no", "dropout": 0.0,
    "targets": "formation_energy", "target_set": "jarvis__dft_3d_2021",
}  # fmt: skip
FIRST_PAPER = TRAINED | BUILT | {
    "positive_func": "elu=0.1", "value_pe_width_scale": 1.0, "value_pe_headed": True, "value_pe_condproj": "no",
    "exclude_self": False, "norm_func_mode": 0, "use_low_memory": True,
}  # fmt: skip
SECOND_PAPER = TRAINED | BUILT | {
    "positive_func_beta": 0.1, "value_pe_dist_coef": 1.5, "value_pe_dist_wscale": 1.0, "frame_method": "max",
    "cos_abs": 0, "value_pe_angle_real": 4, "value_pe_angle_wscale": 1.0, "value_pe_angle_coef": 6.0,
    "symm_break_noise": 1e-5,
}  # fmt: skip

SMALL = CrystalformerConfig(dim=8, heads=2, blocks=2, feedforward=12, radial_functions=6)
SMALL_FRAMED = replace(
    SMALL, frame="max", angular_functions=4, angular_width=1.0, distance_coefficient=1.5, angle_coefficient=6.0
)


def state(params: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Random weights in the authors' names and layouts, written from their description, not from our code."""
    dim, heads, hidden, domain = params["model_dim"], params["head_num"], params["ff_dim"], params["domain"]
    outputs = 1 if isinstance(params["targets"], str) else len(params["targets"])
    shapes: dict[str, tuple[int, ...]] = {
        "input_embeddings.weight": (dim, 98),
        "mlp.0.weight": (dim, dim),
        "mlp.0.bias": (dim,),
        "mlp.3.weight": (outputs, dim),
        "mlp.3.bias": (outputs,),
    }
    for i in range(params["num_layers"]):
        layer = f"encoder.layers.{i}."
        shapes |= {f"{layer}self_attn.{x}_proj_weight": (dim, dim) for x in "qkv"}
        shapes |= {
            f"{layer}self_attn.gauss_scale": (2,),
            f"{layer}self_attn.atten_scale": (1,),
            f"{layer}self_attn.in_proj_bias": (3 * dim,),
            f"{layer}self_attn.lattice_pos_weights": (dim,),
            f"{layer}self_attn.out_proj.weight": (dim, dim),
            f"{layer}self_attn.out_proj.bias": (dim,),
            f"{layer}linear1.weight": (hidden, dim),
            f"{layer}linear1.bias": (hidden,),
            f"{layer}linear2.weight": (dim, hidden),
            f"{layer}linear2.bias": (dim,),
        }
        reciprocal = domain == "reci" or (domain == "real-reci" and i % 2)
        if params["value_pe_dist_real"] and not reciprocal:
            shapes[f"{layer}self_attn.pe_dist_proj"] = (1, heads, dim // heads, params["value_pe_dist_real"])
        if params.get("value_pe_angle_real"):
            angular = (1, heads, dim // heads, params["value_pe_angle_real"])
            shapes |= {f"{layer}self_attn.proj_angle{axis}": angular for axis in (1, 2, 3)}
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return tensors | {name: torch.tensor([4.0, 0.25]) for name in tensors if name.endswith("gauss_scale")}


def lightning(
    params: dict[str, Any], weights: dict[str, Tensor], average: dict[str, Tensor] | None = None, steps: int = 100
) -> dict[str, Any]:
    """What Lightning writes for the authors' module, training state included."""
    tensors = OrderedDict({f"model.{name}": tensor for name, tensor in weights.items()})
    tensors["swa_model.n_averaged"] = torch.tensor(steps)
    tensors.update({f"swa_model.module.{name}": tensor for name, tensor in (average or weights).items()})
    outputs = len(weights["mlp.3.bias"])
    tensors |= {"target_std": torch.full((outputs,), 2.0), "target_mean": torch.full((outputs,), -1.0)}
    moments = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2), "exp_avg_sq": torch.zeros(2)}
    return {
        "epoch": 499,
        "global_step": 1000,
        "pytorch-lightning_version": "2.1.2",
        "state_dict": tensors,
        "loops": {"fit_loop": {"epoch_progress": {"total": {"ready": 500}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val/loss'}": {"best_model_score": torch.tensor(0.1)}},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"lr": 5e-4, "betas": (0.9, 0.98)}]}],
        "lr_schedulers": [{"base_lrs": [5e-4], "lr_lambdas": [None]}],
        "hparams_name": "params",
        "hyper_parameters": params,
    }


def written(path: Path, params: dict[str, Any], **changes: Any) -> Path:
    torch.save(lightning(params, state(params)) | changes, path)
    return path


def run(model: Crystalformer) -> Tensor:
    batch = CrystalBatch.from_crystals([rock_salt("Na", "Cl")])
    batch = with_images(batch, model.radius(1e-3), directions=model.needs_directions).to(model.embedding.weight.dtype)
    with torch.no_grad():
        return model(batch)


VARIANTS: dict[str, tuple[dict[str, Any], CrystalformerConfig]] = {
    "real": (FIRST_PAPER, SMALL),
    "simplified": (FIRST_PAPER | {"value_pe_dist_real": 0}, replace(SMALL, radial_functions=0)),
    "dual": (FIRST_PAPER | {"domain": "multihead"}, replace(SMALL, space="dual")),
    "alternating": (FIRST_PAPER | {"domain": "real-reci"}, replace(SMALL, space="alternating")),
    "reciprocal": (FIRST_PAPER | {"domain": "reci"}, replace(SMALL, space="reciprocal", radial_functions=0)),
    "framed": (SECOND_PAPER, SMALL_FRAMED),
    "weighted PCA": (SECOND_PAPER | {"frame_method": "weighted_pca"}, replace(SMALL_FRAMED, frame="weighted-pca")),
    "static local": (SECOND_PAPER | {"frame_method": "max_static"}, replace(SMALL_FRAMED, frame="static-local")),
    "PCA": (SECOND_PAPER | {"frame_method": "pca"}, replace(SMALL_FRAMED, frame="pca")),
    "lattice": (SECOND_PAPER | {"frame_method": "lattice"}, replace(SMALL_FRAMED, frame="lattice")),
    "frames off": (SECOND_PAPER | {"value_pe_angle_real": 0}, SMALL),
    "five blocks": (FIRST_PAPER | {"num_layers": 5}, replace(SMALL, blocks=5)),
    "one block": (FIRST_PAPER | {"num_layers": 1}, replace(SMALL, blocks=1)),
    "other numbers": (
        FIRST_PAPER
        | {"scale_real": 1.5, "positive_func": "elu=0.2", "value_pe_dist_max": 12.0, "value_pe_width_scale": 2.0},
        replace(SMALL, sigma=1.5, sigma_slope=0.2, radial_maximum=12.0, radial_width=2.0),
    ),
    "two targets": (FIRST_PAPER | {"targets": ["formation_energy", "opt_bandgap"]}, replace(SMALL, n_targets=2)),
}


class TestReading:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_every_variant_is_read_with_its_settings(self, tmp_path: Path, variant: str) -> None:
        params, config = VARIANTS[variant]
        found = read_published(written(tmp_path / "a.ckpt", params))
        assert found.model.config == config
        assert found.params == params
        assert not found.model.training
        assert bool(found.model.calibrated)

    def test_tensors_land_where_they_mean_the_same(self, tmp_path: Path) -> None:
        theirs, model = state(SECOND_PAPER), read_published(written(tmp_path / "a.ckpt", SECOND_PAPER)).model
        ours, layer, block = model.state_dict(), "encoder.layers.1.", "blocks.1."
        attention, own = layer + "self_attn.", block + "attention."
        assert torch.equal(ours["embedding.weight"], theirs["input_embeddings.weight"].T)
        assert torch.equal(ours[own + "key.weight"], theirs[attention + "k_proj_weight"])
        assert torch.equal(ours[own + "key.bias"], theirs[attention + "in_proj_bias"][8:16])
        assert torch.equal(ours[own + "width"], theirs[attention + "lattice_pos_weights"].view(2, 4))
        assert torch.equal(ours[own + "value_encoding"], theirs[attention + "pe_dist_proj"][0])
        assert torch.equal(ours[own + "angular_encoding"][2], theirs[attention + "proj_angle3"][0])
        assert torch.equal(ours[block + "expand.weight"], theirs[layer + "linear1.weight"])
        assert torch.equal(ours["head.2.bias"], theirs["mlp.3.bias"])
        # Theirs: x = (q.w + 0.25) * 4; ours: x = (q.w - mean) / std.
        assert (float(ours[own + "width_mean"]), float(ours[own + "width_std"])) == (-0.25, 0.25)

    @pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
    @pytest.mark.parametrize("prefix", ["", "model.", "module.", "net.model.", "swa_model.module."])
    def test_state_dicts_with_any_prefix_need_a_preset(self, tmp_path: Path, suffix: str, prefix: str) -> None:
        path, theirs = tmp_path / f"a.{suffix}", state(FIRST_PAPER)
        tensors = {prefix + name: tensor for name, tensor in theirs.items()}
        if suffix == "safetensors":
            save_file(tensors, path)
        else:
            torch.save(tensors, path)
        with pytest.raises(CheckpointError, match=r"a\..*without hyper-parameters.*preset='crystalformer'"):
            read_published(path)
        found = read_published(path, SMALL)
        assert (found.targets, found.params) == ((), None)
        assert torch.equal(found.model.state_dict()["head.0.bias"], theirs["mlp.0.bias"])

    def test_the_number_of_outputs_comes_from_the_tensors(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pt"
        torch.save(state(FIRST_PAPER | {"targets": ["a", "b", "c"]}), path)
        assert read_published(path, SMALL).model.config.n_targets == 3

    def test_the_average_is_taken_once_it_had_begun(self, tmp_path: Path) -> None:
        path, last, average = tmp_path / "a.ckpt", state(FIRST_PAPER, 1), state(FIRST_PAPER, 2)

        def bias(weights: Any) -> Tensor:
            return read_published(path, weights=weights).model.state_dict()["head.0.bias"]

        torch.save(lightning(FIRST_PAPER, last, average), path)
        for weights, expected in (("auto", average), ("average", average), ("last", last)):
            assert torch.equal(bias(weights), expected["mlp.0.bias"]), weights
        assert "model.*: second set of weights; taken are swa_model.module.*" in read_published(path).unmapped[0]
        torch.save(lightning(FIRST_PAPER, last, average, steps=0), path)
        for weights in ("auto", "last"):
            assert torch.equal(bias(weights), last["mlp.0.bias"]), weights
        assert read_published(path).unmapped[0].startswith("swa_model.module.*: second set of weights")
        with pytest.raises(CheckpointError, match="had not begun; take weights='last'"):
            bias("average")

    def test_what_is_not_mapped_is_said(self, tmp_path: Path) -> None:
        def notes(params: dict[str, Any]) -> str:
            return "\n".join(read_published(written(tmp_path / "a.ckpt", params)).unmapped)

        assert "atten_scale" in notes(FIRST_PAPER)
        assert "reciprocal" not in notes(FIRST_PAPER)
        assert "unused value encoding of reciprocal heads" in notes(FIRST_PAPER | {"domain": "multihead"})
        assert "farthest image" in notes(SECOND_PAPER | {"frame_method": "max_static"})
        assert "primitive cell" in notes(SECOND_PAPER | {"frame_method": "pca"})
        assert "frame_method" not in notes(SECOND_PAPER)
        assert "lattice_range = 4: images are chosen by a tolerance" in notes(FIRST_PAPER | {"lattice_range": 4})
        assert "dropout = 0.1" in notes(FIRST_PAPER | {"dropout": 0.1})

    @pytest.mark.parametrize("scale", [0.0, -1.0])
    def test_a_model_that_was_never_trained_is_not_calibrated(self, tmp_path: Path, scale: float) -> None:
        path, weights = tmp_path / "a.ckpt", state(FIRST_PAPER)
        weights |= {n: torch.tensor([scale, 0.1]) for n in weights if n.endswith("gauss_scale")}
        torch.save(lightning(FIRST_PAPER, weights), path)
        found = read_published(path)
        assert not found.model.calibrated
        assert any(note.startswith("gauss_scale: not set") for note in found.unmapped)
        with pytest.raises(CheckpointError, match="never trained"):
            load_model(path)
        weights["encoder.layers.0.self_attn.gauss_scale"] = torch.tensor([4.0, 0.1])
        torch.save(lightning(FIRST_PAPER, weights), path)
        with pytest.raises(CheckpointError, match="width statistics of block 1 are not set, others are"):
            read_published(path)

    def test_a_preset_is_checked_against_the_file(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.ckpt", SECOND_PAPER)
        assert read_published(path, replace(SMALL_FRAMED, tie_width=0.1)).model.config.tie_width == 0.1
        with pytest.raises(CheckpointError, match=r"the file says angle_coefficient = 6\.0, the preset 1\.0"):
            read_published(path, replace(SMALL_FRAMED, angle_coefficient=1.0))
        with pytest.raises(ConfigError, match="did you mean 'crystalframer-"):
            read_published(path, "crystalframer-lite")


class TestTargets:
    def test_those_of_their_data_sets_are_known(self, tmp_path: Path) -> None:
        both = FIRST_PAPER | {"targets": ["formation_energy", "opt_bandgap"]}
        assert read_published(written(tmp_path / "a.ckpt", both)).targets == (
            Target("formation_energy", "eV/atom", "per_atom", mean=-1.0, std=2.0),
            Target("opt_bandgap", "eV", mean=-1.0, std=2.0),
        )

    @pytest.mark.parametrize("changes", [{"target_set": None}, {"target_set": "mine"}, {"targets": "hardness"}])
    def test_others_must_be_given(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        path = written(tmp_path / "a.ckpt", FIRST_PAPER | changes)
        assert read_published(path).targets == ()
        with pytest.raises(CheckpointError, match=r"in which unit; give targets=\[Target"):
            load_model(path)
        given = load_model(path, targets=[Target("hardness", "GPa")]).targets
        assert given == (Target("hardness", "GPa", mean=-1.0, std=2.0),)

    def test_those_given_must_fit_the_file(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.ckpt", FIRST_PAPER)
        same = replace(ENERGY, mean=-1.0, std=2.0)
        assert read_published(path, targets=[same]).targets == (same,)
        with pytest.raises(CheckpointError, match="formation_energy: the file says mean -1 and std 2; leave them out"):
            read_published(path, targets=[replace(ENERGY, mean=3.0)])
        with pytest.raises(CheckpointError, match="2 targets do not fit 1"):
            read_published(path, targets=[ENERGY, ENERGY])

    def test_a_state_dict_takes_them_as_given(self, tmp_path: Path) -> None:
        path, scaled = tmp_path / "a.pt", replace(ENERGY, mean=3.0, std=0.5)
        torch.save(state(FIRST_PAPER), path)
        model = load_model(path, preset=SMALL, targets=[scaled])
        assert model.targets == (scaled,)
        assert model.predict(rock_salt())[0].values["formation_energy"] == pytest.approx(
            float(0.5 * run(model.network)[0] + 3.0), rel=1e-3
        )
        with pytest.raises(CheckpointError, match="give targets="):
            load_model(path, preset=SMALL)


class TestLoadModel:
    def test_a_checkpoint_predicts(self, tmp_path: Path) -> None:
        model = load_model(written(tmp_path / "a.ckpt", SECOND_PAPER), tolerance=1e-3)
        expected = 2.0 * float(run(model.network)[0]) - 1.0
        assert model.predict(rock_salt())[0].values["formation_energy"] == pytest.approx(expected, rel=1e-4)
        assert any("atten_scale" in note for note in model.card["unmapped"])
        assert model.card["params"]["frame_method"] == "max"

    def test_a_file_is_known_by_its_content(self, tmp_path: Path) -> None:
        path = written(tmp_path / "weights.bin", FIRST_PAPER)
        assert load_model(path).targets[0].name == "formation_energy"
        renamed = tmp_path / "model.safetensors"
        save_file(state(FIRST_PAPER), renamed)
        assert load_model(renamed, preset=SMALL, targets=[ENERGY]).targets == (ENERGY,)

    def test_our_own_files_take_no_preset(self, tmp_path: Path) -> None:
        path = tiny_model(tmp_path / "model.safetensors")
        load_model(path)
        with pytest.raises(ConfigError, match="leave out yours"):
            load_model(path, preset="crystalformer")
        with pytest.raises(ConfigError, match="leave out yours"):
            load_model(path, targets=[ENERGY])

    @pytest.mark.shared
    @pytest.mark.parametrize(
        ("name", "bound"),
        [("crystalformer-real", 1e-7), ("crystalformer-dual-space", 1e-7), ("crystalframer-max", 3e-3)],
    )
    def test_it_predicts_what_the_authors_predict(self, shared: Path, tmp_path: Path, name: str, bound: float) -> None:
        params = json.loads((shared / "oracle" / name / "config.json").read_text())["params"]
        weights = load_file(shared / "oracle" / name / "weights.safetensors")
        params |= {"target_set": "jarvis__megnet", "targets": "e_form"}
        torch.save(lightning(params, weights), tmp_path / "a.ckpt")
        model = load_model(tmp_path / "a.ckpt", dtype=torch.float64, tolerance=1e-9)
        crystals = read_crystals(shared)
        number = [crystal.name for crystal in crystals].index("triclinic_P1")
        expected = np.load(shared / "oracle" / name / "outputs_f64.npz")["pred"]
        found = model.predict(crystals[number])[0].values["e_form"]
        # Up to their truncation: of sums, and in framed models of Gaussians at four standard deviations.
        difference = abs(found - (2.0 * expected[number, 0] - 1.0)) / (2.0 * expected.std())
        print(f"{name}: {difference:.1e} of the spread")
        assert difference < bound


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
            read_published(path)
        assert "a.ckpt" in str(caught.value)

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
            read_published(path)

    @pytest.mark.parametrize("name", ["pooling", "num_layers", "value_pe_dist_real", "value_pe_width_scale", "targets"])
    def test_a_missing_hyper_parameter(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "a.ckpt"
        torch.save(lightning({k: v for k, v in FIRST_PAPER.items() if k != name}, state(FIRST_PAPER)), path)
        with pytest.raises(CheckpointError, match=r"hyper-parameter '\w+' is missing"):
            read_published(path)

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
            read_published(path, SMALL)

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
                read_published(path, SMALL)

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
            read_published(path)
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
                read_published(path)

    def test_no_file(self, tmp_path: Path) -> None:
        for path in (tmp_path / "none.ckpt", tmp_path):
            with pytest.raises(CheckpointError, match="no such weight file"):
                read_published(path)


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
        for read in (read_published, load_model):
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


class TestWriting:
    @pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors", "ckpt"])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_there_and_back(self, tmp_path: Path, variant: str, suffix: str) -> None:
        params, config = VARIANTS[variant]
        names = params["targets"] if isinstance(params["targets"], list) else [params["targets"]]
        targets = [Target(name, "eV", mean=-1.0, std=2.0) for name in names]
        model = read_published(written(tmp_path / "theirs.ckpt", params)).model
        path = tmp_path / f"ours.{suffix}"
        save_published(model, path, targets)
        again = read_published(path, None if suffix == "ckpt" else config, targets)
        assert again.model.config == config
        assert again.targets == tuple(targets)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(again.model.state_dict()[name], tensor, rtol=1e-6, atol=0)
        assert [entry.name for entry in tmp_path.iterdir() if "tmp" in entry.name] == []

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_names_layouts_and_numbers_are_theirs(self, tmp_path: Path, variant: str) -> None:
        params, config = VARIANTS[variant]
        theirs = state(params)
        save_published(read_published(written(tmp_path / "theirs.ckpt", params)).model, tmp_path / "ours.safetensors")
        ours = load_file(tmp_path / "ours.safetensors")
        assert ours.keys() == theirs.keys()
        for name, tensor in theirs.items():
            if name.endswith("atten_scale"):
                continue
            wanted = tensor
            if name.endswith("pe_dist_proj") and config.space == "dual":
                wanted = torch.cat([tensor[:, :1], torch.zeros_like(tensor[:, 1:])], dim=1)
            assert torch.equal(ours[name], wanted), name

    def test_a_model_of_ours_predicts_the_same_when_read_back(self, tmp_path: Path) -> None:
        torch.manual_seed(3)
        model = Crystalformer(SMALL_FRAMED)
        batch = with_images(CrystalBatch.from_crystals([rock_salt("K", "F")]), model.radius(1e-3), directions=True)
        model.calibrate(batch.to(torch.float32))
        save_published(model, tmp_path / "a.ckpt", [Target("my_property", "K", mean=5.0, std=0.1)])
        found = read_published(tmp_path / "a.ckpt", targets=[Target("my_property", "K")])
        assert (found.targets[0].mean, found.targets[0].std) == pytest.approx((5.0, 0.1))
        torch.testing.assert_close(run(found.model), run(model.eval()))

    def test_a_model_without_statistics_stays_without(self, tmp_path: Path) -> None:
        save_published(Crystalformer(SMALL), tmp_path / "a.pt")
        assert not read_published(tmp_path / "a.pt", SMALL).model.calibrated

    def test_published_models_travel_by_their_preset(self, tmp_path: Path) -> None:
        model = Crystalformer(preset("crystalframer-lightweight"))
        save_published(model, tmp_path / "a.safetensors")
        found = read_published(tmp_path / "a.safetensors", "crystalframer-lightweight").model
        assert torch.equal(found.state_dict()["head.0.weight"], model.state_dict()["head.0.weight"])
        with pytest.raises(
            CheckpointError, match=r"proj_angle1' has shape \(1, 8, 16, 16\), expected \(1, 8, 16, 64\)"
        ):
            read_published(tmp_path / "a.safetensors", "crystalframer")
        with pytest.raises(CheckpointError, match=r"file holds 4 blocks.* say 8"):
            read_published(tmp_path / "a.safetensors", "crystalframer-8")

    def test_theirs_becomes_ours(self, tmp_path: Path) -> None:
        found = read_published(written(tmp_path / "a.ckpt", SECOND_PAPER))
        save_model(tmp_path / "b.safetensors", found.model, found.targets, {})
        model = load_model(tmp_path / "b.safetensors", tolerance=1e-3)
        assert model.targets == found.targets
        torch.testing.assert_close(run(model.network), run(found.model))

    def test_what_their_code_cannot_express_is_refused(self, tmp_path: Path) -> None:
        framed = Crystalformer(replace(SMALL_FRAMED, space="dual"))
        with pytest.raises(CheckpointError, match="no frames in space 'dual'"):
            save_published(framed, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="name it"):
            save_published(Crystalformer(SMALL), tmp_path / "a.bin")
        with pytest.raises(CheckpointError, match="0 targets do not fit 1"):
            save_published(Crystalformer(SMALL), tmp_path / "a.ckpt")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
@pytest.mark.parametrize("name", ["crystalformer-alternating", "crystalframer-max-static"])
def test_the_authors_weights_come_back_unchanged(shared: Path, tmp_path: Path, name: str) -> None:
    theirs = load_file(shared / "oracle" / name / "weights.safetensors")
    save_published(read_oracle(shared, name).model, tmp_path / "ours.safetensors")
    for key, tensor in load_file(tmp_path / "ours.safetensors").items():
        if not key.endswith("atten_scale"):
            torch.testing.assert_close(tensor, theirs[key].double(), rtol=1e-15, atol=0)
