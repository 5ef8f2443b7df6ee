"""The service of the bundled model, for a client in the process of the test and for one that connects."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from served import EXAMPLES, Clients, running

from crystalformers.prediction.loading import load_model
from crystalformers.prediction.several import Models
from crystalformers.search import Index, build_index
from crystalformers.serve.app import create_app
from crystalformers.serve.limits import Limits
from crystalformers.serve.service import Service


@pytest.fixture(scope="session")
def models() -> Models:
    return load_model(["materials-project"])


@pytest.fixture(scope="session")
def client(models: Models) -> Iterator[TestClient]:
    with TestClient(create_app(Service(models)), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture
def limited(models: Models) -> Iterator[Clients]:
    """Makes clients of services with other limits, as in `limited(atoms=10)`, or a token."""
    opened: list[TestClient] = []

    def make(token: str | None = None, index: Any = None, **limits: Any) -> TestClient:
        app = create_app(Service(models, Limits(**limits), index), token)
        opened.append(TestClient(app, base_url="http://127.0.0.1").__enter__())
        return opened[-1]

    yield make
    for one in opened:
        one.__exit__(None, None, None)


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of the example crystals."""
    folder = tmp_path_factory.mktemp("search") / "index"
    build_index([EXAMPLES], folder)
    return folder


@pytest.fixture(scope="session")
def searching(models: Models, index: Path) -> Iterator[TestClient]:
    """A client of a service with an index."""
    with TestClient(create_app(Service(models, index=Index(index))), base_url="http://127.0.0.1") as client:
        yield client


@pytest.fixture(scope="session")
def address(models: Models, index: Path) -> Iterator[str]:
    with running(models, index=Index(index)) as address:
        yield address
