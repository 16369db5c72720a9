"""A mirror of the Hub: olah, which speaks its protocol in its own way and keeps what it fetched. It stands before another Hub.

with olah.serving(hub.endpoint) as endpoint: ...
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .process import Daemons, StartError, ask, find


def missing() -> list[str]:
    """What is not installed."""
    return [] if find("olah-cli") else ["olah (pip: olah)"]


def start(daemons: Daemons, hub: str) -> str:
    """Starts the server before the Hub at a URL; returns its own URL once it answers."""
    (port,) = daemons.ports(1)
    host, here = hub.removeprefix("http://"), f"127.0.0.1:{port}"
    daemons.spawn(
        "olah",
        [
            *(find("olah-cli") or "olah-cli", "--host", "127.0.0.1", "--port", str(port)),
            # Large files are on another host of the stub, under its other name.
            *("--hf-scheme", "http", "--hf-netloc", host, "--hf-lfs-netloc", host.replace("127.0.0.1", "localhost")),
            *("--mirror-scheme", "http", "--mirror-netloc", here, "--mirror-lfs-netloc", here),
            *("--repos-path", daemons.folder / "repos", "--log-path", daemons.folder / "logs"),
        ],
    )
    daemons.wait_for("answer", lambda: ask(port, "GET", "/api/datasets/nobody/nothing"), 401)
    return f"http://{here}"


@contextlib.contextmanager
def serving(hub: str) -> Iterator[str]:
    """Runs the server, in the care of a process of its own, until the block or this process ends."""
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "servers.olah", hub, str(os.getpid())],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise StartError(f"olah did not start (exit {process.wait()}), its words are on stderr")
        yield json.loads(line)
    finally:
        process.terminate()
        process.communicate()


def keep(hub: str, parent: int) -> int:
    """Starts the server, writes its URL as JSON, and keeps it until stdin closes."""
    from .keeper import end_in_order, wait_until_unwanted

    end_in_order(parent)
    daemons = Daemons("olah")
    try:
        os.write(sys.stdout.fileno(), (json.dumps(start(daemons, hub)) + "\n").encode())
        return 1 if wait_until_unwanted(daemons.dead) else 0
    except StartError as error:
        print(f"olah: {error}", file=sys.stderr)
        return 1
    finally:
        daemons.stop()


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1], int(sys.argv[2])))
