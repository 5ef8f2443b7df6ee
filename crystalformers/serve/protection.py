"""What every request passes before it is read: token, limits on size, time and number; and headers of every answer."""

from __future__ import annotations

import asyncio
import hmac
import time
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crystalformers.errors import CrystalformersError
from crystalformers.io.text import printable
from crystalformers.serve.limits import Limits, RefusedError
from crystalformers.serve.metrics import Metrics

HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""Nothing is loaded from elsewhere, and no other page may show or read this one."""

LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""The hosts that a request to this machine may name; another one comes from a page that pretends to be this one."""

PROTECTED = ("/api/", "/metrics")
"""Paths that need the token, if there is one."""


def error_body(error: CrystalformersError) -> dict[str, Any]:
    """An error as JSON: the sentence, and its parts."""
    parts = {"message": str(error), "problem": error.problem, "where": error.where, "remedy": error.remedy}
    return {"error": {name: printable(text) for name, text in parts.items()}}


class Admission:
    """The requests that are served or wait.

    Attributes:
        stopping: whether new ones are refused.
        active: how many there are.
        held: bytes of their bodies.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.stopping, self.active, self.held = limits, False, 0, 0

    def admit(self) -> None:
        """Raise a RefusedError if no request can be taken at the moment."""
        if self.stopping:
            raise RefusedError(503, "the server is stopping", remedy="try again when it has been restarted")
        if self.active >= self.limits.waiting:
            problem = f"{self.active} requests are being served"
            raise RefusedError(429, problem, remedy="try again in a second")

    def hold(self, size: int) -> None:
        """Count bytes of a body; raises a RefusedError if those of all requests are too many."""
        if self.held + size > self.limits.held_bytes:
            raise RefusedError(429, "the requests being served are too large together", remedy="try again in a second")
        self.held += size


class Protection:
    """ASGI middleware around the application.

    Args:
        app: the application.
        admission: counts requests.
        metrics: counts answers.
        token: that protected paths need; None if they need none.
        hosts: that requests may name; None for any.
    """

    def __init__(
        self,
        app: ASGIApp,
        admission: Admission,
        metrics: Metrics,
        token: str | None,
        hosts: tuple[str, ...] | None = LOCAL,
    ) -> None:
        self.app, self.admission, self.metrics, self.hosts = app, admission, metrics, hosts
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, path, status = time.perf_counter(), scope["path"], 500

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if status in {408, 413, 503}:  # what is left of the body is not read
                    headers["Connection"] = "close"
            await send(message)

        try:
            self._check(scope)
            if path.startswith("/api/"):
                await self._admitted(scope, receive, send_with_headers)
            else:
                await self.app(scope, receive, send_with_headers)
        except RefusedError as error:
            await refusal(error)(scope, receive, send_with_headers)
        finally:
            # Only paths that exist are names of counters.
            known = scope["route"].path if "route" in scope else "other"
            self.metrics.requests.labels(known, str(status)).inc()
            self.metrics.seconds.labels(known).observe(time.perf_counter() - start)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self.hosts is not None and headers.get("host", "").rsplit(":", 1)[0] not in self.hosts:
            problem = f"this server does not answer for '{headers.get('host', '')[:60]}'"
            raise RefusedError(421, problem, remedy=f"use {self.hosts[0]}")
        if self._token is None or not scope["path"].startswith(PROTECTED):
            return
        given = headers.get("authorization", "").removeprefix("Bearer ").encode("latin-1", "replace")
        if not hmac.compare_digest(given, self._token):
            raise RefusedError(401, "the token is missing or wrong", remedy="send it as `Authorization: Bearer TOKEN`")

    async def _admitted(self, scope: Scope, receive: Receive, send: Send) -> None:
        admission = self.admission
        admission.admit()
        admission.active += 1
        self.metrics.active.set(admission.active)
        body = bytearray()
        try:
            try:
                async with asyncio.timeout(admission.limits.body_seconds):
                    await self._receive(body, scope, receive)
            except TimeoutError:
                problem = f"the request did not arrive within {admission.limits.body_seconds:g} s"
                raise RefusedError(408, problem, remedy="send it faster") from None
            await self.app(scope, _replayed(bytes(body), receive), send)
        finally:
            admission.active -= 1
            admission.held -= len(body)
            self.metrics.active.set(admission.active)

    async def _receive(self, body: bytearray, scope: Scope, receive: Receive) -> None:
        """Append the body of a request; what is too long is not read to its end."""
        most = self.admission.limits.body_bytes
        announced = Headers(scope=scope).get("content-length", "0")
        length, more = int(announced) if announced.isdigit() else 0, True
        while True:
            if max(length, len(body)) > most:
                problem = f"the request is larger than {most / (1 << 20):.3g} MiB"
                raise RefusedError(413, problem, remedy="send several smaller ones, or use the command line")
            if not more:
                return
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(408, "the request ended before all of it was sent")
            chunk = message.get("body", b"")
            self.admission.hold(len(chunk))
            body += chunk
            more = message.get("more_body", False)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives a body that was read, then what comes after it."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def refusal(error: RefusedError) -> JSONResponse:
    """The answer to a request that is refused."""
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    if error.status in {429, 503}:
        headers["Retry-After"] = "1"
    return JSONResponse(error_body(error), error.status, headers)
