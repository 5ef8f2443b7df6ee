"""Models of this library as files of the authors, and back again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from oracle import read_oracle
from paper_files import SECOND_PAPER, SMALL, SMALL_FRAMED, VARIANTS, rock_salt_output, state, written
from safetensors.torch import load_file
from samples import rock_salt

from crystalformers.checkpoint import save_model
from crystalformers.errors import CheckpointError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.models.presets import preset
from crystalformers.paper_checkpoints import read_paper_checkpoint, save_paper_checkpoint
from crystalformers.prediction.loading import load_model
from crystalformers.target import Target


class TestWriting:
    @pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors", "ckpt"])
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_there_and_back(self, tmp_path: Path, variant: str, suffix: str) -> None:
        params, config = VARIANTS[variant]
        names = params["targets"] if isinstance(params["targets"], list) else [params["targets"]]
        targets = [Target(name, "eV", mean=-1.0, std=2.0) for name in names]
        model = read_paper_checkpoint(written(tmp_path / "theirs.ckpt", params)).model
        path = tmp_path / f"ours.{suffix}"
        save_paper_checkpoint(model, path, targets)
        again = read_paper_checkpoint(path, None if suffix == "ckpt" else config, targets)
        assert again.model.config == config
        assert again.targets == tuple(targets)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(again.model.state_dict()[name], tensor, rtol=1e-6, atol=0)
        assert [entry.name for entry in tmp_path.iterdir() if "tmp" in entry.name] == []

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_names_layouts_and_numbers_are_theirs(self, tmp_path: Path, variant: str) -> None:
        params, config = VARIANTS[variant]
        theirs = state(params)
        save_paper_checkpoint(
            read_paper_checkpoint(written(tmp_path / "theirs.ckpt", params)).model, tmp_path / "ours.safetensors"
        )
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
        save_paper_checkpoint(model, tmp_path / "a.ckpt", [Target("my_property", "K", mean=5.0, std=0.1)])
        found = read_paper_checkpoint(tmp_path / "a.ckpt", targets=[Target("my_property", "K")])
        assert (found.targets[0].mean, found.targets[0].std) == pytest.approx((5.0, 0.1))
        torch.testing.assert_close(rock_salt_output(found.model), rock_salt_output(model.eval()))

    def test_a_model_without_statistics_stays_without(self, tmp_path: Path) -> None:
        save_paper_checkpoint(Crystalformer(SMALL), tmp_path / "a.pt")
        assert not read_paper_checkpoint(tmp_path / "a.pt", SMALL).model.calibrated

    def test_published_models_travel_by_their_preset(self, tmp_path: Path) -> None:
        model = Crystalformer(preset("crystalframer-lightweight"))
        save_paper_checkpoint(model, tmp_path / "a.safetensors")
        found = read_paper_checkpoint(tmp_path / "a.safetensors", "crystalframer-lightweight").model
        assert torch.equal(found.state_dict()["head.0.weight"], model.state_dict()["head.0.weight"])
        with pytest.raises(
            CheckpointError, match=r"proj_angle1' has shape \(1, 8, 16, 16\), expected \(1, 8, 16, 64\)"
        ):
            read_paper_checkpoint(tmp_path / "a.safetensors", "crystalframer")
        with pytest.raises(CheckpointError, match=r"file holds 4 blocks.* say 8"):
            read_paper_checkpoint(tmp_path / "a.safetensors", "crystalframer-8")

    def test_theirs_becomes_ours(self, tmp_path: Path) -> None:
        found = read_paper_checkpoint(written(tmp_path / "a.ckpt", SECOND_PAPER))
        save_model(tmp_path / "b.safetensors", found.model, found.targets, {})
        model = load_model(tmp_path / "b.safetensors", tolerance=1e-3)
        assert model.targets == found.targets
        torch.testing.assert_close(rock_salt_output(model.network), rock_salt_output(found.model))

    def test_what_their_code_cannot_express_is_refused(self, tmp_path: Path) -> None:
        framed = Crystalformer(replace(SMALL_FRAMED, space="dual"))
        with pytest.raises(CheckpointError, match="no frames in space 'dual'"):
            save_paper_checkpoint(framed, tmp_path / "a.pt")
        with pytest.raises(CheckpointError, match="name it"):
            save_paper_checkpoint(Crystalformer(SMALL), tmp_path / "a.bin")
        with pytest.raises(CheckpointError, match="0 targets do not fit 1"):
            save_paper_checkpoint(Crystalformer(SMALL), tmp_path / "a.ckpt")
        assert list(tmp_path.iterdir()) == []


@pytest.mark.shared
@pytest.mark.parametrize("name", ["crystalformer-alternating", "crystalframer-max-static"])
def test_the_authors_weights_come_back_unchanged(shared: Path, tmp_path: Path, name: str) -> None:
    theirs = load_file(shared / "oracle" / name / "weights.safetensors")
    save_paper_checkpoint(read_oracle(shared, name).model, tmp_path / "ours.safetensors")
    for key, tensor in load_file(tmp_path / "ours.safetensors").items():
        if not key.endswith("atten_scale"):
            torch.testing.assert_close(tensor, theirs[key].double(), rtol=1e-15, atol=0)
