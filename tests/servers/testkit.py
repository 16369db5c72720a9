"""The fault server: five protocols in one process, which fails as it is told to.

with testkit.serving(folder) as server:
    server.fault("status=503,times=2")
    server.kill()

Rules and commands are those of `crates/testkit/src/main.rs`; `make target/release/headwater-testkit` builds it.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from headwater import Source

from .process import ROOT

PROGRAM = ROOT / "target/release/headwater-testkit"
# What a source of each kind needs, where a test has nothing else in mind. Only private datasets of the Hub look at it.
CREDENTIALS: dict[str, dict[str, str]] = {
    "s3": {"access_key_id": "any", "secret_access_key": "any"},
    "gs": {"token": "any"},
    "az": {"token": "any"},
    "hf": {"token": "any"},
    "http": {},
}
KINDS = tuple(CREDENTIALS)


class Testkit:
    """A running fault server: where each protocol is served, and what may be told to it."""

    __test__ = False  # no test, though it begins like one

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Hears where the process serves."""
        self._process = process
        where = self._heard()
        self.endpoint, self.bucket, self.region = str(where["endpoint"]), str(where["bucket"]), str(where["region"])
        self.gcs, self.azure, self.hub = str(where["gcs"]), str(where["azure"]), str(where["hub"])
        self.http = str(where["http"]).rstrip("/")
        self.dataset, self.token = str(where["dataset"]), str(where["token"])

    def fault(self, rule: str) -> None:
        """Adds a rule, such as `reset-mid,times=3`."""
        self._told(f"fault {rule}")

    def clear(self) -> None:
        """Ends all faults."""
        self._told("clear")

    def expect(self, *words: str) -> None:
        """Refuses credentials without all of these words, parts of keys and tokens, as expired; none ends that."""
        self._told(" ".join(["expect", *words]))

    def kill(self) -> None:
        """Closes the port and resets every connection."""
        self._told("kill")

    def revive(self) -> None:
        """Opens the same port again."""
        self._told("revive")

    def stats(self) -> dict[str, int]:
        """What was asked for so far: `requests`, of those `get`, `list`, `head` and `other`, `faults`, `connections`, …."""
        return self._told("stats")

    def put(self, key: str, data: bytes) -> None:
        """Stores an object, for every protocol."""
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=20)
        with contextlib.closing(connection):
            connection.request("PUT", f"/plain/{quote(key)}", data)
            assert connection.getresponse().status == 201

    def uri(self, kind: str, path: str) -> str:
        """The URI of a folder over a protocol."""
        return {
            "s3": f"s3://{self.bucket}/{path}",
            "gs": f"gs://{self.bucket}/{path}",
            "az": f"az://{self.bucket}/{path}",
            "hf": f"hf://datasets/{self.dataset}/{path}",
            "http": f"{self.http}/{path}",
        }[kind]

    def options(self, kind: str) -> dict[str, str]:
        """How a source of that kind reaches this server, but for credentials."""
        return {
            "s3": {"endpoint": self.endpoint, "region": self.region},
            "gs": {"endpoint": self.gcs},
            "az": {"endpoint": self.azure},
            "hf": {"endpoint": self.hub},
            "http": {},
        }[kind]

    def source(self, kind: str, path: str, **other: str) -> Source:
        """A source over a protocol, with `other` options in place of the usual ones."""
        return Source(self.uri(kind, path), **{**CREDENTIALS[kind], **self.options(kind), **other})

    def _told(self, command: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        answer = self._heard()
        assert "error" not in answer, answer["error"]
        return answer

    def _heard(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the fault server ended with status {self._process.wait()}"
        answer: dict[str, Any] = json.loads(line)
        return answer


def missing() -> list[str]:
    """What is not built."""
    return [] if PROGRAM.exists() else [f"{PROGRAM.relative_to(ROOT)} (`make {PROGRAM.relative_to(ROOT)}`)"]


@contextlib.contextmanager
def serving(folder: Path, *options: str) -> Iterator[Testkit]:
    """Serves what a folder holds now, from memory, until the block or this process ends."""
    process = subprocess.Popen([PROGRAM, folder, *options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Testkit(process)
    finally:
        # Its end is that of its standard input; a worker that was forked meanwhile may hold that open.
        process.kill()
        process.communicate()
