"""Requests that follow, or just miss, the OpenAPI description: none ends in a bug."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings

schemathesis = pytest.importorskip("schemathesis", reason="NOT TESTED: requests made from the description")

PATHS = [
    *("POST /api/predict", "POST /api/embed", "POST /api/explain", "POST /api/search"),
    *("GET /api/elements", "GET /api/elements/{symbol}"),
]


@pytest.mark.parametrize("path", PATHS)
def test_no_described_request_is_a_bug(searching: TestClient, path: str) -> None:
    method, _, route = path.partition(" ")
    description = schemathesis.openapi.from_dict(searching.get("/openapi.json").json())
    seen: set[int] = set()

    @given(case=description[route][method].as_strategy())
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def check(case: Any) -> None:
        arguments = case.as_transport_kwargs(base_url="http://127.0.0.1")
        answer = searching.request(**arguments)
        seen.add(answer.status_code)
        assert answer.status_code in {200, 404, 422}, (arguments, answer.text)
        if answer.status_code != 200:
            assert answer.json()["error"]["message"]

    check()
    assert seen
