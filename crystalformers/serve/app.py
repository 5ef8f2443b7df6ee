"""The application: page, paths, errors and protection put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.staticfiles import StaticFiles

from crystalformers import __version__
from crystalformers.errors import CrystalformersError
from crystalformers.serve.api import Handler, router, search_router
from crystalformers.serve.limits import RefusedError
from crystalformers.serve.metrics import Metrics
from crystalformers.serve.protection import LOCAL, Admission, Protection, refusal
from crystalformers.serve.service import Service

STATIC = Path(__file__).parent / "static"

ABOUT = """Predictions of trained models for crystals. Lengths are in Å; every value comes with its unit.

An error has the form `{"error": {"message", "problem", "where", "remedy"}}`. A structure that cannot be used does not
end a request of several: its row has an `error`."""


def create_app(service: Service, token: str | None = None, hosts: tuple[str, ...] | None = LOCAL) -> FastAPI:
    """The application for a service.

    Args:
        service: the models; closed when the application stops.
        token: that requests need; None if they need none.
        hosts: names of this server that requests may use; None for any.

    Returns:
        The application; `app.state.admission` counts its requests.
    """
    metrics, admission = Metrics(), Admission(service.limits)
    service.worker.observe = metrics.batch.observe

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.reader.start()
        yield
        app.state.handler.close()
        service.close()

    # FastAPI's own pages of the description load scripts from another host.
    app = FastAPI(
        title="crystalformers", version=__version__, description=ABOUT, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.handler, app.state.admission, app.state.metrics = Handler(service), admission, metrics
    app.add_middleware(Protection, admission=admission, metrics=metrics, token=token, hosts=hosts)
    app.include_router(router)
    if service.index is not None:
        app.include_router(search_router(service.index))
    app.add_api_route("/health", health, summary="Whether requests are taken.")
    app.add_api_route("/metrics", numbers, summary="Numbers about the service, for Prometheus.")
    app.add_exception_handler(CrystalformersError, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_api_route("/", page, include_in_schema=False)
    app.add_api_route("/docs", description, include_in_schema=False)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    return app


async def page() -> FileResponse:
    """The page."""
    return FileResponse(STATIC / "index.html")


async def description() -> FileResponse:
    """The page that describes the paths."""
    return FileResponse(STATIC / "docs.html")


async def health(request: Request) -> JSONResponse:
    """`ok`, or 503 while the server is stopping."""
    stopping = request.app.state.admission.stopping
    return JSONResponse({"status": "stopping" if stopping else "ok"}, 503 if stopping else 200)


async def numbers(request: Request) -> Response:
    """The exposition format of Prometheus."""
    return Response(request.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


async def _refused(request: Request, error: Any) -> JSONResponse:
    """An error that a user can act on; any other is a bug, which gets 500 and a traceback in the log."""
    if isinstance(error, RefusedError):
        return refusal(error)
    return refusal(RefusedError(422, error.problem, where=error.where, remedy=error.remedy))


async def _invalid(request: Request, error: Any) -> JSONResponse:
    """The first thing that is wrong with a body, without the input itself, which may be long."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])[:200]
    problem = str(first["msg"]).removeprefix("Value error, ")[:300]
    return refusal(RefusedError(422, problem, where=where, remedy="/docs describes the request"))


async def _not_found(request: Request, error: Any) -> JSONResponse:
    problem = f"{request.method} {request.url.path[:100]}: {error.detail}"
    return refusal(RefusedError(error.status_code, problem, remedy="/docs lists the paths"))
