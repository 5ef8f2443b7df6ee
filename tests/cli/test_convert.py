"""`crystalformers convert`: the authors' checkpoints become ours and the other way, from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from command import invoke
from samples import rock_salt

from crystalformers.checkpoint import save_model
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import build_model
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.models.presets import preset
from crystalformers.paper_checkpoints import save_paper_checkpoint
from crystalformers.prediction.loading import load_model
from crystalformers.target import Target

ENERGY = Target("formation_energy", "eV/atom", mean=-1.0, std=2.0)


@pytest.fixture(scope="module")
def model() -> Crystalformer:
    torch.manual_seed(0)
    network = Crystalformer(preset("crystalformer-simplified")).eval()
    network.calibrate(with_images(CrystalBatch.from_crystals([rock_salt()], torch.float32), network.radius(1e-3)))
    return network


def test_there_and_back(tmp_path: Path, model: Crystalformer) -> None:
    ours, theirs, again = (tmp_path / name for name in ("ours.safetensors", "theirs.ckpt", "again.safetensors"))
    save_model(ours, model, (ENERGY,), {})
    result = invoke("convert", ours, "-o", theirs)
    assert result.exit_code == 0, result.stderr
    result = invoke("convert", theirs, "-o", again, "--target", "formation_energy", "--unit", "eV/atom")
    assert result.exit_code == 0, result.stderr
    assert "not mapped: atten_scale" in result.stderr
    before, after = (load_model(path).predict(rock_salt())[0].values for path in (ours, again))
    assert after["formation_energy"] == pytest.approx(before["formation_energy"], rel=1e-5)
    assert invoke("convert", theirs, "-o", again).exit_code == 2  # it exists


def test_a_state_dict_needs_to_be_told(tmp_path: Path, model: Crystalformer) -> None:
    theirs, ours = tmp_path / "weights.pt", tmp_path / "ours.safetensors"
    save_paper_checkpoint(model, theirs)

    def fails(words: str, *options: str) -> None:
        result = invoke("convert", theirs, "-o", ours, *options)
        assert result.exit_code == 2
        assert words in result.stderr
        assert list(tmp_path.iterdir()) == [theirs]

    fails("say which model it is")
    fails("does not tell what the model predicts", "--preset", "crystalformer-simplified")
    fails("did you mean 'crystalformer-simplified'?", "--preset", "crystalformer-simplifed")
    fails("the file holds 4 blocks", "--preset", "crystalformer-7", "--target", "x", "--unit", "eV")
    fails("1 --target and 0 --unit were given", "--target", "formation_energy")
    scale = ("--mean", "-1", "--std", "2")
    told = ("--preset", "crystalformer-simplified", "--target", "formation_energy", "--unit", "eV/atom", *scale)
    assert invoke("convert", theirs, "-o", ours, *told).exit_code == 0
    assert load_model(ours).targets == (ENERGY,)


def test_what_does_not_fit_is_refused(tmp_path: Path, model: Crystalformer) -> None:
    ours = tmp_path / "ours.safetensors"
    save_model(ours, model, (ENERGY,), {})
    for options, words in (
        (("-o", tmp_path / "theirs.ckpt", "--preset", "crystalformer"), "leave out yours"),
        (("-o", tmp_path / "theirs.h5"), ".h5"),
    ):
        result = invoke("convert", ours, *options)
        assert result.exit_code == 2
        assert words in result.stderr


def test_a_model_that_is_not_of_the_papers_is_refused(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.pt"
    save_model(ours, build_model("cgcnn", {"dim": 4}), (ENERGY,), {})
    result = invoke("convert", ours, "-o", theirs)
    assert result.exit_code == 2
    assert "has no CGCNN" in result.stderr
    assert not theirs.exists()
