"""A server on this machine that plays every host of a data set, well-behaved or not."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread


@dataclass
class Page:
    """What an address answers.

    Attributes:
        content: the file.
        status: of the answer.
        content_type: of the answer.
        location: where to redirect to.
        stop_after: bytes after which the connection is closed although more were announced.
        stops: how many answers end so; the further ones are whole.
        seconds_per_byte: pause after each byte.
        versioned: whether the server tells an ETag and takes `Range`.
        says_length: whether it tells the length.
    """

    content: bytes = b""
    status: int = 200
    content_type: str = "application/octet-stream"
    location: str = ""
    stop_after: int | None = None
    stops: int = 10**9
    seconds_per_byte: float = 0.0
    versioned: bool = True
    says_length: bool = True


@dataclass
class Host:
    """The server's address, its pages by path, and the requests it got: path and `Range` header."""

    url: str
    pages: dict[str, Page] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0


@contextmanager
def playing_host() -> Iterator[Host]:
    """A server in a thread of this process."""
    host = Host("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            host.asked.append((self.path, self.headers.get("Range")))
            page = host.pages.get(self.path) or host.pages.get(self.path.split("?")[0]) or Page(b"no", 404)
            self.close_connection = True
            with suppress(BrokenPipeError, ConnectionResetError):  # the client has left
                answer(self, page)

        def log_message(self, *_: object) -> None:
            pass

    def answer(handler: BaseHTTPRequestHandler, page: Page) -> None:
        tag = f'"{hashlib.sha256(page.content).hexdigest()}"'
        start = 0
        asked = handler.headers.get("Range")
        if asked and page.versioned and page.status == 200 and handler.headers.get("If-Range") == tag:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(page.content) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(page.content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        handler.send_response(206 if start else page.status)
        handler.send_header("Content-Type", page.content_type)
        if page.location:
            handler.send_header("Location", page.location)
        if page.versioned:
            handler.send_header("ETag", tag)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(page.content) - 1}/{len(page.content)}")
        body = page.content[start:]
        if page.says_length:
            handler.send_header("Content-Length", str(len(body)))
        handler.send_header("Connection", "close")
        handler.end_headers()
        if page.stop_after is not None and page.stops > 0:
            page.stops -= 1
            body = body[: max(0, page.stop_after - start)]
        if page.seconds_per_byte:
            for k in range(len(body)):
                handler.wfile.write(body[k : k + 1])
                handler.wfile.flush()
                host.sent += 1
                time.sleep(page.seconds_per_byte)
        else:
            handler.wfile.write(body)
            host.sent += len(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    host.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield host
    finally:
        server.shutdown()
        server.server_close()


def visible(folder: Path) -> list[str]:
    """Files below a folder that are neither hidden nor in a hidden folder."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if not any(part.startswith(".") for part in path.parts))
