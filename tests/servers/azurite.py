"""Azure Blob Storage as its makers emulate it: Azurite, in memory, with the account and the key that every emulator has."""

from __future__ import annotations

import base64
import hashlib
import hmac
from email.utils import formatdate
from typing import TypedDict
from urllib.parse import urlsplit

from .process import BUCKET, ROOT, Daemons, Server, ask, find

PROGRAM = ROOT / "target/servers/node_modules/azurite/dist/src/blob/main.js"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
VERSION = "2021-08-06"


class AzureServer(TypedDict):
    """What a client needs to reach the container."""

    endpoint: str
    account: str
    key: str
    container: str


def missing() -> list[str]:
    """What is not installed."""
    node = [] if find("node") else ["node (of Node.js, with npm)"]
    return node if PROGRAM.exists() else [*node, "azurite (npm)"]


def start(daemons: Daemons) -> AzureServer:
    """Starts the server and makes the container, which proves that signatures are understood."""
    (port,) = daemons.ports(1)
    daemons.spawn(
        "azurite",
        [
            *(find("node") or "node", PROGRAM, "--blobHost", "127.0.0.1", "--blobPort", str(port)),
            # Clients may be newer than the emulator; and it would report to its makers.
            *("--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"),
        ],
    )
    daemons.wait_for("make a container", lambda: put_container(port), 201)
    return AzureServer(endpoint=f"http://127.0.0.1:{port}/{ACCOUNT}", account=ACCOUNT, key=KEY, container=BUCKET)


def put_container(port: int) -> int:
    """Sends one signed request that makes the container; returns the status."""
    return put(port, "", "\nrestype:container", "?restype=container")


def put_blob(server: AzureServer, name: str, data: bytes) -> None:
    """Stores an object; its name needs no escaping."""
    status = put(urlsplit(server["endpoint"]).port or 0, f"/{name}", data=data)
    assert status == 201, f"{name}: status {status}"


def put(port: int, path: str, resource: str = "", query: str = "", data: bytes = b"") -> int:
    """Sends one signed request that makes what is at a path of the container; returns the status."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": VERSION}
    if data:
        headers["x-ms-blob-type"] = "BlockBlob"
    # The empty lines are headers that are not sent. The account is named twice: it is in the path, and the path follows it.
    length = str(len(data) or "")
    named = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
    words = f"PUT\n\n\n{length}" + "\n" * 9 + f"{named}/{ACCOUNT}/{ACCOUNT}/{BUCKET}{path}{resource}"
    signature = base64.b64encode(hmac.digest(base64.b64decode(KEY), words.encode(), hashlib.sha256)).decode()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{signature}"
    return ask(port, "PUT", f"/{ACCOUNT}/{BUCKET}{path}{query}", headers, data)


SERVER = Server("HEADWATER_TEST_AZURE", missing, start)
