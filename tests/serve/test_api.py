"""The answers of the HTTP service, compared with the library."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

import pytest
from fastapi.testclient import TestClient
from served import EXAMPLES, Clients, entry

from crystalformers.crystal import Crystal
from crystalformers.elements import load_elements
from crystalformers.elements.similarity import nearest
from crystalformers.explain import explain
from crystalformers.io import read_crystal
from crystalformers.prediction.several import Models
from crystalformers.serve import api, app

STATIC = app.STATIC
POSCAR = "CsCl\n4.123\n1 0 0\n0 1 0\n0 0 1\nCs Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n"
XYZ = '2\nLattice="4.1 0 0 0 4.1 0 0 0 4.1" Properties=species:S:1:pos:R:3\nCs 0 0 0\nCl 2.05 2.05 2.05\n'
ROW = {"id": "a", "atomic_numbers": [55, 17], "lattice": [4.1, 0, 0, 0, 4.1, 0, 0, 0, 4.1]}
JSON_LINES = "".join(
    json.dumps({**ROW, "id": f"row-{k}", "frac_coords": [0, 0, 0, 0.5, 0.5, 0.5]}) + "\n" for k in "ab"
)


def predict(client: TestClient, *structures: dict[str, Any], **options: Any) -> dict[str, Any]:
    answer = client.post("/api/predict", json={"structures": structures, **options})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_predictions_are_those_of_the_library(client: TestClient, models: Models) -> None:
    names = ("NaCl", "SrTiO3", "Cu")
    answer = predict(client, *map(entry, names))
    expected = models.predict([EXAMPLES / f"{name}.cif" for name in names])
    assert answer["units"] == models.units
    assert answer["coverage"] == 0.9
    for k, (row, one) in enumerate(zip(answer["rows"], expected, strict=True)):
        assert (row["entry"], row["formula"], row["n_atoms"]) == (k, one.formula, one.n_atoms)
        for kind in ("values", "low", "high"):
            assert row[kind] == pytest.approx(getattr(one, kind), abs=1e-5)
        assert row["distance_percentile"] == pytest.approx(one.distance_percentile, abs=0.2)


def test_a_wider_coverage_gives_wider_intervals(client: TestClient, models: Models) -> None:
    answer = predict(client, entry("NaCl"), coverage=0.95)
    [expected] = models.predict(EXAMPLES / "NaCl.cif", coverage=0.95)
    assert answer["coverage"] == 0.95
    assert answer["rows"][0]["high"] == pytest.approx(expected.high, abs=1e-5)


def test_a_structure_unlike_the_training_data_has_its_flag(client: TestClient) -> None:
    [row] = predict(client, {"name": "Am.poscar", "text": POSCAR.replace("Cs", "Am")})["rows"]
    assert "no training crystal holds Am" in row["flag"]


@pytest.mark.parametrize(
    ("name", "data", "count"),
    [
        ("NaCl.cif.gz", gzip.compress((EXAMPLES / "NaCl.cif").read_bytes(), mtime=0), 1),
        ("POSCAR", POSCAR.encode(), 1),
        ("frames.extxyz", 3 * XYZ.encode(), 3),
        ("table.jsonl", JSON_LINES.encode(), 2),
        ("table.jsonl.gz", gzip.compress(JSON_LINES.encode(), mtime=0), 2),
    ],
)
def test_every_kind_of_file_is_read(client: TestClient, name: str, data: bytes, count: int) -> None:
    rows = predict(client, {"name": name, "base64": base64.b64encode(data).decode()})["rows"]
    assert len(rows) == count
    assert all("values" in row for row in rows), rows


@pytest.mark.parametrize("text", [POSCAR, XYZ, entry("Si")["text"]], ids=["POSCAR", "extended XYZ", "CIF"])
def test_the_format_of_a_text_without_name_is_guessed(client: TestClient, text: str) -> None:
    [row] = predict(client, {"text": text})["rows"]
    assert "values" in row, row


def test_json_of_pymatgen_without_name_is_read(client: TestClient) -> None:
    from pymatgen.core import Lattice, Structure

    structure = Structure(Lattice.cubic(4.12), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    [row] = predict(client, {"text": json.dumps(structure.as_dict())})["rows"]
    assert row["formula"] == "CsCl"


def test_atoms_that_are_given_back_can_be_sent_again(client: TestClient) -> None:
    [row] = predict(client, entry("SrTiO3"), atoms=True)["rows"]
    [again] = predict(client, {"name": "again", "atoms": row["atoms"]})["rows"]
    assert again["values"] == pytest.approx(row["values"], abs=1e-5)
    assert again["name"] == "again"


def test_a_bad_structure_has_its_sentence_and_the_others_are_predicted(client: TestClient) -> None:
    bad = {"name": "bad.cif", "text": "data_x\n_cell_length_a 3\n"}
    unknown = {"name": "odd", "atoms": {"symbols": ["Xx"], "frac_coords": [[0, 0, 0]], "lattice": [[3, 0, 0]] * 3}}
    rows = predict(client, bad, entry("NaCl"), {"name": "photo.png", "base64": "AAAA"}, unknown)["rows"]
    assert rows[0]["error"].startswith("bad.cif: the CIF lists no atoms")
    assert "values" in rows[1]
    assert rows[2]["error"].startswith("photo.png: not a structure file by its name")
    assert "'Xx' is no element" in rows[3]["error"]
    assert "crystalformers-" not in json.dumps(rows), "a folder of the server"


def test_attention_is_that_of_the_library(client: TestClient, models: Models) -> None:
    body = {"structure": entry("SrTiO3"), "atom": 1, "block": 2, "threshold": 0.01}
    answer = client.post("/api/explain", json=body).json()
    expected = explain(models.models[0], read_crystal(EXAMPLES / "SrTiO3.cif"), 1, 2).to_dict(0.01)
    [found], [wanted] = answer["attention"], expected["attention"]
    assert (found["atom"], found["block"], found["symbol"]) == (1, 2, "Ti")
    assert len(found["real"]["images"]) == len(wanted["real"]["images"])
    for one, other in zip(found["real"]["images"], wanted["real"]["images"], strict=True):
        assert one["weight"] == pytest.approx(other["weight"], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"structure": {"text": "no crystal"}}, "a POSCAR needs at least 8 lines"),
        ({"structure": entry("NaCl"), "atom": 99}, "There is no atom 99"),
        ({"structure": entry("NaCl"), "model": "other"}, "there is no model 'other' here"),
        ({"structure": {"name": "a.extxyz", "text": 2 * XYZ}}, "a.extxyz: it holds 2 structures, one is needed"),
    ],
)
def test_what_cannot_be_explained_is_said(client: TestClient, body: dict[str, Any], sentence: str) -> None:
    answer = client.post("/api/explain", json=body)
    assert answer.status_code == 422
    assert sentence in answer.json()["error"]["message"]


def test_vectors_are_those_of_the_library(client: TestClient, models: Models) -> None:
    model = models.models[0]
    one = client.post("/api/embed", json={"structures": [entry("Si")]}).json()
    each = client.post("/api/embed", json={"structures": [entry("Si")], "per_atom": True}).json()
    assert one["dim"] == model.dim
    assert one["rows"][0]["vector"] == pytest.approx(model.embed(EXAMPLES / "Si.cif")[0], abs=1e-5)
    assert len(each["rows"][0]["vectors"]) == 8


def test_models_are_listed_with_units_and_errors(client: TestClient, models: Models) -> None:
    answer = client.get("/api/models").json()
    [model] = answer["models"]
    assert {target["name"]: target["unit"] for target in model["targets"]} == models.units
    errors = models.models[0].card["errors"]["test"]
    assert {target["name"]: target["test_mae"] for target in model["targets"]} == {
        name: pytest.approx(one["mae"]) for name, one in errors.items()
    }
    assert answer["search"] is False


def test_the_table_of_elements_agrees_with_the_library(client: TestClient) -> None:
    data = client.get("/api/elements").json()
    symbols = [element["symbol"] for element in data["elements"]]
    iron = dict(zip(symbols, data["cosines"][symbols.index("Fe")], strict=True))
    for neighbour in nearest(load_elements(data["table"]), "Fe", 5):
        assert iron[neighbour.symbol] == pytest.approx(neighbour.cosine, abs=1e-4)
    assert client.get("/api/elements/Fe").json()["nearest"][0]["symbol"] == max(
        iron, key=lambda s: (s != "Fe") * iron[s]
    )
    places = {element["symbol"]: (element["column"], element["row"]) for element in data["elements"]}
    assert places["Fe"] == (8, 4)
    assert {one["name"] for one in data["properties"]} >= {"electronegativity", "atomic radius"}


@pytest.mark.parametrize("path", ["/api/elements/Xx", "/api/elements?table=/etc/passwd", "/api/elements/Po"])
def test_unknown_elements_and_tables_are_refused(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 422


def test_an_index_is_searched_and_without_one_there_is_no_path(client: TestClient, limited: Clients) -> None:
    class Known:
        def search(self, crystals: list[Crystal], count: int) -> list[list[dict[str, Any]]]:
            return [[{"name": f"known-{len(one)}", "distance": 0.0}][:count] for one in crystals]

    body = {"structures": [{"text": "bad"}, entry("NaCl")], "count": 3}
    assert client.post("/api/search", json=body).status_code == 404
    searching = limited(index=Known())
    rows = searching.post("/api/search", json=body).json()["rows"]
    assert "error" in rows[0]
    assert rows[1]["nearest"] == [{"name": "known-8", "distance": 0.0}]
    assert searching.get("/api/models").json()["search"] is True


def test_a_real_index_is_searched(searching: TestClient) -> None:
    (row,) = searching.post("/api/search", json={"structures": [entry("CaF2")], "count": 2}).json()["rows"]
    assert row["nearest"][0]["formula"] == "CaF2"
    assert row["nearest"][0]["distance"] == pytest.approx(0, abs=1e-4)
    assert {"name", "n_atoms", "band_gap"} <= row["nearest"][1].keys()


def test_the_examples_are_those_of_the_project(client: TestClient) -> None:
    shipped = sorted(api.EXAMPLES.glob("*.cif"))
    assert len(shipped) == len(client.get("/api/examples").json()) == 8
    for path in shipped:
        assert path.read_bytes() == (EXAMPLES / path.name).read_bytes()


def test_pages_and_their_parts_are_served_from_here(client: TestClient) -> None:
    for page in ("/", "/docs"):
        text = client.get(page).text
        parts = re.findall(r'(?:src|href)="([^"#]+)"', text)
        assert parts
        assert all(part.startswith("/") for part in parts)
        assert all(client.get(part).status_code == 200 for part in parts)


def test_no_page_names_another_host() -> None:
    own = [path for path in STATIC.rglob("*") if path.suffix in {".html", ".js", ".css"} and "vendor" not in path.parts]
    assert len(own) > 15
    hosts = {host for path in own for host in re.findall(r"https?://([\w.]+)", path.read_text(encoding="utf-8"))}
    assert hosts == {"www.w3.org"}, "only the name of SVG"


def test_the_vendored_file_is_the_one_that_is_described() -> None:
    import hashlib

    digest = hashlib.sha256((STATIC / "vendor" / "3Dmol-min.js").read_bytes()).hexdigest()
    assert digest in (STATIC / "vendor" / "README.md").read_text(encoding="utf-8")


def test_the_description_lists_every_path(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    paths = {"/api/predict", "/api/embed", "/api/explain", "/api/models", "/api/elements", "/health", "/metrics"}
    assert paths <= description["paths"].keys()
    assert description["components"]["schemas"]["PredictBody"]["properties"]["structures"]


def test_every_answer_has_the_headers_of_a_careful_page(client: TestClient) -> None:
    for path in ("/", "/api/models", "/static/js/main.js", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_requests_and_batches_are_counted(limited: Clients) -> None:
    client = limited()
    predict(client, entry("NaCl"), entry("Si"))
    client.get("/nothing/here")
    text = client.get("/metrics").text
    assert 'crystalformers_requests_total{path="/api/predict",status="200"} 1.0' in text
    assert 'crystalformers_requests_total{path="other",status="404"} 1.0' in text
    assert "crystalformers_batch_structures_sum 2.0" in text
    assert client.get("/health").json() == {"status": "ok"}
