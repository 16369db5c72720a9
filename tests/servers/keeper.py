"""Every server in a process of its own, so that all start at once and each ends with whoever wanted it.

    with serving("s3", "http") as keepers: keepers.described["http"]["url"]

Processes rather than threads: the kernel ends a daemon with the very thread that started it, and to fork beside threads may
hang.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from . import azurite, fake_gcs, nginx, rclone, rgw
from .process import Daemons, Server, StartError, die_with

SERVERS: dict[str, Server] = {
    "s3": rgw.SERVER,
    "azure": azurite.SERVER,
    "gcs": fake_gcs.SERVER,
    "http": nginx.SERVER,
    "rclone": rclone.SERVER,
}
STOP_DEADLINE_S = 10.0


class Keepers:
    """One process for each named server; `described` is what clients need to know of each."""

    def __init__(self) -> None:
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.described: dict[str, dict[str, Any]] = {}

    def start(self, *names: str) -> None:
        """Starts servers side by side; returns when all are ready."""
        paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        for name in names:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", "servers.keeper", name, str(os.getpid())],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # after a Ctrl-C the tests end first
            )
        for name, process in self.processes.items():
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise StartError(f"{name} did not start (exit {process.wait()}), its words are on stderr")
            self.described[name] = json.loads(line)

    def dead(self) -> str | None:
        """Names a server that is no longer running."""
        return next((name for name, process in self.processes.items() if process.poll() is not None), None)

    def stop(self) -> None:
        """Ends all; each keeper takes down what it keeps."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                pipe.close()


@contextlib.contextmanager
def serving(*names: str) -> Iterator[Keepers]:
    """Runs servers until the block or this process ends."""
    keepers = Keepers()
    try:
        keepers.start(*names)
        yield keepers
    finally:
        keepers.stop()


def wait_until_unwanted(dead: Callable[[], str | None]) -> str | None:
    """Blocks until stdin closes, or until something dies, which is named."""
    mode = os.fstat(0).st_mode
    watched = [0] if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(0) else []
    while not (name := dead()):
        readable, _, _ = select.select(watched, [], [], 0.5)
        if readable and not os.read(0, 4096):
            return None
    return name


def end_in_order(parent: int) -> None:
    """Lets SIGTERM and SIGINT unwind this process, and sends it SIGTERM when `parent`, which started it, ends."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    die_with(parent, signal.SIGTERM)


def leave(number: int, _frame: FrameType | None) -> None:
    """Turns a signal into an orderly end; a second one is ignored while things are taken down."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(128 + number)


def keep(name: str, parent: int) -> int:
    """Starts a server, writes the line that describes it, and keeps it until stdin closes."""
    end_in_order(parent)
    daemons = Daemons(name)
    try:
        line = json.dumps(SERVERS[name].start(daemons)) + "\n"
        # Whoever is no longer there to read it has closed our stdin, too.
        with contextlib.suppress(BrokenPipeError):
            os.write(sys.stdout.fileno(), line.encode())
        if dead := wait_until_unwanted(daemons.dead):
            print(f"{name}: {dead} has stopped\n{daemons.log_tails()}", file=sys.stderr)
        return 1 if dead else 0
    except StartError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    finally:
        daemons.stop()


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1], int(sys.argv[2])))
