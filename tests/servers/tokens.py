"""A token or metadata service that answers as a test says, and keeps what it was asked.

with tokens.serving(lambda asked: (200, {"access_token": "t1"})) as service:
    service.url, service.asked

It may also stand between a client and hosts whose names cannot be changed, as their proxy: `environment` then says what makes
clients go through it. `disguised` gives it a certificate for such hosts, which openssl makes.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request."""

    method: str
    host: str
    path: str
    parameters: dict[str, str]
    headers: dict[str, str]
    body: str


class Break:
    """Says that the connection ends without an answer."""


class Silence:
    """Says that no answer comes while the service is there."""


Answer: TypeAlias = "tuple[int, object] | type[Break] | type[Silence]"


@dataclass
class TokenService:
    """A running service."""

    port: int
    asked: list[Asked] = field(default_factory=list)
    certificate: Path | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Where it is, without a trailing slash."""
        return f"http://{self.address}"

    @property
    def environment(self) -> dict[str, str]:
        """What has clients ask it whatever is not on this machine."""
        secure = {} if self.certificate is None else {"HTTPS_PROXY": self.url, "SSL_CERT_FILE": str(self.certificate)}
        return {"HTTP_PROXY": self.url, "NO_PROXY": "127.0.0.1", **secure}


@contextlib.contextmanager
def serving(answer: Callable[[Asked], Answer], pem: Path | None = None) -> Iterator[TokenService]:
    """Answers until the block ends."""
    ends = threading.Event()
    secure = None
    if pem is not None:
        secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secure.load_cert_chain(pem)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def do_CONNECT(self) -> None:
            if secure is None:
                self.send_error(502)
                return
            self.send_response(200)
            self.end_headers()
            self.host = self.path.partition(":")[0]
            self.connection = secure.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", buffering=0)
            self.close_connection = False

        def answer(self) -> None:
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            host = url.hostname or getattr(self, "host", "127.0.0.1")
            parameters = {name: values[0] for name, values in parse_qs(url.query).items()}
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, host, url.path, parameters, headers, body)
            service.asked.append(asked)
            given = answer(asked)
            if given is Silence:
                ends.wait()
            if not isinstance(given, tuple):
                self.close_connection = True
                return
            status, content = given
            data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def finish(self) -> None:
            super().finish()
            self.connection.close()

        do_GET = do_PUT = do_POST = answer  # noqa: N815 - names that are looked for

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service = TokenService(server.server_address[1], certificate=pem)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        ends.set()
        server.shutdown()
        server.server_close()
        thread.join()


def disguised(folder: Path, *hosts: str) -> Path:
    """A file with a certificate for these hosts, which is its own authority, and its key."""
    pem, key = folder / "hosts.pem", folder / "hosts.key"
    names = ",".join(f"DNS:{host}" for host in hosts)
    extensions = ["-addext", f"subjectAltName={names}", "-addext", "basicConstraints=critical,CA:FALSE"]
    elliptic = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    made = ["openssl", "req", "-x509", "-nodes", *elliptic, "-days", "2", "-subj", "/CN=test", *extensions]
    subprocess.run([*made, "-keyout", key, "-out", pem], check=True, capture_output=True)
    pem.write_text(pem.read_text() + key.read_text())
    return pem


def rsa_key() -> str:
    """A private key as service accounts have it."""
    made = ["openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]
    return subprocess.run(made, check=True, capture_output=True, text=True).stdout
