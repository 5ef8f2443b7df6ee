"""Checkpoints of CrystalTransformer's authors: names, heads told by shape, extras, refusals, the way back."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import many
from torch import Tensor, nn

from crystalformers.checkpoint import load_checkpoint, save_model
from crystalformers.errors import CheckpointError
from crystalformers.images import CrystalBatch
from crystalformers.models.crystalformer import Crystalformer
from crystalformers.models.crystaltransformer import CrystalTransformer, CrystalTransformerConfig
from crystalformers.models.presets import preset
from crystalformers.paper_checkpoints import read_paper_checkpoint, save_paper_checkpoint
from crystalformers.prediction.loading import load_model
from crystalformers.target import Target

ENERGY, GAP = Target("energy", "eV/atom", "per_atom"), Target("gap", "eV")


class Theirs(nn.Module):
    """Tensors in the authors' names, from the description of their network; heads as named by the caller."""

    def __init__(self, heads: dict[str, nn.Module], width: int = 256, layers: int = 2) -> None:
        super().__init__()
        self.atom_embed = nn.Linear(100, width // 2)
        self.coords_embed = nn.Linear(3, width // 2)
        self.coord_diff_embed = nn.Linear(3, 64)
        self.positional_encoding = nn.Parameter(torch.zeros(1, 256, width))
        layer = nn.TransformerEncoderLayer(width, 8, 512, 0.1, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, layers)
        for name, head in heads.items():
            self.add_module(name, head)

    def forward(self, one_hot: Tensor, coords: Tensor) -> Tensor:
        """The first atom's vector of one crystal."""
        tokens = torch.cat([self.atom_embed(one_hot), self.coords_embed(coords)], dim=-1)
        encoded: Tensor = self.transformer_encoder(tokens[None])[0, 0]
        return encoded


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 1))


HEADS: dict[str, Any] = {
    "released": lambda: {"output_linear": nn.Linear(256, 1)},
    "two layers": lambda: {"output_linear": nn.Linear(256, 128), "output_linear2": nn.Linear(128, 1)},
    "two layers in one": lambda: {"output_linear": nn.Sequential(nn.Linear(256, 128), nn.Linear(128, 1))},
    "three targets": lambda: {f"output_linear{k}": mlp() for k in (1, 2, 3)},
}


def outputs(model: Theirs, kind: str, crystals: list[Any]) -> Tensor:
    """What their network predicts, crystal by crystal."""
    heads = [module for name, module in model.named_children() if name.startswith("output_linear")]
    rows = []
    for crystal in crystals:
        one_hot = torch.eye(100)[torch.from_numpy(crystal.numbers) - 1]
        z = model(one_hot, torch.from_numpy(crystal.positions).float())
        chain = nn.Sequential(*heads) if kind != "three targets" else None
        rows.append(torch.cat([head(z) for head in heads]) if chain is None else chain(z))
    return torch.stack(rows)


def checkpoint(model: nn.Module, **extras: Any) -> dict[str, Any]:
    """The dictionary that their script saves."""
    normalizer = {"mean": torch.tensor(-1.5), "std": torch.tensor(0.9)}
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9).state_dict()
    args = {"lr": 1e-4, "optim": "SGD", "train_size": None, "cuda": True, "lr_milestones": 10}
    whole = {"epoch": 3, "state_dict": model.state_dict(), "best_mae_error": torch.tensor(0.1), "optimizer": optimizer}
    return {**whole, "normalizer": normalizer, "args": args, **extras}


@pytest.mark.parametrize("kind", HEADS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_read_and_predict_the_same(tmp_path: Path, kind: str, prefix: str) -> None:
    torch.manual_seed(0)
    theirs = Theirs(HEADS[kind]()).eval()
    content = checkpoint(theirs)
    content["state_dict"] = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    path = tmp_path / "model_best.pth.tar"
    torch.save(content, path)
    found = read_paper_checkpoint(path)
    crystals = many(4)
    with torch.no_grad():
        ours = found.model(CrystalBatch.from_crystals(crystals, torch.float32))
        torch.testing.assert_close(ours, outputs(theirs, kind, crystals), rtol=1e-4, atol=1e-5)
    assert found.model.config.n_targets == (3 if kind == "three targets" else 1)
    assert len(found.unmapped) == 3
    assert found.params is not None
    assert found.params["optim"] == "SGD"


def test_the_scale_is_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "model_best_formation_256.pth.tar"
    torch.save(checkpoint(Theirs(HEADS["released"]())), path)
    model = load_model(path, targets=[ENERGY])
    assert (model.targets[0].mean, model.targets[0].std) == pytest.approx((-1.5, 0.9))
    assert np.isfinite(model.values(many(3))).all()
    with pytest.raises(CheckpointError, match="does not tell what the model predicts"):
        load_model(path)
    with pytest.raises(CheckpointError, match="2 targets do not fit 1"):
        load_model(path, targets=[ENERGY, GAP])
    with pytest.raises(CheckpointError, match=r"says mean -1\.5"):
        load_model(path, targets=[replace(ENERGY, mean=3.0)])


def test_a_published_model_is_saved_like_any_other(tmp_path: Path) -> None:
    torch.save(checkpoint(Theirs(HEADS["released"]())), tmp_path / "theirs.pth.tar")
    found = read_paper_checkpoint(tmp_path / "theirs.pth.tar", targets=[ENERGY])
    save_model(tmp_path / "ours.safetensors", found.model, found.targets, {})
    again = load_checkpoint(tmp_path / "ours.safetensors").model
    assert torch.equal(again.element_vectors(), found.model.element_vectors())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s | {"extra": torch.zeros(1)}, "'extra' is not part of CrystalTransformer"),
        (lambda s: {k: v for k, v in s.items() if "1.norm2.bias" not in k}, "layers.1.norm2.bias' is missing"),
        (lambda s: s | {"coords_embed.weight": torch.zeros(128, 2)}, r"coords_embed.weight' has shape \(128, 2\)"),
        (lambda s: s | {"atom_embed.bias": torch.full((128,), torch.nan)}, "atom_embed.bias' holds NaN"),
        (lambda s: {k: v for k, v in s.items() if "output" not in k}, "no whole CrystalTransformer"),
        (lambda s: {k: v for k, v in s.items() if k != "output_linear.bias"}, "output_linear.bias' is missing"),
        (lambda s: s | {"output_linear2.weight": torch.zeros(3, 256), "output_linear3.weight": torch.zeros(1, 256)},
         "3 layers, which is no pair"),
    ],
)  # fmt: skip
def test_wrong_tensors_are_named(tmp_path: Path, change: Any, words: str) -> None:
    path = tmp_path / "a.pth"
    torch.save(change(dict(Theirs(HEADS["released"]()).state_dict())), path)
    with pytest.raises(CheckpointError, match=words) as error:
        read_paper_checkpoint(path)
    assert "a.pth" in str(error.value)


class Evil:
    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('code of the file ran')",)


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "model_best.pth.tar"
    torch.save(checkpoint(Theirs(HEADS["released"]()), args=Evil()), path)
    with pytest.raises(CheckpointError, match="refused"):
        read_paper_checkpoint(path)
    path.write_bytes(pickle.dumps({"state_dict": {}}))
    with pytest.raises(CheckpointError):
        read_paper_checkpoint(path)


def test_another_preset_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    torch.save(Theirs(HEADS["released"]()).state_dict(), path)
    with pytest.raises(CheckpointError, match="not a Crystalformer"):
        read_paper_checkpoint(path, "crystalformer")
    with pytest.raises(CheckpointError, match="its blocks is 2, but the settings given say 8"):
        read_paper_checkpoint(path, "crystaltransformer-published")
    save_paper_checkpoint(Crystalformer(), tmp_path / "b.pt")
    with pytest.raises(CheckpointError, match="no CrystalTransformer"):
        read_paper_checkpoint(tmp_path / "b.pt", "crystaltransformer-published")


@pytest.mark.parametrize(("head", "targets"), [("published", 1), ("linear", 1), ("published", 4), ("separate", 2)])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_written_in_their_names_and_read_back(tmp_path: Path, head: str, targets: int, suffix: str) -> None:
    config = preset("crystaltransformer-published")
    assert isinstance(config, CrystalTransformerConfig)
    model = CrystalTransformer(replace(config, blocks=1, head=head, n_targets=targets))  # type: ignore[arg-type]
    path = tmp_path / f"model{suffix}"
    save_paper_checkpoint(model, path)
    again = read_paper_checkpoint(path).model
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    names = load_file(path) if suffix == ".safetensors" else torch.load(path, weights_only=True)
    dead = ("positional_encoding", "coord_diff_embed.weight", "coord_diff_embed.bias")
    assert sum(names[name].numel() for name in dead) == 4_329_089 - 4_263_297
    if head == "linear":
        assert names["output_linear.weight"].shape == (1, 256)


def test_what_their_code_has_not_is_not_written(tmp_path: Path) -> None:
    for name in ("crystaltransformer", "crystaltransformer-composition"):
        config = preset(name)
        assert isinstance(config, CrystalTransformerConfig)
        with pytest.raises(CheckpointError, match="no model of variant"):
            save_paper_checkpoint(CrystalTransformer(config), tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_a_safetensors_file_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file({k: v.contiguous() for k, v in Theirs(HEADS["released"]()).state_dict().items()}, path)
    assert load_model(path, targets=[ENERGY]).network.config.head == "linear"
