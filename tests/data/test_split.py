"""Rows for training, validation and test: those a table names, or random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import many, write_table

from crystalformers.data.split import SPLITS, split_rows
from crystalformers.data.table import open_table
from crystalformers.errors import TableError


def random_split(n_rows: int, val: float, test: float, seed: int) -> dict[str, np.ndarray]:
    return split_rows(np.arange(n_rows), None, val, test, seed)


@given(n_rows=st.integers(10, 500), seed=st.integers(0, 99))
def test_fractions_and_seed_of_a_random_split(n_rows: int, seed: int) -> None:
    splits = random_split(n_rows, 0.2, 0.1, seed)
    assert list(splits) == list(SPLITS)
    assert abs(len(splits["train"]) - 0.7 * n_rows) <= 1
    assert abs(len(splits["val"]) - 0.2 * n_rows) <= 0.5
    assert sorted(np.concatenate(list(splits.values()))) == list(range(n_rows))
    assert all((np.diff(rows) > 0).all() for rows in splits.values())
    again, other = random_split(n_rows, 0.2, 0.1, seed), random_split(n_rows, 0.2, 0.1, seed + 1)
    assert all(np.array_equal(splits[name], again[name]) for name in SPLITS)
    assert n_rows < 40 or any(not np.array_equal(splits[name], other[name]) for name in SPLITS)


def test_every_row_has_the_same_chance() -> None:
    in_val = np.zeros(20)
    for seed in range(400):
        in_val[random_split(20, 0.5, 0.0, seed)["val"]] += 1
    assert (np.abs(in_val / 400 - 0.5) < 0.12).all()


def test_the_column_of_a_table_comes_first(tmp_path: Path) -> None:
    names = ["test", "train", "val", "train", "Valid", "train"]
    table = open_table(write_table(tmp_path / "table.parquet", many(6), split=names))
    splits = split_rows(np.array([0, 1, 2, 3, 4]), table.split)
    assert {name: rows.tolist() for name, rows in splits.items()} == {"train": [1, 3], "val": [2, 4], "test": [0]}


def test_validation_rows_are_drawn_from_training_where_none_is_named() -> None:
    splits = split_rows(np.arange(13), ["train"] * 10 + ["test"] * 3, val_fraction=0.3)
    assert [len(splits[name]) for name in SPLITS] == [7, 3, 3]
    assert splits["test"].tolist() == [10, 11, 12]


@pytest.mark.parametrize(("rows", "val", "name"), [(3, 0.05, "val"), (2, 0.9, "train")])
def test_an_empty_split_is_refused(rows: int, val: float, name: str) -> None:
    with pytest.raises(TableError, match=f"The {name} split holds no usable row, of {rows} in all; give a larger"):
        random_split(rows, val, 0.0, 0)
