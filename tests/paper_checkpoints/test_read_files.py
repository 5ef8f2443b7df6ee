"""The authors' files: what is read of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import read_crystals
from paper_files import (
    FIRST_PAPER,
    SECOND_PAPER,
    SMALL,
    SMALL_FRAMED,
    VARIANTS,
    lightning,
    rock_salt_output,
    state,
    written,
)
from safetensors.torch import load_file, save_file
from samples import rock_salt, tiny_model
from torch import Tensor

from crystalformers.errors import CheckpointError, ConfigError
from crystalformers.paper_checkpoints import read_paper_checkpoint
from crystalformers.prediction.loading import load_model
from crystalformers.target import Target

ENERGY = Target("formation_energy", "eV/atom", "per_atom")


class TestReading:
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_every_variant_is_read_with_its_settings(self, tmp_path: Path, variant: str) -> None:
        params, config = VARIANTS[variant]
        found = read_paper_checkpoint(written(tmp_path / "a.ckpt", params))
        assert found.model.config == config
        assert found.params == params
        assert not found.model.training
        assert bool(found.model.calibrated)

    def test_tensors_land_where_they_mean_the_same(self, tmp_path: Path) -> None:
        theirs, model = state(SECOND_PAPER), read_paper_checkpoint(written(tmp_path / "a.ckpt", SECOND_PAPER)).model
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
            read_paper_checkpoint(path)
        found = read_paper_checkpoint(path, SMALL)
        assert (found.targets, found.params) == ((), None)
        assert torch.equal(found.model.state_dict()["head.0.bias"], theirs["mlp.0.bias"])

    def test_the_number_of_outputs_comes_from_the_tensors(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pt"
        torch.save(state(FIRST_PAPER | {"targets": ["a", "b", "c"]}), path)
        assert read_paper_checkpoint(path, SMALL).model.config.n_targets == 3

    def test_the_average_is_taken_once_it_had_begun(self, tmp_path: Path) -> None:
        path, last, average = tmp_path / "a.ckpt", state(FIRST_PAPER, 1), state(FIRST_PAPER, 2)

        def bias(weights: Any) -> Tensor:
            return read_paper_checkpoint(path, weights=weights).model.state_dict()["head.0.bias"]

        torch.save(lightning(FIRST_PAPER, last, average), path)
        for weights, expected in (("auto", average), ("average", average), ("last", last)):
            assert torch.equal(bias(weights), expected["mlp.0.bias"]), weights
        assert "model.*: second set of weights; taken are swa_model.module.*" in read_paper_checkpoint(path).unmapped[0]
        torch.save(lightning(FIRST_PAPER, last, average, steps=0), path)
        for weights in ("auto", "last"):
            assert torch.equal(bias(weights), last["mlp.0.bias"]), weights
        assert read_paper_checkpoint(path).unmapped[0].startswith("swa_model.module.*: second set of weights")
        with pytest.raises(CheckpointError, match="had not begun; take weights='last'"):
            bias("average")

    def test_what_is_not_mapped_is_said(self, tmp_path: Path) -> None:
        def notes(params: dict[str, Any]) -> str:
            return "\n".join(read_paper_checkpoint(written(tmp_path / "a.ckpt", params)).unmapped)

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
        found = read_paper_checkpoint(path)
        assert not found.model.calibrated
        assert any(note.startswith("gauss_scale: not set") for note in found.unmapped)
        with pytest.raises(CheckpointError, match="never trained"):
            load_model(path)
        weights["encoder.layers.0.self_attn.gauss_scale"] = torch.tensor([4.0, 0.1])
        torch.save(lightning(FIRST_PAPER, weights), path)
        with pytest.raises(CheckpointError, match="width statistics of block 1 are not set, others are"):
            read_paper_checkpoint(path)

    def test_a_preset_is_checked_against_the_file(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.ckpt", SECOND_PAPER)
        assert read_paper_checkpoint(path, replace(SMALL_FRAMED, tie_width=0.1)).model.config.tie_width == 0.1
        with pytest.raises(CheckpointError, match=r"the file says angle_coefficient = 6\.0, the preset 1\.0"):
            read_paper_checkpoint(path, replace(SMALL_FRAMED, angle_coefficient=1.0))
        with pytest.raises(ConfigError, match="did you mean 'crystalframer-"):
            read_paper_checkpoint(path, "crystalframer-lite")


class TestTargets:
    def test_those_of_their_data_sets_are_known(self, tmp_path: Path) -> None:
        both = FIRST_PAPER | {"targets": ["formation_energy", "opt_bandgap"]}
        assert read_paper_checkpoint(written(tmp_path / "a.ckpt", both)).targets == (
            Target("formation_energy", "eV/atom", "per_atom", mean=-1.0, std=2.0),
            Target("opt_bandgap", "eV", mean=-1.0, std=2.0),
        )

    @pytest.mark.parametrize("changes", [{"target_set": None}, {"target_set": "mine"}, {"targets": "hardness"}])
    def test_others_must_be_given(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        path = written(tmp_path / "a.ckpt", FIRST_PAPER | changes)
        assert read_paper_checkpoint(path).targets == ()
        with pytest.raises(CheckpointError, match=r"in which unit; give targets=\[Target"):
            load_model(path)
        given = load_model(path, targets=[Target("hardness", "GPa")]).targets
        assert given == (Target("hardness", "GPa", mean=-1.0, std=2.0),)

    def test_those_given_must_fit_the_file(self, tmp_path: Path) -> None:
        path = written(tmp_path / "a.ckpt", FIRST_PAPER)
        same = replace(ENERGY, mean=-1.0, std=2.0)
        assert read_paper_checkpoint(path, targets=[same]).targets == (same,)
        with pytest.raises(
            CheckpointError, match="formation_energy: the file says mean -1 and std 2; leave them out"
        ) as caught:
            read_paper_checkpoint(path, targets=[replace(ENERGY, mean=3.0)])
        assert (caught.value.where, caught.value.remedy) == (f"{path}: formation_energy", "leave them out")
        with pytest.raises(CheckpointError, match="2 targets do not fit 1"):
            read_paper_checkpoint(path, targets=[ENERGY, ENERGY])

    def test_a_state_dict_takes_them_as_given(self, tmp_path: Path) -> None:
        path, scaled = tmp_path / "a.pt", replace(ENERGY, mean=3.0, std=0.5)
        torch.save(state(FIRST_PAPER), path)
        model = load_model(path, preset=SMALL, targets=[scaled])
        assert model.targets == (scaled,)
        assert model.predict(rock_salt())[0].values["formation_energy"] == pytest.approx(
            float(0.5 * rock_salt_output(model.network)[0] + 3.0), rel=1e-3
        )
        with pytest.raises(CheckpointError, match="give targets="):
            load_model(path, preset=SMALL)


class TestLoadModel:
    def test_a_checkpoint_predicts(self, tmp_path: Path) -> None:
        model = load_model(written(tmp_path / "a.ckpt", SECOND_PAPER), tolerance=1e-3)
        expected = 2.0 * float(rock_salt_output(model.network)[0]) - 1.0
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
