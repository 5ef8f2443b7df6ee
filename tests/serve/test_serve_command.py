"""`crystalformers serve` as a process of its own: start, graceful stop, and the errors of its options."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib import util
from pathlib import Path
from typing import Any

import httpx
import pytest
from command import invoke
from served import entry

from crystalformers.serve.run import checked_token, is_loopback

MAIN = "from crystalformers.cli import main; main()"
COMMAND = [sys.executable, "-c", MAIN, "serve", "--port", "0", "--threads", "1"]


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server and its address."""
    process = subprocess.Popen(COMMAND, stderr=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stderr is not None
    line = process.stderr.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line
    yield process, found[0]
    process.kill()
    process.wait()
    process.stderr.close()


def folder_of(process: subprocess.Popen[str]) -> Path:
    """Where the reader of a server has its files."""
    [reader] = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="ascii").split()
    arguments = Path(f"/proc/{reader}/cmdline").read_bytes().decode().split("\0")
    return next(Path(one) for one in arguments if "/crystalformers-" in one)


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: signals and folders of Linux")
def test_sigterm_finishes_what_runs_and_refuses_what_comes(server: tuple[subprocess.Popen[str], str]) -> None:
    process, address = server
    answers: list[httpx.Response] = []
    body = {"structures": [entry("SiO2")] * 800}

    def ask() -> None:
        answers.append(httpx.post(f"{address}/api/predict", json=body, timeout=120))

    with httpx.Client(timeout=30) as http:
        assert http.post(f"{address}/api/predict", json={"structures": [entry("Cu")]}).status_code == 200
        thread = threading.Thread(target=ask)
        thread.start()
        while "crystalformers_active_requests 1.0" not in http.get(f"{address}/metrics").text:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        refused = http.post(f"{address}/api/predict", json={"structures": [entry("Cu")]})
        assert refused.status_code == 503
        assert refused.json()["error"]["problem"] == "the server is stopping"
        assert http.get(f"{address}/health").status_code == 503
    thread.join()
    assert answers[0].status_code == 200
    assert all("values" in row for row in answers[0].json()["rows"])
    assert len(answers[0].json()["rows"]) == 800
    assert process.wait(30) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: folders of Linux")
def test_a_server_that_is_killed_leaves_no_folder(server: tuple[subprocess.Popen[str], str]) -> None:
    process, address = server
    assert httpx.post(f"{address}/api/predict", json={"structures": [entry("Cu")]}, timeout=60).status_code == 200
    folder = folder_of(process)
    assert folder.is_dir()
    process.kill()
    process.wait()
    for _ in range(100):
        if not folder.exists():
            break
        time.sleep(0.1)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "so requests need a token"),
        (["--token", "short"], "a token has 16 characters or more"),
        (["--host", "no.such.host.invalid", "--token", "x" * 20], "cannot be used"),
        (["-m", "nonsense"], "No model 'nonsense'"),
    ],
)
def test_options_that_cannot_be_used_end_with_a_sentence(
    options: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CRYSTALFORMERS_TOKEN", raising=False)
    result = invoke("serve", "--port", "0", *options)
    assert result.exit_code == 2
    assert words in result.output


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = invoke("serve", "--port", port)
    assert result.exit_code == 2
    assert f"127.0.0.1:{port} cannot be used" in result.output


@pytest.mark.parametrize(("command", "package", "extra"), [("serve", "fastapi", "serve"), ("mcp", "mcp", "mcp")])
def test_a_missing_extra_is_one_sentence(
    command: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = util.find_spec

    def without(name: str, *rest: Any) -> Any:
        return None if name == package else find(name, *rest)

    monkeypatch.setattr(util, "find_spec", without)
    result = invoke(command)
    assert result.exit_code == 2
    assert result.output.strip() == (
        f"error: this command needs the package {package}; pip install 'crystalformers[{extra}]'."
    )


def test_the_help_imports_neither_server_nor_protocol() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from crystalformers.cli import app\n"
        "assert CliRunner().invoke(app, ['serve', '--help']).exit_code == 0\n"
        "heavy = {'torch', 'fastapi', 'uvicorn', 'mcp', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_token_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYSTALFORMERS_TOKEN", "t" * 20)
    assert checked_token("0.0.0.0", None) == "t" * 20
    assert checked_token("127.0.0.1", "u" * 20) == "u" * 20
    monkeypatch.delenv("CRYSTALFORMERS_TOKEN")
    assert checked_token("127.0.0.1", None) is None


def test_only_this_machine_is_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.0.1", "localhost.example", "")))
