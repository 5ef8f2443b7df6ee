"""Tables of element vectors: what they answer, what comes back from disk, and what is refused with its element."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from crystalformers.elements import ElementTable, load_elements
from crystalformers.elements.table import HEADER_KEY
from crystalformers.errors import TableError

NUMBERS = np.array([1, 8, 26, 92])


def make(**changes: object) -> ElementTable:
    """H, O, Fe and U with random vectors."""
    vectors = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    arguments = {"name": "four", "numbers": NUMBERS, "vectors": vectors, "counts": np.array([5, 9, 3, 1])}
    return ElementTable(**{**arguments, **changes})  # type: ignore[arg-type]


def test_it_answers_by_symbol_and_by_number() -> None:
    table = make()
    assert (table.dim, len(table), table.symbols) == (6, 4, ("H", "O", "Fe", "U"))
    assert list(table) == ["H", "O", "Fe", "U"]
    np.testing.assert_array_equal(table["Fe"], table.vectors[2])
    np.testing.assert_array_equal(table[26], table["Fe"])
    assert table["Fe"].dtype == np.float32
    assert "Fe" in table
    assert 26 in table
    assert "Co" not in table
    assert 27 not in table


def test_rows_follow_the_numbers_asked_for() -> None:
    table = make()
    np.testing.assert_array_equal(table.rows([92, 1, 92]), table.vectors[[3, 0, 3]])


def test_it_is_sorted_by_atomic_number() -> None:
    table = make()
    shuffled = make(numbers=NUMBERS[::-1], vectors=table.vectors[::-1], counts=np.array([1, 3, 9, 5]))
    np.testing.assert_array_equal(shuffled.vectors, table.vectors)
    np.testing.assert_array_equal(shuffled.counts, table.counts)


def test_missing_elements_are_refused_by_name() -> None:
    table = make()
    with pytest.raises(TableError, match="four: has no vector for Co"):
        table["Co"]
    with pytest.raises(TableError, match="no vector for C, Co;"):
        table.rows([1, 6, 27])
    with pytest.raises(TableError, match="no vector for He, Li, Be"):
        table.dense(max_z=10)
    for element in ("Xx", 0, 119):
        with pytest.raises(TableError, match=f"'{element}' is no element"):
            table[element]
    with pytest.raises(TableError, match="'0' is no element"):
        table.rows([1, 0])


def test_dense_rows_and_their_mark() -> None:
    table = make()
    dense, known = table.dense("zero"), table.known()
    assert dense.shape == (100, 6)
    assert np.flatnonzero(known).tolist() == [0, 7, 25, 91]
    np.testing.assert_array_equal(dense[known], table.vectors)
    assert not dense[~known].any()
    np.testing.assert_allclose(table.dense("mean", 118)[117], table.vectors.mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(table.dense("zero", 26), dense[:26])


def test_completed_names_what_it_filled() -> None:
    full = make().completed([1, 2, 8], "mean")
    assert full.symbols == ("H", "He", "O")
    assert full.metadata["filled"] == ["He"]
    with pytest.raises(TableError, match="no vector for He;"):
        make().completed([1, 2])


def test_standardised() -> None:
    standardised = make().standardised()
    np.testing.assert_allclose(standardised.vectors.mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(standardised.vectors.std(axis=0), 1, rtol=1e-5)
    constant = make(vectors=np.full((4, 2), 0.1, dtype=np.float32)).standardised()
    assert not constant.vectors.any()


def test_reduced_keeps_the_largest_variance_and_no_sign_by_chance() -> None:
    rng = np.random.default_rng(1)
    scale = np.array([5.0, 1.0, 0.01, 0.01])
    table = ElementTable("wide", np.arange(1, 51), (rng.normal(size=(50, 4)) * scale + 3).astype(np.float32))
    reduced = table.reduced(2)
    assert reduced.dim == 2
    assert reduced.vectors[:, 0].std() > reduced.vectors[:, 1].std() > 0.5
    # Distances between elements survive, but for the variance that was left out.
    before = np.linalg.norm(table["H"] - table["Fe"])
    assert np.linalg.norm(reduced["H"] - reduced["Fe"]) == pytest.approx(before, abs=0.1)
    np.testing.assert_array_equal(reduced.vectors, table.reduced(2).vectors)
    mirrored = ElementTable("wide", table.numbers, -table.vectors).reduced(2)
    np.testing.assert_allclose(mirrored.vectors, -reduced.vectors, atol=1e-5)
    with pytest.raises(TableError, match="cannot be reduced to 5 dimensions; choose 1 to 4"):
        table.reduced(5)


def test_it_comes_back_from_disk(tmp_path: Path) -> None:
    table = make(metadata={"seed": 3, "targets": [{"name": "gap", "unit": "eV"}]})
    table.save(tmp_path / "t.safetensors")
    back = load_elements(tmp_path / "t.safetensors")
    assert back.name == "four"
    assert back.metadata == table.metadata
    assert back.counts is not None
    for one, other in ((back.vectors, table.vectors), (back.numbers, table.numbers), (back.counts, table.counts)):
        np.testing.assert_array_equal(one, other)
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"numbers": np.array([1, 8, 26, 26])}, "Fe occurs twice"),
        ({"numbers": np.array([1, 8, 26])}, "3 elements do not fit vectors of shape"),
        ({"numbers": np.array([1, 8, 26, 119])}, "'119' is no element"),
        ({"numbers": np.array([], dtype=int)}, "holds no elements"),
        ({"vectors": np.array([[1.0], [2.0], [np.nan], [3.0]])}, "the vector of Fe holds NaN"),
        ({"vectors": np.array([[1.0], [1e300], [2.0], [3.0]])}, "the vector of O holds NaN or infinite"),
        ({"vectors": np.ones(4)}, "do not fit vectors of shape"),
        ({"counts": np.array([5, 9, 0, 1])}, "Fe was never seen in training"),
        ({"counts": np.array([5, 9, 1])}, "do not fit counts of shape"),
    ],
)
def test_bad_tables_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(TableError, match=message):
        make(**changes)


def test_vectors_of_another_length_are_refused() -> None:
    with pytest.raises(TableError, match=r"t: the vector of O has shape \(2,\), that of H \(3,\)"):
        ElementTable.of("t", {"H": [1, 2, 3], "O": [1, 2]})


def test_two_elements_with_one_vector_are_refused_from_a_file(tmp_path: Path) -> None:
    table = make()
    copied = make(vectors=table.vectors[[0, 1, 1, 3]])
    copied.save(tmp_path / "copied.safetensors")
    with pytest.raises(TableError, match=r"copied\.safetensors: four: O and Fe have the same vector"):
        load_elements(tmp_path / "copied.safetensors")
    make(vectors=copied.vectors, metadata={"shared_vectors": True}).save(tmp_path / "meant.safetensors")
    assert len(load_elements(tmp_path / "meant.safetensors")) == 4
    make(vectors=np.eye(4)[[0, 1, 1, 3]]).save(tmp_path / "bits.safetensors")
    assert len(load_elements(tmp_path / "bits.safetensors")) == 4


def test_bad_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    make().save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TableError, match="not a readable safetensors file"):
        load_elements(path)
    save_file({"x": np.zeros(3)}, path)
    with pytest.raises(TableError, match="not a table of elements"):
        load_elements(path)
    header = {HEADER_KEY: json.dumps({"kind": "element table", "format": 1, "name": "t", "metadata": {}})}
    save_file({"numbers": NUMBERS}, path, header)
    with pytest.raises(TableError, match="'numbers' and 'vectors' are not both there"):
        load_elements(path)
    vectors = make().vectors.copy()
    vectors[2, 1] = np.nan
    save_file({"numbers": NUMBERS, "vectors": vectors}, path, header)
    with pytest.raises(TableError, match=r"t\.safetensors: t: the vector of Fe holds NaN"):
        load_elements(path)


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(TableError, match="Did you mean 'one-hot'"):
        load_elements("one-hor")


def test_a_name_that_is_also_a_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one-hot").touch()
    with pytest.raises(TableError, match="is the name of a table and a path here"):
        load_elements("one-hot")


def test_a_table_opens_without_torch(tmp_path: Path) -> None:
    make().save(tmp_path / "t.safetensors")
    script = (
        "import sys\nfrom crystalformers.elements import load_elements\n"
        f"load_elements({str(tmp_path / 't.safetensors')!r})['Fe']\n"
        "heavy = {'torch', 'pandas', 'pymatgen', 'sklearn', 'matplotlib'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
