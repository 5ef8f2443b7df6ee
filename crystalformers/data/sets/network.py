"""Talking to servers: what counts as an answer, how long to wait for it, and when to ask again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from crystalformers.errors import DataSetError
from crystalformers.extras import optional

if TYPE_CHECKING:
    import requests

Result = TypeVar("Result")

OFFLINE_VARIABLE = "CRYSTALFORMERS_OFFLINE"
"""Environment variable that forbids every access to the network, if it holds anything but 0."""

WEB_PAGES = ("text/html", "application/xhtml+xml")
"""Content types of error pages."""

CHUNK = 1 << 20
"""Bytes taken at once."""

MAX_JSON_BYTES = 256 << 20
"""Size of an answer that is held in memory."""


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server; times in seconds.

    Attributes:
        connect: until it answers at all.
        silence: until the next bytes come.
        slowest: bytes per second below which a connection is given up.
        window: over which that speed is measured.
        tries: of each address.
        pause: after the first failed try, doubled after each further one.
    """

    connect: float = 20.0
    silence: float = 60.0
    slowest: float = 1024.0
    window: float = 60.0
    tries: int = 4
    pause: float = 2.0


PATIENCE = Patience()


class RefusedError(Exception):
    """This address will not give the file, now or later."""


class BrokenOffError(Exception):
    """The transfer failed in a way that another try may mend."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def fetch_json(address: str, say: Callable[[str], None]) -> Any:
    """The JSON object at an address.

    Raises:
        DataSetError: if the address does not give it, or the network is switched off.
    """
    check_online(address)

    def ask() -> Any:
        with open_answer(address, {"Accept": "application/vnd.api+json, application/json"}) as response:
            content = bytearray()
            for chunk in chunks_of(response):
                content += chunk
                if len(content) > MAX_JSON_BYTES:
                    raise RefusedError(f"the answer is larger than {MAX_JSON_BYTES >> 20} MB")
        try:
            return json.loads(content)
        except ValueError as error:
            raise RefusedError(f"the answer is not JSON ({error})") from error

    try:
        return try_often(ask, say)
    except (RefusedError, BrokenOffError) as error:
        raise DataSetError(str(error), where=address, remedy="check the address, or try again later") from error


def check_online(what: str) -> None:
    """Raise DataSetError if the network is switched off."""
    if os.environ.get(OFFLINE_VARIABLE, "0") not in ("", "0"):
        raise DataSetError(
            f"it is not here, and {OFFLINE_VARIABLE} forbids downloading it",
            where=what,
            remedy="unset the variable, or pass the file with --from FILE",
        )


def try_often(attempt: Callable[[], Result], say: Callable[[str], None]) -> Result:
    """Repeat what broke off, with growing pauses; after the last try the BrokenOffError stays."""
    for failed in range(PATIENCE.tries - 1):
        try:
            return attempt()
        except BrokenOffError as error:
            wait = max(PATIENCE.pause * 2**failed, error.wait)
            say(f"{error}; trying again in {wait:g} s")
            time.sleep(wait)
    return attempt()


@contextmanager
def open_answer(address: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
    """The open answer of a server, if it is the file or a part of it.

    Raises:
        RefusedError: if the address will never give it.
        BrokenOffError: if the connection fails, now or while the answer is read.
        DataSetError: if the extra `data` is not installed.
    """
    with optional("data", "a download", DataSetError, address):
        import requests
        import urllib3
    asked = {"Accept-Encoding": "identity", "User-Agent": "crystalformers", **headers}
    timeout = (PATIENCE.connect, PATIENCE.silence)
    try:
        with requests.get(address, headers=asked, stream=True, timeout=timeout) as response:
            _check_answer(response, address)
            yield response
    except requests.TooManyRedirects as error:
        raise RefusedError("it redirects in a circle") from error
    except (requests.exceptions.InvalidURL, requests.exceptions.MissingSchema, requests.exceptions.InvalidSchema) as e:
        raise RefusedError("not an address that can be downloaded from") from e
    except (requests.Timeout, urllib3.exceptions.TimeoutError) as error:
        raise BrokenOffError("the server does not answer") from error
    except requests.exceptions.SSLError as error:
        raise RefusedError("the server's certificate is not accepted") from error
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise BrokenOffError("the connection failed or broke off") from error


def _check_answer(response: requests.Response, address: str) -> None:
    status = response.status_code
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.REQUEST_TIMEOUT) or status >= 500:
        after = response.headers.get("Retry-After", "")
        raise BrokenOffError(f"the server answers {status}", min(float(after) if after.isdigit() else 0, 60))
    for step in (*response.history, response):
        if address.startswith("https:") and not step.url.startswith("https:"):
            raise RefusedError(f"it leads to an address without encryption, {step.url}")
    resumed = "Range" in response.request.headers
    if resumed and status in (HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
        return
    if status != HTTPStatus.OK:
        raise RefusedError(f"the server answers {status} {response.reason or ''}".rstrip())
    content_type = response.headers.get("Content-Type", "").split(";")[0].strip().lower()
    if content_type in WEB_PAGES:
        raise RefusedError("the server sends a web page instead of the file")


def version_of(response: requests.Response) -> str:
    """What tells one version of a file from another, as `If-Range` takes it; empty if the server does not say."""
    tag = response.headers.get("ETag", "")
    return response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag


def chunks_of(response: requests.Response) -> Iterator[bytes]:
    """The bytes as they come; gives up a connection that is too slow over `PATIENCE.window`."""
    began, came = time.monotonic(), 0
    while chunk := response.raw.read1(CHUNK, decode_content=False):
        yield chunk
        came += len(chunk)
        elapsed = time.monotonic() - began
        if elapsed >= PATIENCE.window:
            if came < PATIENCE.slowest * elapsed:
                raise BrokenOffError(f"the server sends only {came / elapsed:.3g} bytes per second")
            began, came = time.monotonic(), 0
