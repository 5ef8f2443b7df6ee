"""A service for tests: example crystals as entries of requests, and a server in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi.testclient import TestClient

from crystalformers.prediction.several import Models
from crystalformers.serve.app import create_app
from crystalformers.serve.limits import Limits
from crystalformers.serve.run import bound_socket, configuration
from crystalformers.serve.service import Service
from crystalformers.serve.work import Index

EXAMPLES = Path(__file__).parents[1] / "examples"
Clients = Callable[..., TestClient]


def entry(name: str) -> dict[str, str]:
    """An example crystal as an entry of a request."""
    return {"name": f"{name}.cif", "text": (EXAMPLES / f"{name}.cif").read_text(encoding="utf-8")}


@contextmanager
def running(models: Models, token: str | None = None, index: Index | None = None, **limits: Any) -> Iterator[str]:
    """The address of a server in a thread of this process."""
    listening = bound_socket("127.0.0.1", 0)
    app = create_app(Service(models, Limits(**limits), index), token)
    server = uvicorn.Server(configuration(app))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
