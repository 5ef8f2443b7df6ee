"""Tables of others: what they hold, where they come from, and what is said when their package is absent."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from crystalformers.elements import load_elements, sources
from crystalformers.errors import TableError


def needs(module: str, package: str) -> Any:
    """Skip, and say so, where a package of others is not installed."""
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"NOT TESTED: {package} is not installed (pip install {package})")


def test_one_hot() -> None:
    table = load_elements("one-hot")
    assert table["Fe"].argmax() == 25
    np.testing.assert_array_equal(table.vectors, np.eye(100))


def test_random_vectors_follow_their_seed() -> None:
    one, again, other = (load_elements(name) for name in ("random-1", "random-1", "random-2"))
    np.testing.assert_array_equal(one.vectors, again.vectors)
    assert abs(one.vectors - other.vectors).max() > 0.1
    assert (np.linalg.norm(one.vectors, axis=1) ** 2).mean() == pytest.approx(1, abs=0.1)


def test_physical_properties_are_standardised_and_list_what_they_imputed() -> None:
    table = load_elements("physical")
    assert len(table) == 100
    np.testing.assert_allclose(table.vectors.std(axis=0), 1, rtol=1e-4)
    columns, imputed = table.metadata["columns"], table.metadata["imputed"]
    assert len(columns) == table.dim
    assert imputed["electronegativity (Pauling)"] == ["He", "Ne", "Ar"]
    x = columns.index("electronegativity (Pauling)")
    assert table["F"][x] == table.vectors[:, x].max()
    assert table["Ne"][x] == pytest.approx(0, abs=1e-6)
    d = columns.index("outer d electrons")
    assert table["Sc"][d] < table["Fe"][d] < table["Pd"][d] == table["Zn"][d]


@needs("jarvis", "jarvis-tools")
def test_cgcnn_bits() -> None:
    table = load_elements("cgcnn")
    assert table.vectors.shape == (100, 92)
    assert set(np.unique(table.vectors)) == {0, 1}
    # Group, row and block of iron: 8, 4 and d.
    assert np.flatnonzero(table["Fe"])[:2].tolist() == [8, 19 + 3]
    np.testing.assert_array_equal(table["La"], table["Ce"])


@needs("elementembeddings", "ElementEmbeddings")
@pytest.mark.parametrize(
    ("name", "elements", "dim"), [("mat2vec", 118, 200), ("skipatom", 86, 200), ("megnet16", 94, 16)]
)
def test_published_tables(name: str, elements: int, dim: int) -> None:
    table = load_elements(name)
    assert table.vectors.shape == (elements, dim)
    assert table.metadata["citation"]


@needs("elementembeddings", "ElementEmbeddings")
def test_every_published_name_is_known_to_the_package() -> None:
    from elementembeddings.utils.config import DEFAULT_ELEMENT_EMBEDDINGS

    assert set(sources.PUBLISHED) <= DEFAULT_ELEMENT_EMBEDDINGS.keys()
    assert load_elements("megnet16").metadata["left_out"] == ["Null"]


@pytest.mark.parametrize(("name", "package"), [("mat2vec", "ElementEmbeddings"), ("cgcnn", "jarvis-tools")])
def test_an_absent_package_is_named(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(TableError, match=rf"'{name}' comes with {package}; pip install"):
        load_elements(name)


def test_every_listed_name_is_known() -> None:
    assert all(sources.is_known(name.replace("SEED", "0")) for name in sources.names())
    assert not sources.is_known("random-x")
