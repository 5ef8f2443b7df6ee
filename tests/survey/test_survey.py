"""The page about a table: counts, duplicates that another cell does not hide, overlap, and a file without requests."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from command import invoke
from samples import many, rock_salt, supercell, write_table

from crystalformers import open_table
from crystalformers.crystal import Crystal
from crystalformers.survey import Facts, facts_of, write_survey
from crystalformers.survey.duplicates import NEIGHBOURS, average_minimum_distances, find_duplicates
from crystalformers.survey.facts import space_group
from crystalformers.survey.page import system_counts


def named(crystal: Crystal, name: str) -> Crystal:
    return Crystal(crystal.numbers, crystal.frac_coords, crystal.lattice, name)


def turned(crystal: Crystal) -> Crystal:
    """The same crystal: another cell, origin, order and orientation."""
    angle = np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1.0]])
    shear = np.array([[1, 1, 0], [0, 1, 0], [0, 2, 1]])
    lattice = shear @ crystal.lattice
    frac = (crystal.frac_coords + np.array([0.3, 0.1, 0.7])) @ np.linalg.inv(shear)
    return supercell(Crystal(crystal.numbers[::-1], frac[::-1], lattice @ angle), 2)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Seven crystals: two of them twice, one of them the same formula with another lattice."""
    crystals = [
        named(rock_salt(), "a"),
        named(turned(rock_salt()), "a-again"),
        named(rock_salt("Mg", "O", 4.21), "b"),
        named(rock_salt("Mg", "O", 4.215), "b-again"),
        named(rock_salt("Mg", "O", 4.6), "b-wider"),
        named(rock_salt("K", "Br", 6.6), "c"),
        named(rock_salt("Li", "F", 4.03), "d"),
    ]
    split = ["train", "test", "train", "val", "test", "test", "train"]
    labels = {"gap": [1.0, 2.0, None, 0.0, 0.0, 5.0, 7.0], "split": split, "note": list("abcdefg"), "empty": [None] * 7}
    return write_table(tmp_path / "table.parquet", crystals, **labels)


def facts(table: Path) -> Facts:
    return facts_of(open_table(table), "mine", {"gap": "eV"}, 0, lambda _: None)


def test_counts(table: Path) -> None:
    found = facts(table)
    assert found.elements == {"Li": 1, "O": 3, "F": 1, "Na": 2, "Mg": 3, "Cl": 2, "K": 1, "Br": 1}
    assert found.n_atoms.tolist() == [2, 4, 2, 2, 2, 2, 2]
    assert list(found.labels) == ["gap"]
    assert found.parts == {"train": 3, "val": 1, "test": 3}
    assert found.space_groups == {225: 7}
    assert system_counts(found)["cubic"] == 7


def test_duplicates_and_overlap(table: Path) -> None:
    found = facts(table).duplicates
    assert found.groups == (("a", "a-again"), ("b", "b-again"))
    assert (found.rows, found.formulas) == (2, 4)
    val, test = found.overlaps
    assert (val.part, val.rows, val.same_formula, val.same_crystal) == ("val", 1, 1, 1)
    assert (test.part, test.rows, test.same_formula, test.same_crystal) == ("test", 3, 2, 1)
    assert find_duplicates(open_table(table), np.array([0, 4, 5])).groups == ()


def test_distances_do_not_depend_on_the_cell() -> None:
    for crystal in many(8):
        one, other = average_minimum_distances([crystal, turned(crystal)])
        np.testing.assert_allclose(one, other, atol=1e-9)
    # Rock salt: six neighbours at half the cell, then twelve at that times sqrt(2).
    (distances,) = average_minimum_distances([rock_salt(a=5.0)])
    np.testing.assert_allclose(distances, [2.5] * 6 + [2.5 * 2**0.5] * (NEIGHBOURS - 6))
    (lonely,) = average_minimum_distances([Crystal(np.array([18]), np.zeros((1, 3)), 20 * np.eye(3))])
    np.testing.assert_array_equal(lonely, 8.0)


def test_a_distorted_crystal_has_another_space_group() -> None:
    crystal = rock_salt()
    assert space_group(Crystal(crystal.numbers, crystal.frac_coords, crystal.lattice * [1, 1, 1.1])) == 139


class Requests(HTMLParser):
    """Collects what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "href"} and value:
                self.images += value.startswith("data:image/png")
                self.found += [] if value.startswith("data:") else [value]
        if tag in {"script", "link", "iframe"}:
            self.found.append(tag)


def test_the_page_is_one_file_without_requests(table: Path, tmp_path: Path) -> None:
    result = invoke("data", "show", table, "-o", tmp_path / "page.html")
    assert result.exit_code == 0, result.stderr
    assert "rows: 7, of these 2 nearly the same crystal as another" in result.stdout
    assert "test: 3 rows, 2 with a reduced formula of the training rows, 1 nearly the same" in result.stdout
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    requests = Requests()
    requests.feed(text)
    assert requests.found == []
    assert requests.images == 4
    assert not re.search(r"url\(|@import", text)
    assert "a, a-again" in text
    assert "exists" in invoke("data", "show", table, "-o", tmp_path / "page.html").stderr
    assert "must end in .html" in invoke("data", "show", table, "-o", tmp_path / "page.pdf").stderr


def test_names_of_the_data_are_text_on_the_page(tmp_path: Path) -> None:
    crystals = [named(rock_salt(), f"<script>{k}</script>") for k in range(2)]
    path = write_table(tmp_path / "table.parquet", crystals)
    write_survey(path, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;0&lt;/script&gt;, &lt;script&gt;1" in text
    assert "<script" not in text
    assert "brings no split" in text
    assert "<h2>Labels" not in text
