"""The paths of the HTTP service."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathParameter

from crystalformers.crystal import Crystal
from crystalformers.serve import elements
from crystalformers.serve.limits import Limits, RefusedError
from crystalformers.serve.reading import Allowance
from crystalformers.serve.schemas import EmbedBody, ExplainBody, PredictBody, SearchBody, StructureText
from crystalformers.serve.service import Service, the_only
from crystalformers.serve.work import Embed, Explain, Index, Predict, Result, Search, Structure, Work

EXAMPLES = Path(__file__).parent / "examples"
"""Textbook crystals, of the project's own making: rock salt, diamond, perovskite..."""

ANSWERS: dict[int | str, dict[str, Any]] = {
    401: {"description": "The token is missing or wrong."},
    408: {"description": "The request did not arrive in time."},
    413: {"description": "The request is too large: bytes, structures, atoms."},
    422: {"description": "The request, or its only structure, cannot be used."},
    429: {"description": "Too many requests at once."},
    503: {"description": "The server is stopping, or the answer took too long."},
}

router = APIRouter(prefix="/api", responses=ANSWERS)


class Handler:
    """Takes requests to the reader and the worker of a service, within their time.

    Args:
        service: the models.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        # While one thread waits for the reader, the other makes crystals of its last answer.
        self._executor = ThreadPoolExecutor(2, "crystalformers-reading")

    async def results(
        self, given: Sequence[StructureText], work: Work, limits: Limits | None = None, *, single: bool = False
    ) -> tuple[list[list[Structure]], list[Result]]:
        """The structures of each entry of a request, and the results of all of them in one list.

        Args:
            given: the entries.
            work: what to compute.
            limits: other ones than those of the service.
            single: whether only one structure is allowed, which must be usable.

        Raises:
            RefusedError: if the request holds too much or takes too long.
            StructureError: if the single structure cannot be used.
        """
        seconds = self.service.limits.seconds
        try:
            async with asyncio.timeout(seconds):
                allowance, loop = Allowance(limits or self.service.limits), asyncio.get_running_loop()
                entries = await loop.run_in_executor(self._executor, self.service.read, given, allowance)
                if single:
                    the_only(entries[0])
                future = self.service.submit(work, list(chain.from_iterable(entries)))
                return entries, await asyncio.wrap_future(future)
        except TimeoutError:
            problem = f"the request took longer than {seconds:g} s"
            raise RefusedError(503, problem, remedy="send fewer or smaller structures") from None

    def close(self) -> None:
        """End the threads that wait for the reader."""
        self._executor.shutdown(cancel_futures=True)


async def _handler(request: Request) -> Handler:
    handler: Handler = request.app.state.handler
    return handler


CurrentHandler = Annotated[Handler, Depends(_handler)]


@router.post("/predict")
async def predict(body: PredictBody, handler: CurrentHandler) -> dict[str, Any]:
    """Predict properties of structures, with units, intervals and a flag for those unlike the training data.

    Every structure has a row, in the order of the request; `entry` says which entry it comes from, since a file may
    hold many. One that cannot be used has an `error` instead of values.
    """
    service = handler.service
    work = Predict(service.models, service.settings(body.coverage))
    entries, results = await handler.results(body.structures, work)
    rows = _rows(entries, results)
    if body.atoms:
        for row, one in zip(rows, chain.from_iterable(entries), strict=True):
            if isinstance(one, Crystal):
                row["atoms"] = _atoms(one)
    return {**service.about_predictions(body.coverage), "rows": rows}


@router.post("/embed")
async def embed(body: EmbedBody, handler: CurrentHandler) -> dict[str, Any]:
    """Vectors of structures or of their atoms, as the network computes them before its last layers."""
    model, limits = handler.service.model(body.model), handler.service.limits
    if body.per_atom:
        limits = replace(limits, atoms=min(limits.atoms, limits.atom_vectors))
    entries, results = await handler.results(body.structures, Embed(model, body.per_atom), limits)
    return {"model": model.name, "dim": model.dim, "rows": _rows(entries, results)}


@router.post("/explain")
async def explain(body: ExplainBody, handler: CurrentHandler) -> dict[str, Any]:
    """The periodic images that an atom attends to: weights by block and head, distances and vectors in Å."""
    model, images = handler.service.model(body.model), handler.service.limits.explained_images
    work = Explain(model, body.atom, body.block, body.threshold, images)
    _, [found] = await handler.results([body.structure], work, single=True)
    if "error" in found:  # no such atom, too many images...
        raise RefusedError(422, found["error"])
    return found


@router.get("/models")
async def models(handler: CurrentHandler) -> dict[str, Any]:
    """The loaded models: what they predict, in which unit, from which data, and how far they are off."""
    limits = handler.service.limits
    shown = {name: getattr(limits, name) for name in ("body_bytes", "structures", "atoms", "seconds")}
    return {"models": handler.service.about_models(), "limits": shown, "search": handler.service.index is not None}


TableOfElements = Annotated[str, Query(max_length=100, description="A bundled table of element vectors.")]


@router.get("/elements")
def element_table(table: TableOfElements = elements.DEFAULT) -> dict[str, Any]:
    """Element vectors: families, properties with units, and the cosines of the angles between all pairs."""
    return elements.table_data(elements.bundled(table))


@router.get("/elements/{symbol}")
def element(
    symbol: Annotated[str, PathParameter(max_length=3)],
    table: TableOfElements = elements.DEFAULT,
    count: Annotated[int, Query(ge=1, le=100)] = 10,
) -> dict[str, Any]:
    """The elements most similar to one, and those of them that could replace it in a compound."""
    return elements.neighbours(symbol, elements.bundled(table), count)


@router.get("/examples")
async def examples() -> list[dict[str, str]]:
    """Textbook crystals, as name and text of a CIF."""
    return [{"name": path.name, "text": path.read_text(encoding="utf-8")} for path in sorted(EXAMPLES.glob("*.cif"))]


def search_router(index: Index) -> APIRouter:
    """The path of the search for known crystals, for a service with an index."""
    searching = APIRouter(prefix="/api", responses=ANSWERS)

    @searching.post("/search")
    async def search(body: SearchBody, handler: CurrentHandler) -> dict[str, Any]:
        """The nearest known crystals of each structure."""
        entries, results = await handler.results(body.structures, Search(index, body.count))
        return {"rows": _rows(entries, results)}

    return searching


def _rows(entries: Sequence[Sequence[Structure]], results: Sequence[Result]) -> list[Result]:
    """The results, each with the number of the entry that its structure comes from."""
    numbers = [number for number, entry in enumerate(entries) for _ in entry]
    return [{"entry": number, **result} for number, result in zip(numbers, results, strict=True)]


def _atoms(crystal: Crystal) -> dict[str, Any]:
    """The crystal as `schemas.Atoms`."""
    coordinates = {"frac_coords": crystal.frac_coords.tolist(), "lattice": crystal.lattice.tolist()}
    return {"symbols": crystal.symbols, **coordinates}
