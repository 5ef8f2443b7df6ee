"""Start and stop: a server that finishes what runs before it ends."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from crystalformers.errors import ConfigError
from crystalformers.serve.app import create_app
from crystalformers.serve.service import Service

TOKEN_VARIABLE = "CRYSTALFORMERS_TOKEN"
LEAST_TOKEN = 16
"""Characters of a token, at least."""

STOP_SECONDS = 60.0
"""How long requests that run may take after the server was told to stop."""

HEAD_SECONDS = 10.0
"""In which the head of a request must arrive; a connection without one is closed."""

CONNECTIONS = 512
"""Open connections; more are answered with 503."""


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def checked_token(host: str, token: str | None) -> str | None:
    """The token that requests need, from the option or from the environment; None on loopback without one.

    Raises:
        ConfigError: if other machines can reach the host and there is no token, or it is too short.
    """
    token = token or os.environ.get(TOKEN_VARIABLE) or None
    if token is None and not is_loopback(host):
        problem = f"other machines can reach {host}, so requests need a token"
        remedy = f"set {TOKEN_VARIABLE} or --token, for example to {secrets.token_urlsafe(24)}"
        raise ConfigError(problem, where="--host", remedy=remedy)
    if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable()):
        problem = f"a token has {LEAST_TOKEN} characters or more, all of them printable ASCII"
        raise ConfigError(problem, where="--token", remedy=f"use for example {secrets.token_urlsafe(24)}")
    return token


class Protocol(H11Protocol):
    """HTTP whose connections are closed if the head of a request does not come in time."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        """As of uvicorn; the first head is awaited."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """As of uvicorn; no longer waits for a head that is complete, and begins to wait for one that is not."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()
        elif self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """As of uvicorn."""
        if self._head_timer is not None:
            self._head_timer.cancel()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)


class Server(uvicorn.Server):
    """After the first signal new requests get 503, and the server ends when none is running; a second one ends it."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._admission, self._tell_started, self._end = app.state.admission, started, float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As of uvicorn; tells that requests are taken."""
        await super().startup(sockets)
        if not self.should_exit:
            self._tell_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop taking requests."""
        if self._admission.stopping:
            self.should_exit = self.force_exit = True
        self._admission.stopping = True
        self._end = time.monotonic() + STOP_SECONDS

    async def on_tick(self, counter: int) -> bool:
        """As of uvicorn; True when the server shall end."""
        if self._admission.stopping and (self._admission.active == 0 or time.monotonic() > self._end):
            self.should_exit = True
        return await super().on_tick(counter)


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        ConfigError: if the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as error:
        listening.close()
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{host}:{port} cannot be used ({reason})", remedy="choose another --port") from None
    return listening


def run(service: Service, listening: socket.socket, token: str | None, started: Callable[[], object]) -> None:
    """Serve until a signal.

    Args:
        service: the models; closed at the end.
        listening: from `bound_socket`.
        token: from `checked_token`.
        started: called when requests are taken.
    """
    local = is_loopback(listening.getsockname()[0])
    app = create_app(service, token) if local else create_app(service, token, hosts=None)
    Server(configuration(app), app, started).run([listening])


def configuration(app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=CONNECTIONS,
        timeout_graceful_shutdown=10,
    )
