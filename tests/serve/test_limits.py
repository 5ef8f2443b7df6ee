"""What the service refuses, and what hostile requests cannot do."""

from __future__ import annotations

import base64
import contextlib
import json
import random
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from served import EXAMPLES, Clients, entry, running

from crystalformers.crystal import Crystal
from crystalformers.io import Rejected
from crystalformers.prediction.several import Models
from crystalformers.serve import run
from crystalformers.serve.limits import Limits, RefusedError
from crystalformers.serve.reader import MOST_UNPACKED
from crystalformers.serve.reading import LONGEST_NAME, PATIENCE, Allowance, Reader, plain_name
from crystalformers.serve.service import Service

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from hostile import bombs, encoded
from mutations import mutant
from originals import FILENAME

TOKEN = "a token of the tests"


def body(*structures: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"structures": list(structures), **options}


@pytest.mark.parametrize(
    ("limits", "status", "words"),
    [
        ({"atoms": 5}, 413, "more than 5 atoms"),
        ({"structures": 1}, 413, "more than 1 structures"),
        ({"body_bytes": 1000}, 413, "larger than 0.000954 MiB"),
        ({"held_bytes": 1000}, 429, "too large together"),
        ({"waiting": 0}, 429, "requests are being served"),
        ({"seconds": 0.0}, 503, "took longer than 0 s"),
    ],
)
def test_a_request_beyond_a_limit_is_refused(limited: Clients, limits: dict[str, Any], status: int, words: str) -> None:
    answer = limited(**limits).post("/api/predict", json=body(entry("NaCl"), entry("Si")))
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]
    assert ("retry-after" in answer.headers) == (status in {429, 503})


def test_a_structure_with_too_many_images_is_refused_alone(limited: Clients) -> None:
    answer = limited(images=3300).post("/api/predict", json=body(entry("Si"), entry("MoS2")))
    silicon, molybdenite = answer.json()["rows"]
    assert "it has about 3.6e+03 periodic images within 12.9 Å" in silicon["error"]
    assert "values" in molybdenite


def test_vectors_of_atoms_and_attention_have_limits_of_their_own(limited: Clients) -> None:
    client = limited(atom_vectors=10, explained_images=3300)
    few, many = body(entry("NaCl"), per_atom=True), body(entry("NaCl"), entry("Si"), per_atom=True)
    assert client.post("/api/embed", json=few).status_code == 200
    answer = client.post("/api/embed", json=many)
    assert answer.status_code == 413
    assert "more than 10 atoms" in answer.json()["error"]["message"]
    assert client.post("/api/embed", json=body(entry("NaCl"), entry("Si"))).status_code == 200
    assert client.post("/api/explain", json={"structure": entry("MoS2")}).status_code == 200
    answer = client.post("/api/explain", json={"structure": entry("Si")})
    assert answer.status_code == 422
    assert "periodic images" in answer.json()["error"]["message"]


def test_a_file_with_many_structures_counts_them(limited: Clients) -> None:
    frame = '1\nLattice="4 0 0 0 4 0 0 0 4"\nCu 0 0 0\n'
    client = limited(structures=10)
    few, many = ({"name": "x.extxyz", "text": count * frame} for count in (10, 11))
    assert len(client.post("/api/predict", json=body(few)).json()["rows"]) == 10
    assert client.post("/api/predict", json=body(many)).status_code == 413


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"structures": []},
        {"structures": [{}]},
        {"structures": [{"text": "x", "base64": "eA=="}]},
        {"structures": [{"base64": "no base64!"}]},
        {"structures": [{"base64": "\x80"}]},
        {"structures": [{"text": "x"}], "coverage": 1.5},
        {"structures": [{"text": "x"}], "coverage": 0.999999},
        {"structures": [{"text": "x"}], "unknown": 1},
        {"structures": [{"atoms": {"symbols": [], "frac_coords": [], "lattice": []}}]},
    ],
)
def test_a_body_that_cannot_be_used_is_refused_with_a_sentence(client: TestClient, wrong: dict[str, Any]) -> None:
    answer = client.post("/api/predict", json=wrong)
    assert answer.status_code == 422
    assert answer.json()["error"]["message"].endswith(".")


HALF = "\\ud800"
"""Half of a character, as JSON can hold it."""


@pytest.mark.parametrize(
    "text",
    [
        f'{{"structures": [{{"name": "{HALF}", "text": "x"}}]}}',
        f'{{"structures": [{{"text": "{HALF}"}}]}}',
        f'{{"structures": [{{"text": "x"}}], "{HALF}": 1}}',
    ],
)
def test_half_a_character_is_no_bug(client: TestClient, text: str) -> None:
    answer = client.post("/api/predict", content=text, headers={"content-type": "application/json"})
    assert answer.status_code in {200, 422}
    assert "error" in answer.text


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"structures": [{"text": NaN}]}'])
def test_what_is_no_json_is_refused(client: TestClient, data: bytes) -> None:
    answer = client.post("/api/predict", content=data, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 422}
    assert "error" in answer.json()


def test_a_token_opens_the_service_and_nothing_else_does(limited: Clients) -> None:
    client = limited(token=TOKEN)
    for given in (None, "Bearer ", "Bearer wrong", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer \xe9"):
        headers = {} if given is None else {"authorization": given.encode("latin-1")}
        for path in ("/api/models", "/metrics"):
            assert client.get(path, headers=headers).status_code == 401
    right = {"authorization": f"Bearer {TOKEN}"}
    assert client.get("/api/models", headers=right).status_code == 200
    assert client.get("/metrics", headers=right).status_code == 200
    assert client.get("/").status_code == 200, "the page, which asks for the token"
    assert client.get("/health").status_code == 200


def test_another_host_is_refused(client: TestClient) -> None:
    for host in ("elsewhere.example", "127.0.0.1.elsewhere.example", ""):
        assert client.get("/api/models", headers={"host": host}).status_code == 421
    for host in ("localhost:8000", "127.0.0.1", "[::1]:9"):
        assert client.get("/api/models", headers={"host": host}).status_code == 200


# Files


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("NaCl.cif", "NaCl.cif"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Users\\x\\a b.cif", "a b.cif"),
        ("/", "pasted.poscar"),
        ("..", "pasted.poscar"),
        ("a\nb\0c.cif", "a_b_c.cif"),
        ("~/.ssh", "ssh"),
        ("x" * 500 + ".cif", "x" * (LONGEST_NAME - 4) + ".cif"),
    ],
)
def test_a_name_loses_its_folders(given: str, expected: str) -> None:
    assert plain_name(given, "text") == expected


def test_the_longest_name_in_any_script_is_a_file_name() -> None:
    assert len(plain_name("晶" * 900 + ".cif", None).encode()) <= 255


def test_no_name_leaves_the_folder_and_nothing_stays_in_it(tmp_path: Path, models: Models) -> None:
    service = Service(models)
    try:
        reader = service.reader
        folder = reader._folder
        for name in ("../out.cif", "/tmp/out.cif", f"{tmp_path}/out.cif", "a\0.cif", "..", "\udcff.cif", "é" * 300):
            found = reader.read([(plain_name(name, None), (EXAMPLES / "Cu.cif").read_bytes())], Allowance(Limits()))
            assert found
            assert list(folder.iterdir()) == []
        assert list(tmp_path.iterdir()) == []
        assert not (folder.parent / "out.cif").exists()
        assert folder.stat().st_mode & 0o077 == 0, "others cannot look into it"
    finally:
        service.close()
    assert not folder.exists()


def test_a_table_reads_no_file_of_the_server(client: TestClient) -> None:
    rows = "".join(f"{name},1\n" for name in (EXAMPLES / "NaCl.cif", EXAMPLES / "NaCl", f"../..{EXAMPLES}/NaCl"))
    table = {"name": "table.csv", "text": f"id,label\n{rows}"}
    found = client.post("/api/predict", json=body(table)).json()["rows"]
    assert len(found) == 3
    assert all("leads out of the folder" in row["error"] for row in found)


@pytest.mark.slow
def test_a_file_that_unpacks_to_much_or_nests_deeply_costs_its_request_only(client: TestClient) -> None:
    for name, data in bombs():
        assert len(data) < 2 << 20
        answer = client.post("/api/predict", json=body(encoded(name, data)))
        assert answer.status_code == 413 or "error" in answer.json()["rows"][0], name
    [row] = client.post("/api/predict", json=body(entry("Cu"))).json()["rows"]
    assert "values" in row


def test_a_reader_that_is_too_slow_is_ended_and_replaced() -> None:
    limits = Limits(reader_seconds=0.05)
    reader = Reader(limits)
    copper = ("Cu.cif", (EXAMPLES / "Cu.cif").read_bytes())
    try:
        [[late]] = reader.read([copper], Allowance(Limits()))
        assert isinstance(late, Rejected)
        assert "could not be read within 0.05 s" in late.reason
        object.__setattr__(limits, "reader_seconds", 60.0)
        [[crystal]] = reader.read([copper], Allowance(Limits()))
        assert not isinstance(crystal, Rejected)
        reader._process.kill()  # type: ignore[union-attr] # as a crash in a parser would
        time.sleep(0.1)
        [[again]] = reader.read([copper], Allowance(Limits()))
        assert not isinstance(again, Rejected)
    finally:
        reader.close()


def test_a_file_that_ends_the_reader_costs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of a request are read together; if the process ends, each is read again by its own."""
    reader, waits = Reader(Limits()), list[float]()
    ask, files = reader._ask, [("Cu.cif", (EXAMPLES / "Cu.cif").read_bytes()), ("bad.cif", b"x")] * 2

    def ends_at_bad(line: bytes, seconds: float) -> bytes | None:
        waits.append(seconds)
        if b"bad.cif" in line:
            reader._end()
            return None
        return ask(line, seconds)

    monkeypatch.setattr(reader, "_ask", ends_at_bad)
    allowance = Allowance(Limits())
    try:
        found = [structures for [*structures] in reader.read(files, allowance)]
    finally:
        reader.close()
    assert [type(one).__name__ for [one] in found] == ["Crystal", "Rejected"] * 2
    whole = Limits().reader_seconds
    assert waits == [whole * PATIENCE, *[whole] * 4], "two files that never end leave time for the others"
    assert allowance.structures == Limits().structures - 4
    assert allowance.atoms == Limits().atoms - sum(len(one) for [one] in found if isinstance(one, Crystal))


def test_files_that_take_longer_than_a_request_may_are_refused() -> None:
    reader = Reader(Limits(seconds=0.0))
    try:
        with pytest.raises(RefusedError, match="took too long"):
            reader.read([("Cu.cif", b"")], Allowance(Limits()))
    finally:
        reader.close()


@pytest.mark.parametrize(("limits", "most"), [(Limits(structures=3), 3), (Limits(atoms=11), 2)])
def test_files_read_together_share_the_limits_of_their_request(limits: Limits, most: int) -> None:
    reader = Reader(limits)
    copper = ("Cu.cif", (EXAMPLES / "Cu.cif").read_bytes())  # four atoms
    try:
        assert len(reader.read([copper] * most, Allowance(limits))) == most
        with pytest.raises(RefusedError, match=r"holds more than (3 structures|11 atoms)"):
            reader.read([copper] * (most + 1), Allowance(limits))
    finally:
        reader.close()


def test_a_reader_without_memory_says_so() -> None:
    reader = Reader(Limits(reader_bytes=64 << 20))
    text = "\n".join(["data_x", *("_a 1" for _ in range(3_000_000))])
    try:
        [[found]] = reader.read([("large.cif", text.encode())], Allowance(Limits()))
        assert isinstance(found, Rejected)
        assert "memory" in found.reason or "could not be read" in found.reason
    finally:
        reader.close()


@pytest.mark.parametrize("kind", sorted(kind for kind, name in FILENAME.items() if not name.endswith(".yaml")))
def test_changed_files_get_an_answer(client: TestClient, kind: str) -> None:
    """Each is predicted or refused with a sentence; never another status, a traceback or a name of a folder."""
    name = FILENAME[kind]
    files = [{"name": name, "base64": base64.b64encode(mutant(kind, seed)[: 1 << 20]).decode()} for seed in range(12)]
    answer = client.post("/api/predict", json=body(*files))
    assert answer.status_code == 200, answer.text
    for row in answer.json()["rows"]:
        assert ("error" in row) != ("values" in row)
        assert "Traceback" not in row.get("error", "")
        assert "/shm/" not in json.dumps(row)


def test_random_bodies_never_end_in_a_bug(client: TestClient) -> None:
    """Requests whose fields have wrong types, sizes and signs: 200 or an error that says what is wrong."""
    rng = random.Random(0)
    odd: list[Any] = [None, -1, 0, 1e308, "", "x", [], {}, True, "\0", "é" * 50, [[[]]], {"text": 1}, 10**30]
    paths = {"/api/predict": "structures", "/api/embed": "structures", "/api/explain": "structure"}
    seen = set()
    for _ in range(150):
        path, field = rng.choice(list(paths.items()))
        request: dict[str, Any] = {field: entry("Cu") if field == "structure" else [entry("Cu")]}
        request[rng.choice([field, "atom", "block", "coverage", "model", "threshold", "per_atom"])] = rng.choice(odd)
        answer = client.post(path, json=request)
        seen.add(answer.status_code)
        assert answer.status_code in {200, 422}, (path, request, answer.text)
    assert seen == {200, 422}


# Senders


def test_a_slow_sender_is_cut_off_and_others_are_served(models: Models) -> None:
    with running(models, body_seconds=0.5) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as slow:
            slow.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
            assert httpx.post(f"{address}/api/predict", json=body(entry("Cu")), timeout=30).status_code == 200
            slow.settimeout(10)
            answer = slow.recv(10_000)
            assert b" 408 " in answer.split(b"\r\n")[0]
            assert b"did not arrive within 0.5 s" in answer + slow.recv(10_000)


@pytest.mark.parametrize("begun", [b"", b"POST /api/predict HTTP/1.1\r\nHost: local"])
def test_a_head_that_does_not_come_is_not_awaited(
    models: Models, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    monkeypatch.setattr(run, "HEAD_SECONDS", 0.5)
    with running(models) as address, httpx.Client(timeout=30) as http:
        with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))) as slow:
            slow.sendall(begun)
            slow.settimeout(10)
            assert slow.recv(1000) == b"", "the server has hung up"
        for _ in range(8):  # one connection that is used for longer than that
            assert http.post(f"{address}/api/predict", json=body(entry("Cu"))).status_code == 200
            time.sleep(0.1)


def test_a_body_without_end_is_cut_off(models: Models) -> None:
    sent = 0

    def endless() -> Any:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 16
            yield b" " * (1 << 16)

    with running(models, body_bytes=1 << 20) as address, httpx.Client(timeout=30) as http:
        with contextlib.suppress(httpx.WriteError, httpx.RemoteProtocolError):  # the server has hung up
            assert http.post(f"{address}/api/predict", content=endless()).status_code == 413
        assert sent < 64 << 20
        announced = {"content-length": str(1 << 30), "content-type": "application/json"}
        with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))) as one:
            head = "".join(f"{name}: {value}\r\n" for name, value in {"host": "localhost", **announced}.items())
            one.sendall(f"POST /api/predict HTTP/1.1\r\n{head}\r\n".encode())
            one.settimeout(10)
            assert b" 413 " in one.recv(10_000)
        assert http.get(f"{address}/health").status_code == 200


def test_many_clients_at_once_get_their_own_answers(address: str) -> None:
    names = ["NaCl", "Si", "Cu", "SrTiO3", "ZnO", "CaF2", "TiO2", "W"]
    with httpx.Client(timeout=60) as http:
        alone = {n: http.post(f"{address}/api/predict", json=body(entry(n))).json()["rows"][0] for n in names}

        def ask(k: int) -> None:
            name = names[k % len(names)]
            [row] = http.post(f"{address}/api/predict", json=body(entry(name))).json()["rows"]
            assert row["name"] == f"{name}.cif"
            assert row["values"] == pytest.approx(alone[name]["values"], abs=1e-5)

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(ask, range(64)))


def test_requests_beyond_those_that_may_wait_get_429_and_then_go_through(models: Models) -> None:
    with running(models, waiting=2) as address, httpx.Client(timeout=60) as http:
        start = threading.Barrier(12)

        def ask(_: int) -> int:
            start.wait()
            return http.post(f"{address}/api/predict", json=body(*[entry("SiO2")] * 40)).status_code

        with ThreadPoolExecutor(12) as threads:
            statuses = list(threads.map(ask, range(12)))
        assert set(statuses) == {200, 429}
        assert http.post(f"{address}/api/predict", json=body(entry("Cu"))).status_code == 200


def test_the_guide_states_the_limits_of_the_code() -> None:
    guide = " ".join((EXAMPLES.parent / "docs" / "serve.md").read_text(encoding="utf-8").split())
    limits = Limits()
    for words in (
        f"larger than {limits.body_bytes >> 20} MiB",
        f"more than {limits.structures:,} structures",
        f"more than {limits.atoms:,} atoms",
        f"{limits.atom_vectors:,} if each is to have a vector",
        f"{limits.waiting} requests are being served",
        f"more than {limits.held_bytes >> 20} MiB together",
        f"longer than {limits.seconds:g} s",
        f"did not arrive within {limits.body_seconds:g} s",
        f"closed after {run.HEAD_SECONDS:g} s",
        f"may take {limits.reader_seconds:g} s and {limits.reader_bytes >> 30} GB",
        f"may unpack to {MOST_UNPACKED >> 20} MiB",
    ):
        assert words in guide
