"""The report on element tables: complete, the same twice, whole or absent; and its pictures hold what they should."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from command import invoke

pytest.importorskip("sklearn", reason="NOT TESTED: scikit-learn is not installed (extra 'elements')")

from crystalformers.elements import ElementTable, sources
from crystalformers.elements.analysis.properties import places
from crystalformers.elements.report import maps, periodic_table, write_report
from crystalformers.errors import ConfigError, TableError
from crystalformers.plots import style

PICTURES = [
    *("families", "number", "map", "components", "distances", "component-1", "component-2", "correlations", "probes"),
    "likeness",
]
"""In the order of the page."""

NUMBERS = np.delete(np.arange(1, 58), 9)
"""Hydrogen to lanthanum, without neon: small enough to be quick."""


def chemistry(seed: int) -> ElementTable:
    """Vectors that know group and period, in coordinates of their own for each seed."""
    where = places(NUMBERS)
    known = np.stack([where.group / 6, where.period / 2, where.block == "d", np.ones(len(NUMBERS))], axis=1)
    random = np.random.default_rng(seed)
    vectors = known @ random.normal(size=(4, 16)) + 0.1 * random.normal(size=(len(NUMBERS), 16))
    return ElementTable(
        f"chemistry-seed{seed}",
        NUMBERS,
        vectors,
        np.arange(1, 57),
        {"seed": seed, "training set": "<none>", "recipe": {"x": "/a"}},
    )


@pytest.fixture(scope="module", autouse=True)
def quick_map() -> None:
    """UMAP, where it is installed, compiles for longer than all tests take."""
    patch = pytest.MonkeyPatch()
    patch.setattr(maps, "map_method", lambda: "t-SNE")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reports")
    tables = [chemistry(0), chemistry(1), sources.one_hot()]
    steps: list[str] = []
    assert write_report(tables, folder / "first", seed=3, draws=3, progress=steps.append) == folder / "first/index.html"
    assert steps[0] == "families of elements"
    assert steps[-1] == "pictures"
    return folder


def test_a_report_is_complete(report: Path) -> None:
    written = {path.name for path in (report / "first").iterdir()}
    assert written == {"index.html", "results.json", *(f"{name}.png" for name in PICTURES)}
    assert [path.name for path in report.iterdir()] == ["first"], "nothing is left beside it"
    for name in PICTURES:
        assert (report / "first" / f"{name}.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_the_page_stands_alone_and_has_every_section(report: Path) -> None:
    text = (report / "first/index.html").read_text(encoding="utf-8")
    assert re.findall(r'<h2 id="([^"]+)"', text) == [*PICTURES, "neighbours"]
    assert text.count('<img src="data:image/png;base64,') == len(PICTURES)
    assert not re.search(r'(src|href)="(?!data:|#)', text), "nothing is loaded from elsewhere"
    assert "{" not in re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL), "every blank is filled in"
    assert "&lt;none&gt;" in text
    open_tags: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            if tag not in ("meta", "img"):
                open_tags.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert open_tags.pop() == tag

    Balance().feed(text)
    assert open_tags == []


def test_the_numbers_of_a_report(report: Path) -> None:
    numbers = json.loads((report / "first/results.json").read_text(encoding="utf-8"))
    assert [table["name"] for table in numbers["tables"]] == ["chemistry", "one-hot", "random"]
    assert numbers["tables"][0]["tables"][0]["metadata"] == {"seed": 0, "training set": "<none>"}
    assert len(numbers["elements"]) == len(NUMBERS)
    families = numbers["families"]
    assert sorted(symbol for family in families["members"] for symbol in family) == sorted(numbers["elements"])
    assert len(families["jaccard"]) == len(families["members"]) == families["number"]
    assert [pair["tables"] for pair in families["seeds"]] == [["chemistry-seed0", "chemistry-seed1"]]
    probes = {(p["tables"], p["property"], p["left_out"]): p for p in numbers["probes"]}
    assert len(probes) == 3 * 6 * 2
    good = probes["chemistry", "electronegativity", "element"]
    assert good["r2_low"] < good["r2"] < good["r2_high"]
    assert good["r2"] > 0.5
    assert len(good["r2_of_seeds"]) == 2
    assert probes["random", "electronegativity", "element"]["r2"] < 0.2
    assert probes["one-hot", "electronegativity", "element"]["r2"] == pytest.approx(0, abs=1e-6)
    assert "Ne" not in numbers["nearest"]
    likeness = {tuple(pair["tables"]): pair["value"] for pair in numbers["likeness"]}
    assert likeness["chemistry", "one-hot"] is None
    assert likeness["chemistry", "chemistry"] > 0.5


def test_elements_that_training_hardly_saw_are_named(report: Path) -> None:
    """The tables were made to have seen the first element once, the second twice, and so on."""
    text = (report / "first/index.html").read_text(encoding="utf-8")
    assert text.count("held by fewer than 50 training crystals (H 1, He 2, Li 3, ") == 5, "families, maps, components"
    assert "I 51" not in text.partition("training crystals (")[2].partition(")")[0]
    seen = json.loads((report / "first/results.json").read_text(encoding="utf-8"))["training_crystals"]
    assert (seen["H"], seen["La"]) == (1, 56)


def test_a_table_without_counts_marks_no_element(tmp_path: Path) -> None:
    one = chemistry(0)
    page = write_report([ElementTable("bare", one.numbers, one.vectors)], tmp_path / "out", draws=1)
    assert "Dashed" not in page.read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out/results.json").read_text(encoding="utf-8"))["training_crystals"] is None


def test_probes_of_all_tables_stand_side_by_side(report: Path) -> None:
    text = (report / "first/index.html").read_text(encoding="utf-8")
    short = text.partition("<tr><th>table</th>")[2].partition("</table>")[0]
    numbers = json.loads((report / "first/results.json").read_text(encoding="utf-8"))["probes"]
    assert re.findall(r"<tr><td>([^<]+)</td>", short) == ["chemistry", "one-hot", "random"]
    first = [p for p in numbers if p["tables"] == "chemistry" and p["property"] == "electronegativity"]
    element, group = (style.signed(p["r2"]) for p in first)
    assert f"{element} <small>({group})</small>" in short
    # One-hot codes of left-out elements know nothing: what is left is rounding, and no draw of chance is worse.
    assert all(p["p"] == 1 for p in numbers if p["tables"] == "one-hot")


def test_the_same_tables_and_seed_give_the_same_files(report: Path) -> None:
    tables = [chemistry(0), chemistry(1), sources.one_hot()]
    write_report(tables, report / "second", seed=3, draws=3)
    for path in (report / "first").iterdir():
        assert path.read_bytes() == (report / "second" / path.name).read_bytes(), path.name


def test_what_is_there_is_not_overwritten_unasked(report: Path, tmp_path: Path) -> None:
    tables = [chemistry(0)]
    with pytest.raises(ConfigError, match="holds a report; name another folder, or replace it with --overwrite"):
        write_report(tables, report / "first")
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(ConfigError, match="holds files that are no report"):
        write_report(tables, tmp_path, overwrite=True)
    with pytest.raises(ConfigError, match="is a file; name a folder"):
        write_report(tables, tmp_path / "notes")
    with pytest.raises(ConfigError, match="there is no folder"):
        write_report(tables, tmp_path / "absent" / "out")


def test_an_error_leaves_nothing_and_keeps_an_old_report(
    report: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/results.json").write_bytes((report / "first/results.json").read_bytes())
    written = Path.write_bytes

    def full_disk(self: Path, content: bytes) -> int:
        if self.name == "index.html":
            raise OSError("No space left on device")
        return written(self, content)

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    from crystalformers.elements.report import _write_folder

    with pytest.raises(OSError, match="No space left"):
        _write_folder(tmp_path / "out", {"a.png": b"a", "index.html": b"b"})
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "results.json"]
    monkeypatch.undo()
    _write_folder(tmp_path / "out", {"index.html": b"b"})
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "index.html"]


def test_tables_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    lonely = ElementTable("lonely", np.array([26]), np.ones((1, 4)))
    with pytest.raises(TableError, match=r"lonely \(1\): 1 elements in common \(Fe\)"):
        write_report([lonely], tmp_path / "out")
    with pytest.raises(ConfigError, match="56 elements cannot be divided into 99 families"):
        write_report([chemistry(0)], tmp_path / "out", draws=1, n_clusters=99)
    assert list(tmp_path.iterdir()) == []


def test_families_as_in_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a plane with three clear groups the procedure finds them; UMAP itself is played by a projection."""
    from types import SimpleNamespace

    from crystalformers.elements.analysis.published import published_families

    class Projection:
        def __init__(self, **_: object) -> None:
            pass

        def fit_transform(self, points: np.ndarray) -> np.ndarray:
            return points[:, :2]

    random = np.random.default_rng(0)
    group = np.arange(len(NUMBERS)) % 3
    vectors = np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0]])[group] + random.normal(size=(len(NUMBERS), 3))
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Projection, __spec__=SimpleNamespace()))
    found = published_families(vectors, group, 0, 19)
    assert (found.elbow, found.by_silhouette) == (3, 3)
    assert (found.squares[:, 1:] < found.squares[:, :-1]).all()
    assert found.ours.value == 1
    assert found.ours.p == 0.05
    assert found.seeds.tolist() == [1.0] * 10
    page = write_report([ElementTable("three", NUMBERS, vectors)], tmp_path / "out", draws=2, paper=True)
    text = page.read_text(encoding="utf-8")
    assert 'id="published"' in text
    assert (tmp_path / "out" / "published-map.png").is_file()
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())["published_families"]
    assert sorted(map(len, numbers["members"])) == sorted(np.bincount(group).tolist())
    assert numbers["elbow"] == 3
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ConfigError, match=r"crystalformers\[umap\]"):
        write_report([chemistry(0)], tmp_path / "other", draws=1, paper=True)


def test_the_verb_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    chemistry(0).save(tmp_path / "table.safetensors")
    result = invoke("elements", "report", tmp_path / "table.safetensors", "--out", tmp_path / "no" / "out")
    assert result.exit_code == 2
    assert "there is no folder" in result.stderr


def test_every_element_has_a_tile_of_its_own() -> None:
    tiles = periodic_table.tiles()
    assert len(np.unique(tiles, axis=0)) == 118
    assert tiles[25].tolist() == [8, 4]
    assert tiles[70].tolist() == [3, 6], "lutetium stands below yttrium"
    assert tiles[57].tolist() == [4, 8 + periodic_table.GAP]


def test_labels_of_a_map_do_not_overlap() -> None:
    crowded = np.zeros((30, 2))
    places = maps.spread(crowded, 0.4)
    distance = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(30)
    assert distance.min() > 0.39
    apart = np.array([[0.0, 0.0], [5.0, 5.0]])
    np.testing.assert_allclose(maps.spread(apart, 0.4), apart, atol=1e-3)


def test_the_legend_of_a_map_stays_on_the_sheet() -> None:
    places, legend = np.random.default_rng(0).normal(size=(9, 2)), {"12  Mm Mm Mm Mm Mm +22": "#882255"}
    heading, symbols = "family, typical members", ["Fe"] * 9
    figure = maps.map_picture(places, symbols, ["#882255"] * 9, legend, heading=heading, rare=["Fe"])
    figure.draw_without_rendering()
    box = figure.legends[0].get_window_extent()
    assert figure.bbox.x0 < box.x0 < box.x1 < figure.bbox.x1


def test_ink_can_be_read_on_every_colour() -> None:
    from matplotlib.colors import to_rgb

    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    for colour in (*style.FAMILY_COLOURS, *style.BLOCK_COLOURS.values()):
        light, dark = sorted((luminance(colour), luminance(style.ink_on(colour))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, f"{colour}: contrast below WCAG AA"
    assert len(set(style.FAMILY_COLOURS)) == len(style.FAMILY_COLOURS)


def test_numbers_have_a_true_minus_and_no_minus_zero() -> None:
    assert [style.signed(x) for x in (-0.5, -0.001, 0.25)] == ["−0.50", "0.00", "0.25"]
