"""`crystalformers serve`: a local page and an HTTP service; `crystalformers mcp`: tools for AI assistants."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crystalformers.cli.options import Device, Threads, set_up
from crystalformers.extras import require

if TYPE_CHECKING:
    from crystalformers.serve.service import Service

ModelNames = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        help="Bundled name, run folder or weight file; repeat for several. Default: materials-project.",
    ),
]

IndexFolder = Annotated[
    Path | None,
    typer.Option(help="Index of known crystals (`crystalformers search build`), to list those nearest to a structure."),
]


def serve_command(
    model: ModelNames = None,
    index: IndexFolder = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Address to listen on. Other machines can reach any but the default, and need a token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(help="Token that requests need. Default: CRYSTALFORMERS_TOKEN of the environment."),
    ] = None,
    threads: Threads = None,
    device: Device = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser, from an interactive terminal.")] = True,
) -> None:
    """Open a local page to predict and look at structures; it is an HTTP service as well.

    Nothing is loaded from elsewhere, and no upload is stored. Ctrl-C or SIGTERM finishes what runs.
    """
    require("serve", "this command", "fastapi", "uvicorn", "prometheus_client")
    from crystalformers.serve.run import bound_socket, checked_token, run

    token = checked_token(host, token)
    with bound_socket(host, port) as listening:
        service = _service(model, index, device, threads)
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}"

        def tell() -> None:
            typer.echo(f"crystalformers is at {address} (API: {address}/docs). Ctrl-C stops it.", err=True)
            if browser and sys.stdout.isatty():
                import webbrowser

                webbrowser.open(address)

        run(service, listening, token, tell)


def mcp_command(
    model: ModelNames = None, index: IndexFolder = None, threads: Threads = None, device: Device = None
) -> None:
    """Offer the models to an AI assistant by the Model Context Protocol, on standard input and output."""
    require("mcp", "this command", "mcp")
    from crystalformers.serve.assistant import create_server

    service = _service(model, index, device, threads)
    try:
        create_server(service).run("stdio")
    finally:
        service.close()


def _service(model: list[str] | None, index: Path | None, device: str | None, threads: int | None) -> Service:
    from crystalformers.cli.predict import load_models
    from crystalformers.search import Index
    from crystalformers.serve.service import Service

    chosen = set_up(device, threads)
    return Service(load_models(model, chosen, 1e-7), index=None if index is None else Index(index, chosen))
