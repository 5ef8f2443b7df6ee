"""Every form of a table of predictions: its exact content, and that all of them follow the one list of columns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from crystalformers.cli.output import print_predictions
from crystalformers.io import Rejected
from crystalformers.prediction import rows as rows_module
from crystalformers.prediction.rows import Column, Prediction, Row, columns, predictions_frame, write_predictions

UNITS = {"energy": "eV/atom", "modulus": "GPa"}
ABOUT: dict[str, Any] = {"models": [{"name": "some", "sha256": "0"}], "units": UNITS, "tolerance": 1e-7}
ROWS: list[Row] = [
    Prediction("salt, rock", "NaCl", 2, {"energy": -1 / 3, "modulus": 24.8}, UNITS),
    Rejected("empty.cif", "the file is empty", "empty.cif", "export it again"),
]
REASON = "empty.cif: the file is empty; export it again."


def test_csv(tmp_path: Path) -> None:
    write_predictions(tmp_path / "out.csv", ABOUT, [ROWS])
    assert (tmp_path / "out.csv").read_bytes().decode() == (
        "name,formula,n_atoms,energy (eV/atom),modulus (GPa),flag,error\r\n"
        '"salt, rock",NaCl,2,-0.3333333,24.8,,\r\n'
        f"empty.cif,,,,,,{REASON}\r\n"
    )


def test_json(tmp_path: Path) -> None:
    write_predictions(tmp_path / "out.json", ABOUT, [ROWS[:1], ROWS[1:]])
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8")) == {
        **ABOUT,
        "predictions": [
            {"name": "salt, rock", "formula": "NaCl", "n_atoms": 2, "values": {"energy": -1 / 3, "modulus": 24.8}},
            {"name": "empty.cif", "error": REASON},
        ],
    }


def test_parquet(tmp_path: Path) -> None:
    write_predictions(tmp_path / "out.parquet", ABOUT, [ROWS[:1], ROWS[1:]])
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.to_pydict() == {
        "name": ["salt, rock", "empty.cif"],
        "formula": ["NaCl", None],
        "n_atoms": [2, None],
        "energy": [-1 / 3, None],
        "modulus": [24.8, None],
        "flag": [None, None],
        "error": [None, REASON],
    }
    types = ["string", "string", "int64", "double", "double", "string", "string"]
    assert [str(kind) for kind in table.schema.types] == types
    assert table.schema.field("modulus").metadata == {b"unit": b"GPa"}
    assert table.schema.field("formula").metadata is None
    assert json.loads(table.schema.metadata[b"crystalformers"]) == ABOUT
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == 2


def test_frame() -> None:
    frame = predictions_frame(ROWS, UNITS, report=True)
    assert list(frame) == ["name", "formula", "n_atoms", "energy (eV/atom)", "modulus (GPa)", "flag", "error"]
    assert frame.iloc[0].tolist() == ["salt, rock", "NaCl", 2, -1 / 3, 24.8, "", ""]
    assert frame.iloc[1].isna().tolist() == [False, True, True, True, True, False, False]
    assert frame["error"][1] == REASON
    assert str(frame["n_atoms"].dtype) == "Int64"
    assert frame.attrs == {"units": UNITS}
    assert "error" not in predictions_frame(ROWS[:1], UNITS)


def test_printed_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_predictions(UNITS, ROWS)
    header, row = capsys.readouterr().out.splitlines()
    assert header == "structure   formula  atoms  energy (eV/atom)  modulus (GPa)"
    assert row == "salt, rock  NaCl         2           -0.3333           24.8"
    print_predictions(UNITS, ROWS[1:])
    assert capsys.readouterr().out == ""


DOUBT = {"energy": ["std", "low", "high"]}


@dataclass(frozen=True)
class WithMark(Prediction):
    mark: dict[str, float] = field(default_factory=dict)


def test_a_column_added_to_the_list_is_in_every_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mark = Column("energy_mark", "float64", ("mark", "energy"), "eV/atom", title="mark (eV/atom)")
    monkeypatch.setattr(rows_module, "columns", lambda units, doubt: [*columns(units, doubt), mark])
    rows: list[Row] = [
        WithMark("salt", "NaCl", 2, {"energy": -1.0, "modulus": 2.0}, UNITS, mark={"energy": -1.5}),
        ROWS[1],
    ]
    for suffix in ("csv", "parquet", "json"):
        write_predictions(tmp_path / f"out.{suffix}", ABOUT, [rows])
    first, second, third = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[-1] for line in (first, second, third)] == ["energy_mark (eV/atom)", "-1.5", ""]
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["energy_mark"].to_pylist() == [-1.5, None]
    assert table.schema.field("energy_mark").metadata == {b"unit": b"eV/atom"}
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert report["predictions"][0]["mark"] == {"energy": -1.5}
    assert predictions_frame(rows, UNITS)["energy_mark (eV/atom)"][0] == -1.5
    print_predictions(UNITS, rows)
    header, row = capsys.readouterr().out.splitlines()
    assert header.endswith("mark (eV/atom)")
    assert row.endswith("-1.5")


def test_the_doubt_about_a_target_is_in_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    doubt = {"std": {"energy": 0.1}, "low": {"energy": -1.25}, "high": {"energy": -0.75}}
    rows: list[Row] = [Prediction("salt", "NaCl", 2, {"energy": -1.0, "modulus": 2.0}, UNITS, **doubt), ROWS[1]]
    names = ["energy", "energy_std", "energy_low", "energy_high", "modulus"]
    for suffix in ("csv", "parquet", "json"):
        write_predictions(tmp_path / f"out.{suffix}", {**ABOUT, "doubt": DOUBT}, [rows])
    first, second, _ = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert [name.split(" ")[0] for name in first.split(",")][3:8] == names
    assert second.split(",")[3:8] == ["-1", "0.1", "-1.25", "-0.75", "2"]
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names[3:8] == names
    assert table["energy_low"].to_pylist() == [-1.25, None]
    report = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert {kind: report["predictions"][0][kind] for kind in doubt} == doubt
    assert "low" not in report["predictions"][1]
    assert predictions_frame(rows, UNITS, DOUBT)["energy_high (eV/atom)"][0] == -0.75
    print_predictions(UNITS, rows, DOUBT)
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[3:] == ["energy", "(eV/atom)", "std", "low", "high", "modulus", "(GPa)"]
    assert row.split()[3:] == ["-1", "0.1", "-1.25", "-0.75", "2"]
