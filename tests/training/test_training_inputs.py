"""What a recipe takes besides a table: rows to leave out, and a table of element vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from options import ENERGY, GAP, StopAfter, StoppedError, recipe, table_of
from samples import many, rock_salt, write_table

from crystalformers.checkpoint import load_checkpoint, read_description
from crystalformers.crystal import Crystal
from crystalformers.elements.table import ElementTable
from crystalformers.errors import ConfigError, TableError
from crystalformers.training import fit
from crystalformers.training.dataset import Dataset
from crystalformers.training.exclusion import composition


class TestExclusion:
    def other(self, folder: Path, **columns: Any) -> Path:
        """Rows of a test: one has an id of ours, another a formula of ours in another structure."""
        crystals = [rock_salt("Na", "O", 4.9, "x3"), rock_salt("Mg", "O", 6.0, "y"), rock_salt("Cs", "Cl", 7.0, "z")]
        return write_table(folder / "other.parquet", crystals, split=["test", "test", "train"], **columns)

    def test_reduced_formulas(self) -> None:
        assert composition(np.array([8, 26, 26, 8, 8])) == ((8, 3), (26, 2))
        assert composition(np.array([8, 8])) == ((8, 1),)

    def test_by_id(self, tmp_path: Path) -> None:
        settings = recipe(exclude=[{"table": str(self.other(tmp_path))}])
        dataset = Dataset.of(table_of(tmp_path), [ENERGY], settings)
        assert "x3" not in dataset.ids["train"]
        assert len(dataset.ids["train"]) == 15
        (excluded,) = dataset.excluded
        assert (excluded.table, excluded.split, excluded.by, excluded.rows) == ("other", "test", "id", 1)

    def test_by_composition_from_training_and_validation(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        settings = recipe(exclude=[{"table": str(self.other(tmp_path)), "by": "composition", "split": "test"}])
        dataset = Dataset.of(table, [ENERGY], settings)
        left = {composition(table.numbers(row)) for name in ("train", "val") for row in dataset.splits[name]}
        assert not left & {((8, 1), (11, 1)), ((8, 1), (12, 1))}
        assert len(dataset.splits["test"]) == 4
        assert dataset.excluded[0].rows == 20 - len(dataset.splits["train"]) - len(dataset.splits["val"])

    def test_the_scale_does_not_know_what_was_excluded(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        settings = recipe(exclude=[{"table": str(self.other(tmp_path)), "by": "composition"}])
        dataset = Dataset.of(table, [ENERGY], settings)
        assert dataset.targets[0].mean == pytest.approx(dataset.values[dataset.splits["train"], 0].mean())

    def test_its_own_test_split(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        settings = recipe(exclude=[{"table": str(table.path), "by": "composition"}])
        dataset = Dataset.of(table, [ENERGY], settings)
        tested = {composition(table.numbers(row)) for row in dataset.splits["test"]}
        assert not tested & {composition(table.numbers(row)) for row in dataset.splits["train"]}

    def test_what_cannot_be_done_is_named(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        bare = write_table(tmp_path / "bare.parquet", many(3))
        with pytest.raises(TableError, match=r"bare\.parquet: there is no column 'split'.*split: null"):
            Dataset.of(table, [ENERGY], recipe(exclude=[{"table": str(bare)}]))
        with pytest.raises(TableError, match="Nothing is left of the train split"):
            Dataset.of(table, [ENERGY], recipe(exclude=[{"table": str(table.path), "split": None}]))
        with pytest.raises(ConfigError, match="exclude"):
            recipe(exclude=[{"table": "a", "by": "prototype"}])

    def test_the_card_tells_it_and_counts_the_elements(self, tmp_path: Path) -> None:
        table = table_of(tmp_path)
        settings = recipe(exclude=[{"table": str(self.other(tmp_path))}])
        weights = fit(table, [ENERGY, GAP], tmp_path / "run", settings)
        card = read_description(weights)["card"]
        assert card["data"]["excluded"][0]["rows"] == 1
        assert card["data"]["rows"]["train"] == 15
        counts = card["element_counts"]
        assert counts["O"] == 15
        assert "H" not in counts
        assert sum(counts.values()) == 2 * 15


class TestElements:
    symbols = ("O", "Na", "Mg", "Al", "Si", "P", "S", "Cl")

    def table(self, folder: Path, symbols: tuple[str, ...] = symbols, seed: int = 0) -> str:
        rng = np.random.default_rng(seed)
        path = folder / "vectors.safetensors"
        ElementTable.of("mine", {symbol: rng.normal(size=5) for symbol in symbols}).save(path)
        return str(path)

    @pytest.mark.parametrize(("trainable", "standardise"), [(True, True), (False, True), (False, False)])
    def test_fine_tuned_or_frozen(self, tmp_path: Path, trainable: bool, standardise: bool) -> None:
        vectors = self.table(tmp_path)
        chosen = {"table": vectors, "trainable": trainable, "standardise": standardise}
        settings = recipe("cgcnn", elements=chosen)
        weights = fit(table_of(tmp_path), [ENERGY], tmp_path / "run", settings)
        checkpoint = load_checkpoint(weights)
        assert checkpoint.model.config.element_dim == 5
        table = ElementTable.load(vectors)
        table = table.standardised() if standardise else table
        after = checkpoint.model.elements.vectors.detach().numpy()[table.numbers - 1]
        assert np.array_equal(after, table.vectors) != trainable
        assert np.abs(after - table.vectors).max() < 0.1
        assert checkpoint.card["elements"] == {"name": "mine", "dim": 5}
        assert checkpoint.model.elements.known.sum() == 8

    def test_a_table_that_lacks_an_element_is_refused_before_training(self, tmp_path: Path) -> None:
        settings = recipe("cgcnn", elements={"table": self.table(tmp_path, self.symbols[:-1])})
        with pytest.raises(TableError, match=r"x\d+ \(train\): mine: has no vector for Cl"):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", settings)

    def test_another_table_is_another_run(self, tmp_path: Path) -> None:
        settings = recipe("cgcnn", elements={"table": self.table(tmp_path)})
        with pytest.raises(StoppedError):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", settings, observer=StopAfter(1))
        self.table(tmp_path, seed=1)
        with pytest.raises(ConfigError, match="element table"):
            fit(table_of(tmp_path), [ENERGY], tmp_path / "run", settings, resume=True)

    def test_a_model_with_its_own_table_takes_none(self) -> None:
        with pytest.raises(ConfigError, match="crystaltransformer has a table of its own"):
            recipe(elements={"table": "mat2vec"})


def test_numbers_of_a_row_are_those_of_its_crystal(tmp_path: Path) -> None:
    table = table_of(tmp_path)
    crystal: Crystal = table[5]
    assert np.array_equal(table.numbers(5), crystal.numbers)
