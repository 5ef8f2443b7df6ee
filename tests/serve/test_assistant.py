"""`crystalformers mcp` with a client of the official SDK, over standard input and output."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from served import EXAMPLES

from crystalformers import load_model
from crystalformers.elements import load_elements
from crystalformers.elements.similarity import substitutions

NACL = (EXAMPLES / "NaCl.cif").read_text(encoding="utf-8")


@asynccontextmanager
async def connected(*options: str) -> AsyncIterator[Client]:
    arguments = ["-c", "from crystalformers.cli import main; main()", "mcp", "--threads", "1", *options]
    environment = {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    server = StdioServerParameters(command=sys.executable, args=arguments, env=environment)
    async with Client(stdio_client(server)) as client:
        yield client


def with_client(check: Callable[[Client], Awaitable[None]], *options: str) -> None:
    async def run() -> None:
        async with connected(*options) as client:
            await check(client)

    asyncio.run(asyncio.wait_for(run(), 120))


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert json.loads(result.content[0].text) == result.structured_content, "as text and as data"
    return dict(result.structured_content)


async def refusal(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)


def test_every_tool_answers_a_client() -> None:
    model = load_model()

    async def check(client: Client) -> None:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert tools.keys() == {"predict", "interval", "explain", "nearest_elements", "substitutions", "list_models"}
        for tool in tools.values():
            assert tool.description
            assert all("description" in one or "default" in one for one in tool.input_schema["properties"].values())

        [expected] = model.predict(EXAMPLES / "NaCl.cif")
        found = await call(client, "predict", structure=NACL, name="NaCl.cif")
        assert found["units"] == model.units
        assert found["rows"][0]["values"] == pytest.approx(expected.values, abs=1e-5)
        assert (await call(client, "predict", structure=NACL))["rows"][0]["formula"] == "NaCl"

        wide = await call(client, "interval", structure=NACL, coverage=0.99)
        assert wide["coverage"] == 0.99
        assert wide["rows"][0]["high"]["band_gap"] > found["rows"][0]["high"]["band_gap"]

        seen = await call(client, "explain", structure=NACL, atom=0, block=3)
        assert seen["units"]["distance"] == "Å"
        assert [one["block"] for one in seen["attention"]] == [3]

        near = await call(client, "nearest_elements", element="Fe", count=3)
        assert [one["symbol"] for one in near["nearest"]] == ["Mn", "Co", "Cr"]
        replaced = await call(client, "substitutions", formula="LiFePO4", count=4)
        wanted = substitutions(load_elements(replaced["table"]), "LiFePO4", 4)
        assert [one["formula"] for one in replaced["substitutions"]] == [one.formula for one in wanted]

        [listed] = (await call(client, "list_models"))["models"]
        assert {one["name"]: one["unit"] for one in listed["targets"]} == model.units

    with_client(check)


def test_errors_are_sentences_and_known_crystals_are_found_if_there_is_an_index(index: Path) -> None:
    async def check(client: Client) -> None:
        assert "a POSCAR needs at least 8 lines" in await refusal(client, "predict", structure="salt, please")
        assert "There is no atom 99" in await refusal(client, "explain", structure=NACL, atom=99)
        assert "'Xx' is no element" in await refusal(client, "nearest_elements", element="Xx")
        assert "there is no table '/etc/passwd'" in await refusal(
            client, "nearest_elements", element="Fe", table="/etc/passwd"
        )
        assert "'??' is no formula" in await refusal(client, "substitutions", formula="??")
        assert "0.99999" in await refusal(client, "interval", structure=NACL, coverage=0.99999)
        assert "coverage" in await refusal(client, "interval", structure=NACL, coverage=2)

        found = (await call(client, "nearest_crystals", structure=NACL, count=3))["nearest"]
        assert [len(found), Path(found[0]["name"]).name, found[0]["formula"]] == [3, "NaCl.cif", "NaCl"]
        assert found[0]["distance"] == pytest.approx(0, abs=1e-4)
        assert found[0]["distance"] <= found[1]["distance"] <= found[2]["distance"]
        assert "band_gap" in found[0]
        assert "a POSCAR needs at least 8 lines" in await refusal(client, "nearest_crystals", structure="salt, please")

    with_client(check, "--index", str(index))
