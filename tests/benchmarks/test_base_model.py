"""Crystals without labels in the training of a base model."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import many, rock_salt

from benchmarks.accuracy import base_model
from benchmarks.accuracy.base_model import LARGEST_STRAIN, MOST_ATOMS, composition, strained
from crystalformers import open_table


def test_the_label_of_a_strained_crystal_is_the_logarithm_of_its_change_in_volume(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    relaxed = [*many(20), rock_salt("Cs", "I", 7.9, name="tested"), rock_salt("K", "Br", 6.6, name="labelled")]
    large = {"material_id": "large", "n_atoms": MOST_ATOMS + 1}
    rows = [
        {
            "material_id": crystal.name,
            "n_atoms": len(crystal),
            "atomic_numbers": crystal.numbers.tolist(),
            "lattice": crystal.lattice.ravel().tolist(),
            "frac_coords": crystal.frac_coords.ravel().tolist(),
        }
        for crystal in relaxed
    ]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist([*rows, {**rows[0], **large}]), tmp_path / "data" / "unlabelled.parquet")
    monkeypatch.setattr(base_model, "shared", lambda: tmp_path)
    found = strained("unlabelled", {"labelled"}, {composition(relaxed[-2].numbers.tolist())})
    pq.write_table(found, tmp_path / "strained.parquet")
    table = open_table(tmp_path / "strained.parquet")
    assert table.ids == [crystal.name for crystal in relaxed[:-2]]
    ratios = [table[row].volume / crystal.volume for row, crystal in enumerate(relaxed[:-2])]
    np.testing.assert_allclose(np.log(ratios), table.labels("strain"), atol=1e-12)
    assert np.ptp(ratios) > LARGEST_STRAIN
    assert np.abs(np.cbrt(ratios) - 1).max() <= LARGEST_STRAIN
    for row, crystal in enumerate(relaxed[:-2]):
        np.testing.assert_array_equal(table[row].frac_coords, crystal.frac_coords)
