"""A real HTTP server of files, on a free port, that can be told to misbehave once per request."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Asked", "Mirror", "cut", "html", "ignoring_ranges", "running", "silent", "status"]

Reply = Callable[["_Handler", bytes], None]


@dataclass
class Asked:
    """One request: its path and headers, and how many bytes of the file it got."""

    path: str
    range: str | None
    if_range: str | None
    sent: int = 0


@dataclass
class Mirror:
    """``files`` by path; ``script`` holds what is done instead of serving, first come, first used."""

    files: dict[str, bytes] = field(default_factory=dict)
    script: list[Reply] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    url: str = ""
    etags: bool = True


class _Handler(BaseHTTPRequestHandler):
    mirror: Mirror

    def do_GET(self) -> None:
        asked = Asked(self.path, self.headers.get("Range"), self.headers.get("If-Range"))
        self.mirror.asked.append(asked)
        data = self.mirror.files.get(self.path)
        with contextlib.suppress(ConnectionError):  # the client may have been killed
            if self.mirror.script:
                self.mirror.script.pop(0)(self, data or b"")
            elif data is None:
                self.send_error(404)
            else:
                serve(self, data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def write(self, data: bytes) -> None:
        """Send bytes of the file, and count them."""
        self.wfile.write(data)
        self.wfile.flush()
        self.mirror.asked[-1].sent += len(data)


def etag(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:16]}"'


def head(handler: _Handler, data: bytes, *, ranges: bool = True, kind: str = "application/octet-stream") -> int:
    """Answer with the headers of a good server; returns where the body begins."""
    start = 0
    asked = handler.headers.get("Range")
    if ranges and asked is not None and handler.headers.get("If-Range", etag(data)) == etag(data):
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        if start >= len(data):
            handler.send_error(416)
            return start
        handler.send_response(206)
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    else:
        handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(data) - start))
    if handler.mirror.etags:
        handler.send_header("ETag", etag(data))
    handler.end_headers()
    return start


def serve(handler: _Handler, data: bytes) -> None:
    handler.write(data[head(handler, data) :])


def status(code: int) -> Reply:
    """Answer with an error."""
    return lambda handler, _: handler.send_error(code)


def cut(count: int) -> Reply:
    """Promise everything, send ``count`` bytes and close the connection."""

    def reply(handler: _Handler, data: bytes) -> None:
        start = head(handler, data)
        handler.write(data[start : start + count])

    return reply


def silent(count: int) -> Reply:
    """Send ``count`` bytes, then nothing until the test releases the server."""

    def reply(handler: _Handler, data: bytes) -> None:
        start = head(handler, data)
        handler.write(data[start : start + count])
        handler.mirror.released.wait(60)

    return reply


def ignoring_ranges(handler: _Handler, data: bytes) -> None:
    """Send all of it with 200, whatever was asked."""
    head(handler, data, ranges=False)
    handler.write(data)


def html(handler: _Handler, _: bytes) -> None:
    """Answer as a captive portal does: 200, and a page."""
    page = b"<html><body>please log in</body></html>"
    head(handler, page, kind="text/html; charset=utf-8")
    handler.wfile.write(page)


@contextmanager
def running(files: dict[str, bytes]) -> Iterator[Mirror]:
    """Serve ``files`` on a free port of this machine."""
    mirror = Mirror(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"mirror": mirror}))
    server.daemon_threads = False
    mirror.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield mirror
    finally:
        mirror.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
