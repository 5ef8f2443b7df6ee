"""What notebooks show of models, predictions, tables and trainings."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from samples import rock_salt, tiny_model

from crystalformers import Crystal, Prediction, Recipe, Target, fit, load_model, open_table
from crystalformers.elements import ElementTable, load_elements
from crystalformers.html import MOST_ATOMS, html_table
from crystalformers.prediction.rows import as_json
from crystalformers.training import NotebookBar
from crystalformers.training.state import Progress

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>alert('x')</script>&\"<img src=http://example.org/x>"


def assert_harmless(text: str) -> None:
    """The hostile text is there as text, and nothing in the HTML runs or is loaded."""
    assert html.escape(HOSTILE) in text
    assert set(re.findall(r"<(\w+)", text)) <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "progress"}
    assert not re.search(r"<\w+[^>]*\b(src|href|style|on\w+)\s*=", text)


def test_every_text_of_a_table_is_escaped() -> None:
    for texts in ((HOSTILE, "", ["a"], [["b"]]), ("", HOSTILE, ["a"], [["b"]]), ("", "", [HOSTILE], [["b"]])):
        assert_harmless(html_table(*texts))
    assert_harmless(html_table("", "", ["a"], [[HOSTILE]]))


def test_a_model_shows_targets_units_and_errors(tmp_path: Path) -> None:
    shown = load_model("materials-project")._repr_html_()
    for text in ("materials-project", "formation_energy_per_atom", "eV/atom", "band_gap", "31619", "yes"):
        assert text in shown
    unit = Target("energy", HOSTILE, "per_atom", mean=0.0, std=1.0)
    weights = tiny_model(tmp_path / "model.safetensors", (unit,))
    assert_harmless(load_model(weights)._repr_html_())


def test_a_prediction_shows_value_interval_and_flag() -> None:
    (row,) = load_model("materials-project").predict(
        [Crystal(np.array([84]), np.zeros((1, 3)), 3.35 * np.eye(3), "Po")]
    )
    shown = row._repr_html_()
    for text in (f"{row.values['band_gap']:.4g}", "band_gap (eV)", "low", "high", "percentile", row.flag):
        assert text in shown
    assert "std" not in shown
    assert_harmless(Prediction(HOSTILE, "NaCl", 2, {"energy": 1.0}, {"energy": "eV"})._repr_html_())
    assert_harmless(Prediction("x", "NaCl", 2, {"energy": 1.0}, {"energy": "eV"}, flag=HOSTILE)._repr_html_())


def test_several_models_are_shown_one_after_the_other() -> None:
    several = load_model(["materials-project", "mp36k-base"])
    assert several._repr_html_() == "".join(one._repr_html_() for one in several.models)


def drawn(shown: str) -> tuple[str, str]:
    """What a notebook shows of a crystal, in two parts: the text around the frame in 3D, and the page in the frame."""
    found = re.fullmatch(r'(.*)<iframe sandbox="allow-scripts" [^>]* srcdoc="([^"]*)"></iframe>', shown, re.DOTALL)
    assert found is not None
    return found[1], html.unescape(found[2])


def test_a_crystal_shows_its_cell_and_is_drawn_in_a_frame_of_its_own() -> None:
    lattice = np.diag([4.0, 4.0, 6.0])
    salt = Crystal(np.array([55, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), lattice, HOSTILE)
    text, page = drawn(salt._repr_html_())
    assert_harmless(text)
    assert "2 atoms: 1 Cs, 1 Cl" in text
    for cell in ("<td>4.0000</td>", "<td>6.0000</td>", "<td>90.00</td>", "<td>96.00</td>"):
        assert cell in text
    assert HOSTILE not in page, "nothing but symbols and numbers"
    content = json.loads(re.findall(r"JSON.parse\('(.*?)'\)", page)[0])
    assert [atom[0] for atom in content["atoms"]].count("Cs") == 8, "on all corners"
    assert content["atoms"][-1] == ["Cl", 2, 2, 3]
    assert content["lattice"] == lattice.tolist()
    assert not re.search(r"""(src|href)\s*=\s*["']""", page), "loads nothing"
    assert len(page) < 230_000


def test_a_crystal_with_very_many_atoms_is_not_drawn() -> None:
    count = MOST_ATOMS + 1
    large = Crystal(np.full(count, 6), np.linspace(0, 1, 3 * count).reshape(-1, 3), 100 * np.eye(3))
    assert "iframe" not in large._repr_html_()
    assert f"{count} atoms" in large._repr_html_()


def test_a_prediction_is_shown_with_its_crystal() -> None:
    (row,) = load_model("materials-project").predict([rock_salt()])
    text, page = drawn(row._repr_html_())
    assert f"{row.values['band_gap']:.4g}" in text
    assert '"Na"' in page
    assert "crystal" not in as_json(row)


def test_a_frame_of_predictions_escapes_names() -> None:
    salt = rock_salt()
    named = Crystal(salt.numbers, salt.frac_coords, salt.lattice, HOSTILE)
    shown = load_model("materials-project").predict([named], as_frame=True)._repr_html_()
    assert "<script" not in shown
    assert "<img" not in shown


def test_a_table_shows_its_size_and_first_rows(tmp_path: Path) -> None:
    table = open_table(ROOT / "examples" / "textbook.jsonl")
    shown = table._repr_html_()
    assert f"{len(table)} rows" in shown
    assert shown.count("<tr>") == 7
    for text in (*table.ids[:6], *map(str, table.column("formation_energy_per_atom")[:6])):
        assert f"<td>{text}</td>" in shown
    row = {"id": HOSTILE, "atomic_numbers": [55], "lattice": [4, 0, 0, 0, 4, 0, 0, 0, 4], "frac_coords": [0, 0, 0]}
    (tmp_path / "one.jsonl").write_text(json.dumps(row), encoding="utf-8")
    assert_harmless(open_table(tmp_path / "one.jsonl")._repr_html_())


def test_an_element_table_shows_its_size_and_first_vectors() -> None:
    table = load_elements("crystaltransformer7-mp36k-seed0")
    shown = table._repr_html_()
    assert f"{len(table)} elements" in shown
    assert f"{table['H'][0]:.3f}" in shown
    assert len(shown) < 3000
    assert_harmless(ElementTable(HOSTILE, np.array([1]), np.ones((1, 2)))._repr_html_())


@pytest.mark.parametrize("kind", ["predict", "embed"])
def test_a_bar_follows_the_structures(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    compute = getattr(load_model("materials-project"), kind)
    salt = [rock_salt(name=str(k)) for k in range(5)]
    compute(salt)
    assert capsys.readouterr().err == ""
    compute(salt, progress=True)
    assert "5/5" in capsys.readouterr().err


def test_the_bar_of_a_notebook_follows_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    display = pytest.importorskip("IPython.display")
    drawn: list[str] = []

    class Output:
        def update(self, shown: object) -> None:
            drawn.append(shown.data)  # type: ignore[attr-defined]

    def show(shown: object, display_id: bool) -> Output:
        Output().update(shown)
        return Output()

    monkeypatch.setattr(display, "display", show)
    table, target = open_table(ROOT / "examples" / "textbook.jsonl"), Target("formation_energy_per_atom", "eV/atom")
    small = {"dim": 8, "heads": 2, "blocks": 1, "feedforward": 8}
    recipe = Recipe.parse({"epochs": 2, "batch_size": 32, "model": small, "tolerance": 1e-3, "threads": 1})
    fit(table, [target], tmp_path / "run", recipe, observer=NotebookBar())
    assert "no validation yet" in drawn[0]
    assert 'value="0"' in drawn[0]
    last = re.search(r'value="(\d+)" max="(\d+)"', drawn[-1])
    assert last is not None
    assert last[1] == last[2]
    assert f"val MAE {target.name}" in drawn[-1]


def test_the_bar_escapes_units() -> None:
    bar = NotebookBar()
    bar._targets = [Target("energy", HOSTILE)]
    assert_harmless(bar.text(Progress(2, 3, epoch=1, history=[{f"val_mae_energy ({HOSTILE})": 1.0}])))
