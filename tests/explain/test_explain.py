"""What a model attends to: the very weights of its attention, however a cell is drawn; tables and JSON."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from explained import TABLE_COLUMNS, VARIANTS, model_of
from strategies import SYMMETRIC_CRYSTALS as CRYSTALS
from torch import Tensor

from crystalformers.attention import infinite_attention, reciprocal
from crystalformers.attention.frames.encoding import angular_sums
from crystalformers.attention.frames.local import Frames, PrincipalAxes
from crystalformers.crystal import Crystal
from crystalformers.errors import ConfigError
from crystalformers.explain import ImageAttention, LocalFrame, explain
from crystalformers.images import CrystalBatch, with_images
from crystalformers.prediction.model import Model
from crystalformers.testing import randomly_rebased, repeated, unwrapped


def block_input(model: Model, crystal: Crystal, block: int) -> tuple[Tensor, Any]:
    batch = with_images(CrystalBatch.from_crystals([crystal]), model.radius, directions=True)
    geometry, x = model.network.blocks.geometry(batch), model.network.embed(batch)
    for layer in model.network.blocks[:block]:
        x = layer(x, geometry, "torch")
    return x, geometry


def from_weights(seen: ImageAttention, v_AHD: Tensor, attention: Any, geometry: Any) -> Tensor:
    """y of one atom, written out from its explanation, (H, D)."""
    p_MH = torch.from_numpy(seen.weight)
    y_HD = torch.einsum("mh,mhd->hd", p_MH, v_AHD[seen.source])
    b_MK = geometry.basis(torch.from_numpy(seen.distance))
    y_HD = y_HD + torch.einsum("mh,mk,hdk->hd", p_MH, b_MK, attention.value_encoding)
    angular = attention.angular()
    if angular is None:
        return y_HD
    others = seen.distance > 0
    unit_M3 = torch.from_numpy(seen.vector[others] / seen.distance[others, None])
    for head, frame in enumerate(seen.frames):
        sums_3K = angular_sums(p_MH[others, head][None], unit_M3[None], frames_of(frame), angular.basis)[0]
        y_HD[head] += torch.einsum("zk,zdk->d", sums_3K, angular.W_3HDK[:, head])
    return y_HD


def frames_of(frame: LocalFrame) -> Frames | PrincipalAxes:
    axes, share = torch.from_numpy(frame.axes), torch.from_numpy(frame.share)
    if frame.distinct is not None:
        return PrincipalAxes(axes, torch.from_numpy(frame.distinct)[None])
    return Frames(axes, torch.zeros(len(share), dtype=torch.int64), share)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["low", "rock salt", "simple cubic"])
@torch.no_grad()
def test_the_output_of_attention_follows_from_the_weights(variant: str, name: str) -> None:
    model, crystal = model_of(variant), CRYSTALS[name]
    explanation = explain(model, crystal)
    assert len(explanation.attentions) == 2 * len(crystal)
    for block in range(2):
        x, geometry = block_input(model, crystal, block)
        attention = model.network.blocks[block].attention
        real = attention.real_heads
        q, k, v = (attention.heads(linear(x)) for linear in (attention.query, attention.key, attention.value))
        inverse_variance, variance = attention.widths(q)
        if real:
            arguments = (q[:, :real], k[:, :real], v[:, :real], inverse_variance, attention.value_encoding, geometry)
            expected = infinite_attention(*arguments, "torch", angular=attention.angular())
        for i in range(len(crystal)):
            found = explanation.of(i, block)
            assert (found.real is None, found.reciprocal is None) == (real == 0, real == 4)
            if found.real is not None:
                assert found.real.heads.tolist() == list(range(real))
                np.testing.assert_allclose(found.real.weight.sum(0), 1, atol=1e-12)
                np.testing.assert_allclose(found.real.sigma, inverse_variance[i].rsqrt(), rtol=1e-12)
                y = from_weights(found.real, v[:, :real], attention, geometry)
                torch.testing.assert_close(y, expected[i], rtol=0, atol=1e-12)
            if found.reciprocal is not None:
                assert found.reciprocal.heads.tolist() == list(range(real, 4))
                np.testing.assert_allclose(found.reciprocal.weight.sum(0), 1, atol=1e-12)
                np.testing.assert_allclose(found.reciprocal.sigma**2, variance[i], rtol=1e-12)
                y = torch.einsum("nh,nhd->hd", torch.from_numpy(found.reciprocal.weight), v[:, real:])
                sums = attention.lattice_sums(geometry)
                others = reciprocal.attention(q[:, real:], k[:, real:], v[:, real:], variance, sums)
                torch.testing.assert_close(y, others[i], rtol=0, atol=1e-12)


def test_images_are_where_they_are_said_to_be() -> None:
    crystal = CRYSTALS["low"]
    seen = explain(model_of("real"), crystal, atom=1, block=0).of(1, 0).real
    assert seen is not None
    frac = crystal.frac_coords[seen.source] + seen.shift - crystal.frac_coords[1]
    np.testing.assert_allclose(frac @ crystal.lattice, seen.vector, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(seen.vector, axis=1), seen.distance, atol=1e-12)
    assert (np.diff(seen.distance) >= -1e-12).all()
    assert (seen.distance[0], seen.source[0]) == (0, 1)


@pytest.mark.parametrize("variant", ["dual max", "weighted-pca", "lattice"])
@pytest.mark.parametrize("name", ["low", "rock salt"])
def test_another_cell_of_the_crystal_gives_the_same_explanation(variant: str, name: str) -> None:
    model, crystal = model_of(variant), CRYSTALS[name]
    rng = np.random.default_rng(2)
    other = unwrapped(randomly_rebased(repeated(crystal, (2, 1, 1)), rng), rng)
    one, two = explain(model, crystal, 1), explain(model, other, len(crystal) + 1)
    for block in range(2):
        mine, theirs = one.of(1, block), two.of(len(crystal) + 1, block)
        assert mine.real is not None
        assert theirs.real is not None
        np.testing.assert_allclose(theirs.real.sigma, mine.real.sigma, atol=1e-10)
        order, other_order = (np.lexsort(np.round(seen.vector, 6).T) for seen in (mine.real, theirs.real))
        np.testing.assert_allclose(theirs.real.vector[other_order], mine.real.vector[order], atol=1e-9)
        np.testing.assert_allclose(theirs.real.weight[other_order], mine.real.weight[order], atol=1e-10)
        assert (theirs.real.source[other_order] % len(crystal) == mine.real.source[order]).all()
        for ours, frame in zip(mine.real.frames, theirs.real.frames, strict=True):
            np.testing.assert_allclose(np.sort(frame.share), np.sort(ours.share), atol=1e-8)
            if frame.distinct is not None:
                np.testing.assert_allclose(frame.distinct, ours.distinct, atol=1e-8)
        if mine.reciprocal is not None:
            assert theirs.reciprocal is not None
            copies = theirs.reciprocal.weight.reshape(2, len(crystal), -1).sum(0)
            np.testing.assert_allclose(copies, mine.reciprocal.weight, atol=1e-9)


def test_frames_are_proper_and_their_shares_add_up() -> None:
    explanation = explain(model_of("max"), CRYSTALS["rock salt"])
    for attention in explanation.attentions:
        assert attention.real is not None
        assert len(attention.real.frames) == 4
        for frame in attention.real.frames:
            assert frame.share.sum() == pytest.approx(1)
            assert len(frame.share) == 24
            assert (np.diff(frame.share) <= 0).all()
            np.testing.assert_allclose(np.linalg.det(frame.axes), 1, atol=1e-12)


def test_an_atom_without_neighbours_has_no_frame() -> None:
    seen = explain(model_of("max"), CRYSTALS["alone"], 0, 0).of(0, 0).real
    assert seen is not None
    assert seen.weight.tolist() == [[1, 1, 1, 1]]
    assert [len(frame.share) for frame in seen.frames] == [0] * 4


def test_explaining_changes_nothing() -> None:
    model = model_of("dual max")
    model.network.backend = "torch"
    before = model.predict(CRYSTALS["low"])[0].values
    explain(model, CRYSTALS["low"])
    assert model.predict(CRYSTALS["low"])[0].values == before


def test_the_table_has_one_row_per_image_and_head() -> None:
    crystal = CRYSTALS["low"]
    explanation = explain(model_of("dual"), crystal)
    everything = explanation.frame(0)
    assert ",".join(everything.columns) == TABLE_COLUMNS
    sums = everything.groupby(["atom", "block", "head"])["weight"].sum()
    assert len(sums) == 3 * 2 * 4
    np.testing.assert_allclose(sums, 1, atol=1e-12)
    waves = everything[everything["space"] == "reciprocal"]
    assert len(waves) == 3 * 2 * 2 * 3
    assert waves[["n1", "n2", "n3", "x (Å)", "distance (Å)"]].isna().all(axis=None)
    shown = explanation.frame(0.05)
    assert len(shown) == (everything["weight"] >= 0.05).sum() < len(everything)
    row = shown[shown["space"] == "real"].iloc[1]
    vector = row[["x (Å)", "y (Å)", "z (Å)"]].to_numpy(float)
    assert np.linalg.norm(vector) == pytest.approx(row["distance (Å)"])
    assert crystal.symbols[row["source"]] == row["source_symbol"]


@pytest.mark.parametrize("variant", ["dual max", "weighted-pca", "reciprocal"])
def test_the_dictionary_is_json_and_complete(variant: str) -> None:
    explanation = explain(model_of(variant), CRYSTALS["low"])
    data = json.loads(json.dumps(explanation.to_dict(0), allow_nan=False))
    assert len(data["attention"]) == 6
    entry, attention = data["attention"][3], explanation.attentions[3]
    assert (entry["atom"], entry["block"], entry["symbol"]) == (1, 1, "O")
    if attention.real is None:
        assert entry["real"] is None
    else:
        assert [image["weight"] for image in entry["real"]["images"]] == attention.real.weight.tolist()
        assert [frame["axes"] for frame in entry["real"]["frames"]] == [f.axes.tolist() for f in attention.real.frames]
    if attention.reciprocal is not None:
        assert [atom["weight"] for atom in entry["reciprocal"]["atoms"]] == attention.reciprocal.weight.tolist()
    few = explanation.to_dict(0.2)["attention"][3]
    kept = few["real"]["images"] if few["real"] else few["reciprocal"]["atoms"]
    assert all(max(row["weight"]) >= 0.2 for row in kept)


def test_the_image_rule_of_the_authors_is_refused() -> None:
    """The weights shown would be those of other images than the model sums."""
    model = model_of("real")
    model.network.image_rule = "published"
    with pytest.raises(ConfigError, match="model 'real' follows the image rule 'published'"):
        explain(model, CRYSTALS["rock salt"])


def test_what_is_not_there_is_named() -> None:
    model, crystal = model_of("alternating"), CRYSTALS["rock salt"]
    with pytest.raises(ConfigError, match=r"no atom 2: structure has atoms 0 to 1"):
        explain(model, crystal, atom=2)
    with pytest.raises(ConfigError, match=r"no block -1: model 'alternating' has blocks 0 to 1"):
        explain(model, crystal, block=-1)
    explanation = explain(model, crystal, atom=0)
    with pytest.raises(ConfigError, match=r"no atom 1 in block 0"):
        explanation.of(1, 0)
