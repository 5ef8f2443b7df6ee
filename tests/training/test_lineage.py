"""Which test rows a parent has learned from: counts by hand, samples, what is unknown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runs import ENERGY, GAP, SETTINGS, Listener, recipe, table_of
from samples import tiny_model

from crystalformers import load_model
from crystalformers.data.table import CrystalTable
from crystalformers.training import Recipe, fit, fit_ensemble, lineage
from crystalformers.training.lineage import MOST_HASHES, Overlap, overlap, rows_seen


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> CrystalTable:
    return table_of(tmp_path_factory.mktemp("table"), 24)


def child(table: CrystalTable, parent: Path, run: Path) -> tuple[dict[str, object], str]:
    """The lineage on the card of a model that was fine-tuned, and what the run said.

    Every fifth row has no gap, so that 3 of the rows 20 to 23 and 13 of the rows 8 to 23 are test rows.
    """
    settings = {name: value for name, value in SETTINGS.items() if name != "model"}
    listener = Listener()
    fit(table, [GAP], run, Recipe.parse({**settings, "epochs": 1, "init": str(parent)}), observer=listener)
    return load_model(run).card["init"], "\n".join(listener.messages)


def test_ids_and_compositions_by_hand(table: CrystalTable) -> None:
    """The crystals repeat seven compositions; rows 0 to 4 have five of them, rows 3 to 9 all."""
    arrays = dict(rows_seen(table, np.arange(5)))
    found = overlap(arrays, table, np.arange(3, 10))
    assert found == {"ids": Overlap(2, 7, 7), "compositions": Overlap(5, 7, 7)}
    assert arrays["training.ids"].dtype == np.int64
    assert overlap({}, table, np.arange(3)) is None


def test_what_the_parent_has_seen_is_added(table: CrystalTable) -> None:
    parent = rows_seen(table, np.arange(5))
    arrays = rows_seen(table, np.arange(4, 8), parent)
    found = overlap(arrays, table, np.arange(12))
    assert found is not None
    assert found["ids"] == Overlap(8, 12, 12)
    assert overlap(rows_seen(table, np.arange(8)), table, np.arange(12)) == found


def test_of_many_rows_a_sample_tells(table: CrystalTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineage, "MOST_HASHES", 8)
    arrays = rows_seen(table, np.arange(16))
    assert len(arrays["training.ids"]) == 8
    found = overlap(arrays, table, np.arange(24))
    assert found is not None
    assert found["ids"].shared == 8  # all that are stored are among the rows
    assert 8 <= found["ids"].checked < found["ids"].rows == 24
    assert 2 * 8 * MOST_HASHES < 2**18


def test_a_run_reports_the_overlap_with_its_parent(table: CrystalTable, tmp_path: Path) -> None:
    fit(table, [ENERGY], tmp_path / "parent", recipe(epochs=1))
    known, _ = child(table, tmp_path / "parent", tmp_path / "run")
    assert known["overlap"]["ids"] == {"shared": 0, "checked": 3, "rows": 3}  # type: ignore[index]
    assert known["overlap"]["compositions"] == {"shared": 3, "checked": 3, "rows": 3}  # type: ignore[index]
    assert known["knows_ancestors"]
    everything = table_of(tmp_path, 24, split=["train"] * 4 + ["val"] * 4 + ["test"] * 16)
    known, said = child(everything, tmp_path / "run", tmp_path / "grandchild")
    assert known["overlap"]["ids"] == {"shared": 6, "checked": 13, "rows": 13}  # type: ignore[index]
    assert "the parent has learned from the ids of 6 of 13 and the compositions of 13 of 13 test rows" in said


def test_a_parent_that_does_not_say_is_unknown(table: CrystalTable, tmp_path: Path) -> None:
    from samples import ENERGY as OTHER

    parent = tiny_model(tmp_path / "old.safetensors", (OTHER,))
    known, said = child(table, parent, tmp_path / "run")
    assert known["overlap"] == "unknown"
    assert "whether the parent has learned from test rows is unknown" in said
    known, said = child(table, tmp_path / "run", tmp_path / "grandchild")
    assert known["overlap"]["ids"]["shared"] == 0  # type: ignore[index]
    assert not known["knows_ancestors"]
    assert "of its own parents it is unknown" in said


def test_an_ensemble_has_seen_all_rows_but_those_for_testing(table: CrystalTable, tmp_path: Path) -> None:
    fit_ensemble(table, [ENERGY], tmp_path / "run", recipe(epochs=1), 2)
    found = overlap(load_model(tmp_path / "run").arrays, table, np.arange(24))
    assert found is not None
    assert found["ids"] == Overlap(20, 24, 24)
