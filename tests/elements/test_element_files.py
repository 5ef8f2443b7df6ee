"""Files of element vectors: their exact bytes, what is read back, and what is refused with file and element."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from crystalformers.elements import ElementTable, load_elements
from crystalformers.elements.export import export
from crystalformers.elements.formats import FORMATS
from crystalformers.elements.matgl import SYMBOLS, WEIGHT
from crystalformers.errors import ConfigError, TableError
from crystalformers.periodic import ELEMENTS

SMALL = ElementTable(
    "small", np.array([1, 26]), np.array([[0.1, -2, 1e-9], [3, 0.25, 1 / 3]]), np.array([4, 2]), {"seed": 7}
)
"""Hydrogen and iron."""


@pytest.fixture
def whole() -> ElementTable:
    """All 118 elements."""
    vectors = np.random.default_rng(0).normal(size=(118, 20)).astype(np.float32)
    return ElementTable("whole", np.arange(1, 119), vectors)


def test_symbols_json_to_the_byte(tmp_path: Path) -> None:
    export(SMALL, tmp_path / "s.json", "json")
    assert (tmp_path / "s.json").read_text() == ('{\n"H": [0.1, -2.0, 1e-09],\n"Fe": [3.0, 0.25, 0.33333334]\n}\n')


def test_csv_to_the_byte(tmp_path: Path) -> None:
    export(SMALL, tmp_path / "s.csv", "csv")
    assert (tmp_path / "s.csv").read_text() == "element,0,1,2\nH,0.1,-2.0,1e-09\nFe,3.0,0.25,0.33333334\n"


def test_crabnet_csv_has_every_element_in_its_place(tmp_path: Path) -> None:
    written = export(SMALL, tmp_path / "s.csv", "crabnet", fill="zero")
    lines = (tmp_path / "s.csv").read_text().splitlines()
    assert len(lines) == 119
    assert [line.split(",")[0] for line in lines[1:]] == list(ELEMENTS)
    assert lines[2] == "He,0.0,0.0,0.0"
    assert lines[26] == "Fe,3.0,0.25,0.33333334"
    assert len(written.metadata["filled"]) == 116


@pytest.mark.parametrize("fmt", ["cgcnn", "alignn"])
def test_atom_init_has_the_keys_1_to_100(fmt: str, tmp_path: Path) -> None:
    export(SMALL, tmp_path / "atom_init.json", fmt, fill="mean")
    content = json.loads((tmp_path / "atom_init.json").read_text())
    assert list(content) == [str(number) for number in range(1, 101)]
    assert content["26"] == [3.0, 0.25, 0.33333334]
    np.testing.assert_allclose(content["100"], SMALL.vectors.mean(axis=0), rtol=1e-6)


def test_matgl_rows_stand_in_the_order_of_its_elements(whole: ElementTable, tmp_path: Path) -> None:
    export(whole, tmp_path / "m.safetensors", "matgl", dim=16)
    weight = load_file(tmp_path / "m.safetensors")[WEIGHT]
    assert weight.shape == (89, 16)
    assert len(SYMBOLS) == 89
    np.testing.assert_array_equal(weight[SYMBOLS.index("U")], whole.reduced(16)["U"])
    # Five elements before uranium have no row.
    assert SYMBOLS.index("U") == 92 - 1 - 5


def test_parquet_columns(tmp_path: Path) -> None:
    export(SMALL, tmp_path / "s.parquet", "parquet")
    frame = pq.read_table(tmp_path / "s.parquet").to_pandas()
    assert list(frame.columns) == ["symbol", "atomic_number", "count", "vector"]
    assert frame["count"].tolist() == [4, 2]
    np.testing.assert_array_equal(np.stack(frame["vector"].tolist()), SMALL.vectors)


def test_npz_arrays(tmp_path: Path) -> None:
    export(SMALL, tmp_path / "s.npz", "npz")
    with np.load(tmp_path / "s.npz") as arrays:
        assert sorted(arrays) == ["about", "counts", "numbers", "symbols", "vectors"]
        assert arrays["symbols"].tolist() == ["H", "Fe"]
        np.testing.assert_array_equal(arrays["vectors"], SMALL.vectors)


@pytest.mark.parametrize("fmt", FORMATS)
def test_every_format_comes_back_the_same_to_the_last_bit(fmt: str, whole: ElementTable, tmp_path: Path) -> None:
    path = tmp_path / f"t{FORMATS[fmt].suffix}"
    written = export(whole, path, fmt)
    back = load_elements(path)
    np.testing.assert_array_equal(back.numbers, written.numbers)
    np.testing.assert_array_equal(back.vectors, written.vectors)
    first = path.read_bytes()
    export(whole, path, fmt)
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("fmt", ["parquet", "npz", "safetensors"])
def test_counts_and_metadata_come_back(fmt: str, tmp_path: Path) -> None:
    path = tmp_path / f"t{FORMATS[fmt].suffix}"
    export(SMALL, path, fmt)
    back = load_elements(path)
    assert (back.name, back.metadata) == ("small", {"seed": 7})
    assert back.counts is not None
    assert back.counts.tolist() == [4, 2]


def test_what_was_filled_for_matgl_does_not_come_back(tmp_path: Path) -> None:
    export(SMALL, tmp_path / "m.safetensors", "matgl", fill="mean")
    assert load_elements(tmp_path / "m.safetensors").symbols == ("H", "Fe")


@pytest.mark.parametrize("fmt", ["cgcnn", "crabnet", "matgl"])
def test_missing_elements_are_refused_by_name_and_nothing_is_written(fmt: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"small: has no vector for He, Li, Be.* and .* more; fill with mean or zero"):
        export(SMALL, tmp_path / "x", fmt)
    assert not list(tmp_path.iterdir())


def test_what_export_cannot_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'xml' is no format of element tables"):
        export(SMALL, tmp_path / "x", "xml")
    with pytest.raises(ConfigError, match="holds the elements that the table has"):
        export(SMALL, tmp_path / "x", "csv", fill="zero")
    with pytest.raises(TableError, match="cannot be reduced to 16 dimensions"):
        export(SMALL, tmp_path / "x", "csv", dim=16)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "element,0,1\nFe,1,2\nO,3\n", "the vector of O has 1 numbers, the header 2"),
        ("t.csv", "element,0,1\nFe,1,2\nO,3,\n", "the vector of O lacks a number in column '1'"),
        ("t.csv", "element,0,1\nFe,1,2\nO,3,x\n", "the vector of O holds something that is no number"),
        ("t.csv", "element,0,1\nFe,1,2\nO,3,nan\n", "the vector of O holds NaN"),
        ("t.csv", "element,0,1\nFe,1,2\nFe,3,4\n", "Fe occurs twice"),
        ("t.csv", "element,0,1\nFe,5,2\nCo,5,2\n", "Fe and Co have the same vector"),
        ("t.csv", "element,0,1\nFe,1,2\nXx,3,4\n", "'Xx' is no element"),
        ("t.csv", "symbol,0,1\nFe,1,2\n", "the first line must be 'element,0,1,...'"),
        ("t.csv", "", "the first line must be"),
        ("t.json", '{"Fe": [1, 2], "O": [3]}', r"the vector of O has shape \(1,\), that of Fe \(2,\)"),
        ("t.json", '{"Fe": [1, 2], "O": [3, NaN]}', "the vector of O holds NaN"),
        ("t.json", '{"Fe": [1, 2], "O": [3, "x"]}', "the vector of O holds something that is no number"),
        ("t.json", '{"Fe": [1, 2], "O": null}', "the vector of O "),
        ("t.json", '{"Fe": [1, 2], "O": {"a": 1}}', "the vector of O "),
        ("t.json", '{"Fe": [1, 2], "Fe": [3, 4]}', "Fe occurs twice"),
        ("t.json", '{"26": [1, 2], "026": [3, 4]}', "Fe occurs twice"),
        ("t.json", '{"26": [5, 2], "27": [5, 2]}', "Fe and Co have the same vector"),
        ("t.json", '{"26": [1, 2], "Null": [3, 4]}', "is no element"),
        ("t.json", "[1, 2]", "not an object"),
        ("t.json", "{}", "not an object"),
        ("t.json", '{"Fe": [1, 2', "cannot be read"),
        ("t.npz", "not a zip", "cannot be read"),
        ("t.parquet", "not parquet", "cannot be read"),
        ("t.safetensors", "nothing", "not a readable safetensors file"),
        ("t.txt", "Fe 1 2", "not a table of elements by its name"),
    ],
)
def test_bad_files_are_refused_with_file_and_element(name: str, content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(TableError, match=message) as caught:
        load_elements(tmp_path / name)
    assert caught.value.where.startswith(str(tmp_path / name))


def test_arrays_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, numbers=np.array([1, 26]), vectors=np.zeros((3, 4)))
    with pytest.raises(TableError, match=r"t\.npz: .*2 elements do not fit vectors of shape \(3, 4\)"):
        load_elements(path)
    np.savez(path, vectors=np.zeros((3, 4)))
    with pytest.raises(TableError, match="it needs the arrays 'numbers' and 'vectors'"):
        load_elements(path)
