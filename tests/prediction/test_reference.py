"""Distances to the training crystals: values, percentiles, flags, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import invoke, rows_of
from samples import ENERGY, MODULUS, many, rock_salt, supercell, tiny_model, write_table
from scipy.spatial.distance import cdist
from torch import nn

from crystalformers import load_model
from crystalformers.checkpoint import MOST_ARRAY_BYTES, save_model
from crystalformers.errors import CheckpointError, ConfigError
from crystalformers.images import CrystalBatch, with_images
from crystalformers.models import MODELS, build_model
from crystalformers.models.base import mean_over_atoms
from crystalformers.prediction import predictor
from crystalformers.prediction.forward import outputs_of_batch
from crystalformers.prediction.model import network_outputs
from crystalformers.prediction.reference import ENOUGH_AXES, MOST_VECTORS, Reference, count_for

TINY = {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 16, "radial_functions": 8}


def saved(path: Path, **card: Any) -> tuple[Path, Reference]:
    """A random model whose references are crystals 0 to 9 and whose held-out crystals are 10 to 19."""
    torch.manual_seed(2)
    save_model(path, build_model("crystalformer", TINY), [ENERGY], card)
    training, held_out = (
        network_outputs([load_model(path)], crystals, vectors=True)[0].vectors[0]
        for crystals in (many(10), many(20)[10:])
    )
    reference = Reference.of(training, held_out)
    save_model(path, load_model(path).network, [ENERGY], card, reference.to_arrays())
    return path, reference


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return saved(tmp_path / "model.safetensors")[0]


def test_distances_by_hand() -> None:
    """References at 0 and 10 on a line; held-out points 1, 2 and 3 away have the median 2."""
    reference = Reference.of(np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([[1.0, 0], [10.0, 2.0], [13.0, 0]]))
    (space,) = reference.members
    assert space.unit / space.axes[0, 0] == pytest.approx(2.0, rel=1e-3)
    points = np.array([[0.0, 0.0], [0.0, 4.0], [10.0, 5.0], [11.0, 0.0]])
    np.testing.assert_allclose(reference.distances([points]), [0, 2, 2.5, 0.5], atol=1e-3)
    np.testing.assert_allclose(
        reference.percentile(np.array([0.4, 0.5, 0.75, 1.0, 1.5, 1.6])), [0, 0, 25, 50, 100, 100]
    )


def test_equal_distances_leave_no_crystal_beyond_them() -> None:
    reference = Reference.of(np.zeros((3, 2)), np.zeros((5, 2)))
    np.testing.assert_array_equal(reference.percentile(np.array([0.0, 1e-9])), [0, 100])


def test_held_out_crystals_are_spread_evenly_over_the_percentiles() -> None:
    rng = np.random.default_rng(0)
    reference = Reference.of(rng.normal(size=(300, 4)), rng.normal(size=(2000, 4)))
    found = reference.percentile(reference.distances([rng.normal(size=(2000, 4))]))
    for share in (10, 50, 90, 99):
        assert (found > share).mean() == pytest.approx(1 - share / 100, abs=3 * np.sqrt(2 * 0.25 / 2000))


def test_the_distance_of_an_ensemble_is_the_mean_over_its_members() -> None:
    rng = np.random.default_rng(1)
    members = [Reference.of(rng.normal(size=(20, width)), rng.normal(size=(30, width))) for width in (3, 5)]
    joined = Reference.joined(members, np.linspace(0, 2, 101))
    vectors = [rng.normal(size=(7, width)) for width in (3, 5)]
    expected = np.mean([one.distances([own]) for one, own in zip(members, vectors, strict=True)], axis=0)
    np.testing.assert_allclose(joined.distances(vectors), expected)
    np.testing.assert_allclose(joined.percentile(np.array([0.5])), [25])


def test_one_member_may_have_all_reference_crystals() -> None:
    rng = np.random.default_rng(3)
    training, held_out = ([rng.normal(size=(n, width)) for width in (3, 5)] for n in (20, 30))
    found, alone = Reference.of_members(training, held_out, which=[1]), Reference.of(training[1], held_out[1])
    np.testing.assert_array_equal(found.distances(held_out), alone.distances([held_out[1]]))
    np.testing.assert_array_equal(found.percentiles, alone.percentiles)
    read = Reference.from_arrays(found.to_arrays(), 2)
    assert read is not None
    assert read.members[0] is None
    np.testing.assert_allclose(read.distances(held_out), found.distances(held_out), rtol=1e-5)
    both = Reference.of_members(training, held_out)
    each = [Reference.of(*own, 2).distances([own[1]]) for own in zip(training, held_out, strict=True)]
    np.testing.assert_allclose(both.distances(held_out), np.mean(each, axis=0))


@pytest.mark.parametrize(("width", "members"), [(8, 1), (100, 1), (128, 5), (1000, 20)])
def test_the_file_stays_small(width: int, members: int) -> None:
    count = count_for(members)
    assert 1 <= count <= MOST_VECTORS // members
    vectors = np.random.default_rng(0).normal(size=(count + 9, width))
    space = Reference.of(vectors, vectors[:9], members).members[0]
    assert len(space.points) == count
    assert members * space.points.nbytes <= 2 * ENOUGH_AXES * MOST_VECTORS < MOST_ARRAY_BYTES


def test_few_crystals_have_all_their_coordinates() -> None:
    vectors = np.random.default_rng(0).normal(size=(600, 128))
    assert Reference.of(vectors, vectors[:9]).members[0].points.shape == (600, 128)


def test_a_large_set_is_described_along_its_principal_axes() -> None:
    """Where all coordinates take too much memory, those in which the crystals differ most are left."""
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(64, 64)))[0]
    training, held_out, new = (
        np.pad(rng.normal(size=(rows, 20)), ((0, 0), (0, 44))) @ rotation + 5 for rows in (MOST_VECTORS, 400, 50)
    )
    reference = Reference.of(training, held_out)
    assert reference.members[0].points.shape == (MOST_VECTORS, 32)
    exact = cdist(new, training).min(axis=1) / np.median(cdist(held_out, training).min(axis=1))
    np.testing.assert_allclose(reference.distances([new]), exact, rtol=1e-3)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("far", [0.0, 1e3])
def test_distances_hold_whatever_the_size_and_offset_of_the_vectors(size: float, far: float) -> None:
    rng = np.random.default_rng(0)
    training, held_out, new = (size * (far + rng.normal(size=(50, 4))) for _ in range(3))
    exact = np.linalg.norm(new[:, None] - training, axis=-1).min(axis=1)
    unit = np.median(np.linalg.norm(held_out[:, None] - training, axis=-1).min(axis=1))
    np.testing.assert_allclose(Reference.of(training, held_out).distances([new]), exact / unit, atol=1e-3)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "ensemble"])
def test_the_vectors_are_those_that_enter_the_head(name: str) -> None:
    torch.manual_seed(0)
    network = build_model(name, {"n_targets": 2}).eval()
    batch = with_images(CrystalBatch.from_crystals(many(3)), network.radius(1e-4), directions=network.needs_directions)
    batch = batch.to(torch.float32)
    with torch.inference_mode():
        found = outputs_of_batch([network], batch, vectors=True)
        plain = network(batch)
        assert outputs_of_batch([network], batch, vectors=False).vectors == ()
        heads = list(head) if isinstance(head := network.stages[-1], nn.ModuleList) else [head]
        vectors = torch.from_numpy(found.vectors[0]).float()
        again = torch.cat([head(vectors) for head in heads], dim=-1)
    np.testing.assert_array_equal(found.standardised[..., 0], plain.numpy())
    np.testing.assert_allclose(again.numpy(), plain.numpy(), atol=1e-6)


def test_those_of_a_crystalformer_are_its_embeddings(weights: Path) -> None:
    model = load_model(weights)
    (found,) = network_outputs([model], many(5))
    np.testing.assert_allclose(found.vectors[0], model.embed(many(5)), atol=1e-6)
    batch = with_images(CrystalBatch.from_crystals(many(2)), model.radius)
    assert mean_over_atoms(model.network.encode(batch), batch).shape == (2, found.vectors[0].shape[1])


def test_a_crystal_of_the_training_set_is_near_and_another_far(weights: Path) -> None:
    model = load_model(weights)
    near, far = model.predict([many(1)[0], rock_salt("Cs", "I", 7.9)])
    assert near.distance_percentile == 0
    assert near.flag == ""
    assert far.distance_percentile == 100
    assert far.flag == "farther from the training crystals than 90 % of held-out ones"
    assert model.predict(rock_salt("Cs", "I", 7.9), flag_percentile=100)[0].flag == ""
    with pytest.raises(ConfigError, match="101 does not lie between 0 and 100"):
        model.predict(rock_salt(), flag_percentile=101)


def test_the_size_of_the_cell_changes_no_percentile(weights: Path) -> None:
    one, three = load_model(weights).predict([rock_salt("Na", "O", 4.7), supercell(rock_salt("Na", "O", 4.7), 3)])
    assert one.distance_percentile == pytest.approx(three.distance_percentile, abs=0.1)


def test_percentiles_in_every_output(weights: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", [*many(3), rock_salt("Cs", "I", 7.9, name="far")])
    frame = load_model(weights).predict(table, as_frame=True)
    assert list(frame.columns)[-2:] == ["distance_percentile", "flag"]
    printed = invoke("predict", table, "-m", weights)
    assert "percentile" in printed.stdout.splitlines()[0]
    assert "1 of 4 structures is unlike the training data" in printed.stderr
    assert invoke("predict", table, "-m", weights, "-o", tmp_path / "o.csv").exit_code == 0
    assert [float(row["distance_percentile"]) for row in rows_of(tmp_path / "o.csv")] == pytest.approx(
        frame["distance_percentile"].tolist(), rel=1e-5
    )
    strict = invoke("predict", table, "-m", weights, "--strict")
    assert strict.exit_code == 1
    assert "farther from the training crystals than 90 %" in strict.stderr
    assert invoke("predict", table, "-m", weights, "--strict", "--flag-percentile", 100).exit_code == 0
    assert invoke("predict", table, "-m", weights, "--flag-percentile", -1).exit_code == 2


def test_an_interrupted_prediction_keeps_its_percentiles(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "WINDOW", 4)
    command = ["predict", write_table(tmp_path / "t.parquet", many(10)), "-m", weights]
    assert invoke(*command, "-o", tmp_path / "whole.parquet").exit_code == 0
    original, calls = predictor.predict_window, []

    def stopped(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*given)

    with monkeypatch.context() as context:
        context.setattr(predictor, "predict_window", stopped)
        assert invoke(*command, "-o", tmp_path / "out.parquet").exit_code == 130
    changed = invoke(*command, "-o", tmp_path / "out.parquet", "--resume", "--flag-percentile", 50)
    assert "flag_percentile changed" in changed.stderr
    assert invoke(*command, "-o", tmp_path / "out.parquet", "--resume").exit_code == 0
    assert (tmp_path / "out.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_it_is_saved_and_older_files_have_none(weights: Path, tmp_path: Path) -> None:
    path, reference = saved(tmp_path / "again.safetensors")
    found = load_model(path).reference
    assert found is not None
    np.testing.assert_array_equal(found.members[0].points, reference.members[0].points)
    np.testing.assert_array_equal(found.percentiles, reference.percentiles)
    assert path.read_bytes() == weights.read_bytes()
    older = load_model(tiny_model(tmp_path / "older.safetensors"))
    assert older.reference is None
    assert older.predict(rock_salt())[0].distance_percentile is None


def test_the_bundled_model_has_one() -> None:
    (prediction,) = load_model("materials-project").predict(rock_salt())
    assert prediction.distance_percentile is not None
    assert 0 <= prediction.distance_percentile <= 100
    for target in ("formation_energy_per_atom", "band_gap"):
        assert prediction.low[target] < prediction.values[target] < prediction.high[target]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reference.0.unit": np.zeros(1)}, "do not fit together"),
        ({"reference.0.unit": np.ones(2)}, "do not fit together"),
        ({"reference.0.points": np.zeros(8, np.int16)}, "do not fit together"),
        ({"reference.0.points": np.zeros((0, 8), np.int16)}, "do not fit together"),
        ({"reference.0.points": np.zeros((3, 7), np.int16)}, "do not fit together"),
        ({"reference.0.axes": np.zeros((8, 7), np.float32)}, "do not fit together"),
        ({"reference.0.centre": np.zeros(9, np.float32)}, "do not fit together"),
        ({"reference.0.centre": np.zeros((8, 8), np.float32)}, "do not fit together"),
        ({"reference.percentiles": np.arange(101.0)[::-1].copy()}, "do not fit together"),
        ({"reference.percentiles": np.arange(5.0)}, "do not fit together"),
        ({"reference.percentiles": np.full(101, np.nan)}, "NaN"),
        ({"reference.0.points": None}, "reference.0.points' is missing"),
        ({f"reference.0.{name}": None for name in ("centre", "axes", "points", "unit")}, "points' is missing"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path, reference = saved(tmp_path / "model.safetensors")
    arrays = {name: array for name, array in {**reference.to_arrays(), **change}.items() if array is not None}
    save_model(path, load_model(path).network, [ENERGY], {}, arrays)
    with pytest.raises(CheckpointError, match=words):
        load_model(path)


def test_vectors_of_another_width_are_refused(tmp_path: Path) -> None:
    path, reference = saved(tmp_path / "model.safetensors")
    wide = {"centre": np.zeros(9, np.float32), "axes": np.eye(9, dtype=np.float32), "points": np.ones((4, 9), np.int16)}
    arrays = {**reference.to_arrays(), **{f"reference.0.{name}": array for name, array in wide.items()}}
    save_model(path, load_model(path).network, [ENERGY], {}, arrays)
    model = load_model(path)
    with pytest.raises(CheckpointError, match="have 9 numbers, those of the model 8"):
        model.predict(rock_salt())


def test_too_large_arrays_are_neither_saved_nor_read(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_model(weights).network
    with pytest.raises(CheckpointError, match="too many"):
        save_model(weights, network, [ENERGY], {}, {"x": np.zeros(MOST_ARRAY_BYTES // 8 + 1)})
    monkeypatch.setattr("crystalformers.checkpoint.MOST_ARRAY_BYTES", 100)
    with pytest.raises(CheckpointError, match="too many"):
        load_model(weights)


def test_intervals_that_follow_a_distance_need_it(tmp_path: Path) -> None:
    calibration = {"ranks": [1], "residuals": [1.0], "count": 1, "scale": "distance", "constant": 1.0}
    path, reference = saved(tmp_path / "model.safetensors")
    save_model(
        path, load_model(path).network, [ENERGY], {"calibration": {"energy": calibration}}, reference.to_arrays()
    )
    (row,) = load_model(path).predict(many(1), coverage=0.5)
    assert row.high["energy"] - row.values["energy"] == pytest.approx(ENERGY.std, rel=0.05)  # on a reference crystal
    save_model(path, load_model(path).network, [ENERGY], {"calibration": {"energy": calibration}})
    with pytest.raises(CheckpointError, match="follow a distance that the file does not hold"):
        load_model(path)
    calibration["scale"] = "luck"
    save_model(path, build_model("crystalformer", TINY), [ENERGY], {"calibration": {"energy": calibration}})
    with pytest.raises(CheckpointError, match=r"calibration\.energy\.scale: "):
        load_model(path)


def test_a_model_of_several_targets_has_one_distance(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_model("crystaltransformer", {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 16, "n_targets": 2})
    save_model(tmp_path / "m.safetensors", network, [ENERGY, MODULUS], {})
    (found,) = network_outputs([load_model(tmp_path / "m.safetensors")], many(4), vectors=True)
    assert [vectors.shape[0] for vectors in found.vectors] == [4]
