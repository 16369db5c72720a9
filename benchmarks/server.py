"""The fault server as benchmarks use it, and programs that are measured beside it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import headwater as hw
from measure import RESULTS

OPTIONS = ("endpoint", "region", "access_key_id", "secret_access_key")
SLOW = ("--first-byte", "30ms", "--stream-rate", "100MB")
# Walks over the keys; prints one line at the end.
WALK = """
local objects, next = tonumber(os.getenv("OBJECTS")), 0
local requests = {}
function init() for n = 1, objects do requests[n] = wrk.format("GET", string.format(os.getenv("PATTERN"), n - 1)) end end
function request() next = next % objects + 1; return requests[next] end
function done(summary)
  local e = summary.errors
  io.write(string.format('{"objects": %d, "seconds": %f, "errors": %d}\\n', summary.requests, summary.duration / 1e6,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class Server:
    """The fault server over a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = ["target/release/headwater-testkit", str(folder), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.where = self.heard()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=30)

    def heard(self) -> dict[str, Any]:
        """Its next line."""
        line: dict[str, Any] = json.loads(self.process.stdout.readline() if self.process.stdout else "")
        return line

    def say(self, command: str) -> None:
        """Gives a command, whose answer is heard later."""
        if self.process.stdin:
            self.process.stdin.write(f"{command}\n")
            self.process.stdin.flush()

    def gets(self) -> int:
        """Objects asked for so far."""
        self.say("stats")
        return int(self.heard()["get"])

    @property
    def options(self) -> dict[str, str]:
        """What a source of it needs."""
        return {name: str(self.where[name]) for name in OPTIONS}

    def uri(self, folder: str = "") -> str:
        """A folder of what it serves."""
        return f"s3://{self.where['bucket']}/{folder}".rstrip("/")

    def source(self, folder: str = "") -> hw.Source:
        """The same, to be read."""
        return hw.Source(self.uri(folder), **self.options)

    def read(self, seconds: float, *options: str) -> dict[str, Any]:
        """What the core reads in that time."""
        where = [f"{name}={self.where[name]}" for name in OPTIONS]
        command = ["target/release/examples/read", f"s3://{self.where['bucket']}", "--seconds", str(seconds), *where]
        return measured([*command, *options], {})

    def wrk(self, connections: int, seconds: int, objects: int) -> dict[str, Any]:
        """What ``wrk`` reads in that time."""
        script = RESULTS / "walk.lua"
        script.write_text(WALK)
        environment = {"OBJECTS": str(objects), "PATTERN": f"/{self.where['bucket']}/object-%05d.npy"}
        # A machine that is busy may take longer than the two seconds after which it counts an error.
        options = ["-t2", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(script)]
        command = ["wrk", *options, self.where["endpoint"]]
        found = measured(command, environment)
        if found["errors"]:
            raise SystemExit(f"wrk had {found['errors']} errors with {connections} connections")
        return found


def measured(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """The last line that a program prints, and its processor time."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment})
    printed = process.stdout.read() if process.stdout else ""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} failed")
    return {**json.loads(printed.splitlines()[-1]), "cpu": used.ru_utime + used.ru_stime}
