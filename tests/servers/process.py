"""What every test server needs: ports, programs that surely end, a wait with a deadline, and a folder that disappears.

A server is one file beside this one. It says which variable describes it, what it lacks on this machine, and how it starts:

    def start(daemons: Daemons) -> Described:
        daemons.spawn("nginx", ["nginx", "-c", ...])
        daemons.wait_for("serve a page", lambda: ask(port, "GET", "/"))
        return Described(...)

Only the standard library is used, so that any Python 3.11 can run this; packages from pip and npm merely bring programs.

The programs are killed, not asked: there is nothing to flush, and not each stops when told (an OSD that has lost its monitor
does not). Should this process be killed outright, the kernel kills them, and a reaper makes sure of it and removes the folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_DEADLINE_S = 90.0  # a quiet machine needs three; two busy cores have taken thirty
BUCKET = "headwater-test"
PR_SET_PDEATHSIG = 1
# Reads the process groups that were started. When nobody is left to name another, it ends them all.
REAPER = """
groups=
while read -r group; do groups="$groups -$group"; done
kill -s KILL -- $groups
sleep 0.5
rm -rf -- "$0"
"""
# Looked up before any fork: after it nothing should be loaded. Only Linux has it, elsewhere the reaper alone has to do.
PRCTL = getattr(ctypes.CDLL(None), "prctl", None)


class StartError(RuntimeError):
    """A server did not start; the message ends with the tail of each log."""


@dataclass(frozen=True)
class Server:
    """A kind of server: the variable that describes it to tests, what it lacks here, and how it starts."""

    variable: str
    missing: Callable[[], list[str]]
    start: Callable[[Daemons], Mapping[str, object]]


class Daemons:
    """Programs that work in one temporary folder, what they said, and their end."""

    def __init__(self, name: str, deadline_s: float = START_DEADLINE_S) -> None:
        """Makes the folder. Nothing runs yet, but the clock does."""
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.reserved: list[socket.socket] = []
        self.folder = Path(tempfile.mkdtemp(prefix=f"headwater-{name}-"))
        self.reaper = subprocess.Popen(
            ["/bin/sh", "-c", REAPER, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.deadline = time.monotonic() + deadline_s

    def ports(self, count: int) -> list[int]:
        """Ports of loopback that are ours from here on.

        Two servers that get the same port do not merely fail: Ceph waits until it is free, and meanwhile one's OSD joins the
        other's monitor. So the port stays bound. Who asks the kernel for any port gets another; who asks for this very one
        with SO_REUSEADDR, as servers do, gets it, because we do not listen.
        """
        listeners = [socket.socket() for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        numbers = [int(listener.getsockname()[1]) for listener in listeners]
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sys.platform != "linux":  # where the kernel sees that otherwise, there remains a race
                listener.close()
        self.reserved += listeners
        return numbers

    def run(self, name: str, command: Sequence[str | Path]) -> None:
        """Runs a program to its end."""
        process = self._popen(name, command)
        try:
            status = process.wait(max(self.deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            raise StartError(f"{name} did not finish in time\n{self.log_tails()}") from None
        finally:
            process.kill()
        self._check()
        if status != 0:
            raise StartError(f"{name} returned {status}\n{self.log_tails()}")

    def spawn(self, name: str, command: Sequence[str | Path]) -> None:
        """Starts a program that stays. It must not go to the background by itself."""
        process = self._popen(name, command)
        self.running[name] = process
        assert self.reaper.stdin is not None
        self.reaper.stdin.write(b"%d\n" % process.pid)
        self.reaper.stdin.flush()

    def _popen(self, name: str, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        """Starts a program in the folder, its words kept in `<name>.log`."""
        parent = os.getpid()
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for the tests, not for the daemons
                preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - no thread runs, and there is no other way
            )

    def wait_for(self, what: str, status: Callable[[], int], wanted: int = 200) -> None:
        """Asks until the answer has the wanted status, which ought to prove that the server is ready and is ours."""
        answer = "no connection"
        while time.monotonic() < self.deadline:
            self._check()
            with contextlib.suppress(OSError, http.client.HTTPException):
                number = status()
                if number == wanted:
                    self._check()
                    return
                answer = f"status {number}"
            time.sleep(0.05)
        raise StartError(f"the server did not {what} in time (last answer: {answer})\n{self.log_tails()}")

    def _check(self) -> None:
        if dead := self.dead():
            raise StartError(f"{dead} has stopped\n{self.log_tails()}")

    def dead(self) -> str | None:
        """Names a daemon that is no longer running."""
        return next((name for name, daemon in self.running.items() if daemon.poll() is not None), None)

    def log_tails(self, lines: int = 15) -> str:
        """The last lines of every log, newest words last."""
        tails = []
        for log in sorted(self.folder.glob("*.log")):
            text = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            tails.append(f"--- {log.name}\n" + "\n".join(text[-lines:]))
        return "\n".join(tails)

    def stop(self) -> None:
        """Ends the daemons with all that they started, and removes the folder."""
        for daemon in self.running.values():
            if daemon.poll() is None:  # else its number may be somebody else's by now
                os.killpg(daemon.pid, signal.SIGKILL)
        for daemon in self.running.values():
            daemon.wait()
        self.running.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        for listener in self.reserved:
            listener.close()
        self.reaper.kill()
        self.reaper.communicate()


def find(program: str) -> str | None:
    """Where a program is: in `.venv`, else where the system has it, daemons that only root is meant to start included."""
    return shutil.which(program, path=os.pathsep.join([str(ROOT / ".venv/bin"), os.environ.get("PATH", ""), "/usr/sbin"]))


def ask(port: int, method: str, target: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> int:
    """Sends one request to a port of loopback, past any proxy; returns the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, target, body or None, {"Content-Length": str(len(body)), **(headers or {})})
        return connection.getresponse().status
    finally:
        connection.close()


def die_with(parent: int, with_signal: int = signal.SIGKILL) -> None:
    """Asks the kernel to signal this process when `parent`, which started it, ends; ends at once if it already has."""
    if PRCTL is not None:
        PRCTL(PR_SET_PDEATHSIG, int(with_signal))
    if os.getppid() != parent:
        os._exit(1)
