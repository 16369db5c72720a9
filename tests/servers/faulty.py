"""An S3 server on loopback that holds one object and misbehaves as it is told.

with faulty.serving(data) as server:
    server.fault = "truncated"

What a real server does only on a bad day: bodies that end early or never, refusals that pass, web pages instead of answers.
It signs nothing, checks nothing, and knows three requests: list, look, read.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

Fault = Literal[
    "none",
    "truncated",  # less than the announced length, then the connection closes
    "short",  # the announced length is less than the listed size
    "stalled",  # half of the body, then nothing
    "reset",  # the connection closes without an answer
    "slow down",  # 503 with an S3 error document
    "error page",  # 500 with a web page of 100 kB
    "page for listing",  # 200 with a web page where a listing should be
    "half a listing",  # 200 with a listing that ends in the middle
]

BUCKET = "bucket"
KEY = "x/a.pt"
ERROR_PAGE = b"<html>the database of this shop is gone " + b"x" * 100_000 + b"</html>"
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"
LOGIN_PAGE = b"<html>log in, please</html>"


class Faulty(ThreadingHTTPServer):
    """The server; `fault` is how it answers from now on."""

    daemon_threads = True

    def __init__(self, data: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data = data
        self.fault: Fault = "none"
        self.requests = 0
        self.closing = threading.Event()

    @property
    def endpoint(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def listing(self) -> bytes:
        """The page that lists the object."""
        return (
            '<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated><Contents>'
            f"<Key>{KEY}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;e&quot;</ETag>"
            f"<Size>{len(self.data)}</Size></Contents></ListBucketResult>"
        ).encode()


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    server: Faulty
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Nothing: a test says what went wrong."""

    def do_HEAD(self) -> None:
        self.send(HTTPStatus.OK, b"", len(self.server.data))

    def do_GET(self) -> None:
        self.server.requests += 1
        if "list-type=2" in self.path:
            self.list()
        else:
            self.read()

    def list(self) -> None:
        whole = self.server.listing()
        match self.server.fault:
            case "page for listing":
                self.send(HTTPStatus.OK, LOGIN_PAGE)
            case "half a listing":
                self.send(HTTPStatus.OK, whole[: len(whole) // 2])
            case _:
                self.send(HTTPStatus.OK, whole)

    def read(self) -> None:
        whole = self.server.data
        half = whole[: len(whole) // 2]
        match self.server.fault:
            case "truncated":
                self.send(HTTPStatus.OK, half, len(whole))
                self.close_connection = True
            case "short":
                self.send(HTTPStatus.OK, half)
            case "stalled":
                self.stall()
            case "reset":
                self.close_connection = True
            case "slow down":
                self.send(HTTPStatus.SERVICE_UNAVAILABLE, SLOW_DOWN)
            case "error page":
                self.send(HTTPStatus.INTERNAL_SERVER_ERROR, ERROR_PAGE)
            case _:
                self.send(HTTPStatus.OK, whole)

    def stall(self) -> None:
        """Sends half of what was asked for, also of a range: a client that tries again gets a little further."""
        whole, asked = self.server.data, self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").split("-")[0] or 0)
        half = whole[start : (start + len(whole)) // 2]
        status = HTTPStatus.PARTIAL_CONTENT if asked else HTTPStatus.OK
        self.send(status, half, len(whole) - start, {"Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}"})
        self.server.closing.wait()
        self.close_connection = True

    def send(
        self, status: HTTPStatus, body: bytes, announced: int | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """Sends a body that is announced to be of its own length, or of another."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        self.end_headers()
        # A client that has heard enough is no failure of ours.
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body)


@contextlib.contextmanager
def serving(data: bytes) -> Iterator[Faulty]:
    """Serves from a thread until the block ends."""
    with Faulty(data) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join()
