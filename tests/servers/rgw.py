"""A real Ceph RADOS Gateway on loopback, for as long as one test run needs it.

One monitor, one OSD that keeps its objects in memory and one gateway: the smallest cluster that speaks S3 as it is
spoken in production. It starts in a few seconds, runs as any user and leaves nothing behind.

    python tests/servers/rgw.py                   # prints one JSON line, serves until stdin closes or SIGTERM
    python tests/servers/rgw.py -- pytest tests   # runs the command with that line in HEADWATER_TEST_S3

    with rgw.serving() as s3: ...                 # the same from Python, in a process of its own

No manager daemon is started: it only gathers statistics, and nothing here reads them. The initial OSD map is handed
to the monitor when its store is made, so no slow `ceph` call is needed to add the OSD. The daemons are killed, not
asked: there is nothing to flush, and an OSD that has lost its monitor does not stop by itself. Should this process be
killed outright, the kernel kills the daemons and a reaper removes the directory.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import hashlib
import hmac
import http.client
import json
import os
import secrets
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from email.utils import formatdate
from pathlib import Path
from types import FrameType
from typing import TypedDict

PROGRAMS = ("ceph-mon", "ceph-osd", "monmaptool", "osdmaptool", "radosgw", "radosgw-admin")
ENVIRONMENT = "HEADWATER_TEST_S3"
EXIT_MISSING = 69  # EX_UNAVAILABLE: a program is not installed
START_DEADLINE_S = 90.0  # a quiet machine needs three; two busy cores have taken thirty
PR_SET_PDEATHSIG = 1

CONFIGURATION = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{mon_port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms mon client mode = crc
run dir = {directory}
keyring = {directory}/none
admin socket =
pid file =
log file =
mon cluster log file =
log to stderr = true
err to stderr = true
debug rocksdb = 0
osd objectstore = memstore
memstore device bytes = 8589934592
osd crush chooseleaf type = 0
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd pool default pg autoscale mode = off
mon allow pool size one = true
mon data avail crit = 0
# A proposal waits a second by default, and creating the gateway's pools takes a dozen of them.
paxos propose interval = 0.05
paxos min wait = 0.01
[mon.a]
mon data = {directory}/mon
[osd.0]
osd data = {directory}/osd
[client.rgw]
rgw data = {directory}/rgw
rgw frontends = beast endpoint=127.0.0.1:{s3_port} tcp_nodelay=1
rgw thread pool size = 64
"""


class S3Server(TypedDict):
    """What a client needs to reach the gateway; the line that is printed."""

    endpoint: str
    access_key_id: str
    secret_access_key: str
    region: str
    bucket: str


class StartError(RuntimeError):
    """The gateway did not start; the message ends with the tail of each log."""


class MissingProgramError(StartError):
    """A Ceph program is not installed."""


class Cluster:
    """The daemons, their directory and the description of the gateway."""

    def __init__(self, deadline_s: float = START_DEADLINE_S) -> None:
        """Starts everything and returns when a bucket exists; raises `StartError` otherwise."""
        if missing := missing_programs():
            raise MissingProgramError(f"not installed: {', '.join(missing)} (run `make test-servers`)")
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.directory = Path(tempfile.mkdtemp(prefix="headwater-rgw-"))
        self.reaper = subprocess.Popen(
            ["/bin/sh", "-c", 'cat >/dev/null; sleep 0.5; rm -rf -- "$0"', str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.deadline = time.monotonic() + deadline_s
        mon_port, s3_port = free_ports(2)
        self.info = S3Server(
            endpoint=f"http://127.0.0.1:{s3_port}",
            access_key_id=secrets.token_hex(10).upper(),
            secret_access_key=secrets.token_hex(20),
            region="us-east-1",
            bucket="headwater-test",
        )
        try:
            self._start(mon_port, s3_port)
        except BaseException:
            self.stop()
            raise

    def _start(self, mon_port: int, s3_port: int) -> None:
        directory, fsid = self.directory, str(uuid.uuid4())
        (directory / "ceph.conf").write_text(
            CONFIGURATION.format(directory=directory, fsid=fsid, mon_port=mon_port, s3_port=s3_port)
        )
        for name in ("mon", "osd", "rgw"):
            (directory / name).mkdir()
        self._run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v2:127.0.0.1:{mon_port}]", "monmap")
        self._run("osdmaptool", "--createsimple", "1", "osdmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--osdmap", "osdmap")
        self._spawn("ceph-mon", "-i", "a")
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", str(uuid.uuid4()))
        self._spawn("ceph-osd", "-i", "0")
        self._run(
            *("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid", "test", "--display-name", "test"),
            *("--access-key", self.info["access_key_id"], "--secret", self.info["secret_access_key"]),
        )
        self._spawn("radosgw", "-n", "client.rgw")
        self._create_bucket(s3_port)

    def _run(self, program: str, *args: str) -> None:
        """Runs a program to its end."""
        process = self._popen(program, args)
        try:
            status = process.wait(max(self.deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            raise StartError(f"{program} did not finish in time\n{self.log_tails()}") from None
        finally:
            process.kill()
        self._check_daemons()
        if status != 0:
            raise StartError(f"{program} returned {status}\n{self.log_tails()}")

    def _spawn(self, program: str, *args: str) -> None:
        self.daemons[program] = self._popen(program, ["-f", *args])

    def _popen(self, program: str, args: Sequence[str]) -> subprocess.Popen[bytes]:
        """Starts a program in the directory, its words kept in `<program>.log`."""
        configuration = [] if program.endswith("maptool") else ["-c", "ceph.conf"]
        with (self.directory / f"{program}.log").open("ab") as log:
            return subprocess.Popen(
                [program, *configuration, *args],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal is for the tests, not for the daemons
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread runs yet, and there is no other way
            )

    def _create_bucket(self, s3_port: int) -> None:
        """Creates the bucket, which proves that keys, index pool and data path work."""
        answer = "no connection"
        while time.monotonic() < self.deadline:
            self._check_daemons()
            with contextlib.suppress(OSError, http.client.HTTPException):
                answer = put_bucket(s3_port, self.info)
                if answer == "200":
                    return
            time.sleep(0.05)
        raise StartError(f"the gateway did not make a bucket in time (last answer: {answer})\n{self.log_tails()}")

    def _check_daemons(self) -> None:
        if dead := self.dead_daemon():
            raise StartError(f"{dead} has stopped\n{self.log_tails()}")

    def dead_daemon(self) -> str | None:
        """Names a daemon that is no longer running."""
        return next((name for name, daemon in self.daemons.items() if daemon.poll() is not None), None)

    def log_tails(self, lines: int = 15) -> str:
        """The last lines of every log, newest words last."""
        tails = []
        for log in sorted(self.directory.glob("*.log")):
            text = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
            tails.append(f"--- {log.name}\n" + "\n".join(text[-lines:]))
        return "\n".join(tails)

    def stop(self) -> None:
        """Ends the daemons and removes their directory."""
        for daemon in self.daemons.values():
            daemon.kill()
        for daemon in self.daemons.values():
            daemon.wait()
        self.daemons.clear()
        shutil.rmtree(self.directory, ignore_errors=True)
        self.reaper.kill()
        self.reaper.communicate()


def started(attempts: int = 3) -> Cluster:
    """Starts a cluster, again on other ports when somebody took one between choosing and binding it."""
    for attempt in range(attempts):
        try:
            return Cluster()
        except StartError as error:
            if "Address already in use" not in str(error) or attempt == attempts - 1:
                raise
    raise AssertionError("no attempt was asked for")


def missing_programs() -> list[str]:
    """Names the Ceph programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [int(listener.getsockname()[1]) for listener in listeners]


def die_with_parent(with_signal: int = signal.SIGKILL) -> None:
    """Asks the kernel to signal this process when the one that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, with_signal)


def put_bucket(s3_port: int, info: S3Server) -> str:
    """Sends one signed `PUT /bucket`; returns the status. Signature version 2, because it is five lines."""
    date = formatdate(usegmt=True)
    words = f"PUT\n\n\n{date}\n/{info['bucket']}"
    digest = hmac.digest(info["secret_access_key"].encode(), words.encode(), hashlib.sha1)
    authorization = f"AWS {info['access_key_id']}:{base64.b64encode(digest).decode()}"
    connection = http.client.HTTPConnection("127.0.0.1", s3_port, timeout=20)
    try:
        headers = {"Date": date, "Authorization": authorization, "Content-Length": "0"}
        connection.request("PUT", f"/{info['bucket']}", headers=headers)
        return str(connection.getresponse().status)
    finally:
        connection.close()


@contextlib.contextmanager
def serving() -> Iterator[S3Server]:
    """Runs the gateway in a process of its own, which ends with this block or with this process."""
    command = [sys.executable, str(Path(__file__).resolve())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise StartError(f"the gateway did not start (exit {process.wait()}), its words are on stderr")
            yield json.loads(line)
        finally:
            process.stdin.close()


def wait_until_unwanted(cluster: Cluster) -> int:
    """Blocks until stdin closes; a daemon that dies in the meantime is an error."""
    mode = os.fstat(0).st_mode
    watched = [0] if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(0) else []
    while not (dead := cluster.dead_daemon()):
        readable, _, _ = select.select(watched, [], [], 0.5)
        if readable and not os.read(0, 4096):
            return 0
    print(f"{dead} has stopped\n{cluster.log_tails()}", file=sys.stderr)
    return 1


def run_with(cluster: Cluster, command: Sequence[str]) -> int:
    """Runs the command against the gateway; returns its exit status as a shell would."""
    environment = {**os.environ, ENVIRONMENT: json.dumps(cluster.info)}
    try:
        child = subprocess.Popen(command, env=environment, preexec_fn=lambda: die_with_parent(signal.SIGTERM))  # noqa: PLW1509 - as above
    except OSError as error:
        print(f"rgw: cannot run `{command[0]}`: {error.strerror}", file=sys.stderr)
        return 127
    try:
        status = child.wait()
    except BaseException:
        child.terminate()
        try:
            child.wait(timeout=10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        raise
    return status if status >= 0 else 128 - status


def leave(number: int, _frame: FrameType | None) -> None:
    """Turns a signal into an orderly end; a second one is ignored while things are taken down."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise SystemExit(128 + number)


def main(arguments: Sequence[str]) -> int:
    """The command line: nothing, or `-- command args…`."""
    if arguments and (arguments[0] != "--" or len(arguments) == 1):
        print("usage: rgw.py [-- command args…]", file=sys.stderr)
        return 2
    parent = os.getppid()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    die_with_parent(signal.SIGTERM)
    if os.getppid() != parent:
        return 1
    try:
        cluster = started()
    except StartError as error:
        print(f"rgw: {error}", file=sys.stderr)
        return EXIT_MISSING if isinstance(error, MissingProgramError) else 1
    try:
        if arguments:
            return run_with(cluster, arguments[1:])
        print(json.dumps(cluster.info), flush=True)
        return wait_until_unwanted(cluster)
    finally:
        cluster.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
