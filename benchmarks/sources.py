"""Sources against what the same server gives wrk, and what the policies are worth.

The server is the testkit's, in memory, on the same machine: what is measured is the client. Reading is raw, without decoding,
by ``crates/core/examples/read.rs`` on the default policies; wrk reads the same objects over the number of connections that
suits it best. Both sides run in turn in one run. Processor time is of the client alone.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import headwater as hw
from measure import Row, figure, report

TESTKIT = Path("target/release/headwater-testkit")
READ = Path("target/release/examples/read")
COMMAND = Path("target/release/headwater")
REMOTE = ("--first-byte", "30ms", "--stream-rate", "100MB")
SECONDS = 4
ROUNDS = 5
CONNECTIONS = (16, 32, 64, 128, 256, 512)
HEADER = b"\x93NUMPY\x01\x00\x76\x00"


class Server:
    """A running testkit server that takes commands."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the server has no pipes")
        self._in, self._out = process.stdin, process.stdout
        self.where: dict[str, Any] = json.loads(self._out.readline())

    def told(self, command: str) -> dict[str, Any]:
        """The answer to a command."""
        self._in.write(command + "\n")
        self._in.flush()
        answer: dict[str, Any] = json.loads(self._out.readline())
        return answer

    def end(self) -> None:
        """Lets the server end."""
        self._in.close()


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """A server of a folder; ends with the block."""
    command = [str(TESTKIT), str(folder), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        server = Server(process)
        yield server
        server.end()


def objects(folder: Path, count: int, size: int) -> None:
    """Writes ``.npy`` files of bytes, so many of that size each."""
    elements = size - 128
    head = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({elements},), }}"
    (folder / "x").mkdir(parents=True)
    for number in range(count):
        (folder / f"x/{number:04d}.npy").write_bytes(HEADER + f"{head:<117}\n".encode() + bytes([number % 251]) * elements)


def measured(command: list[str], environment: dict[str, str] | None = None) -> tuple[str, float]:
    """What a command prints, and its processor time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def wrk(server: Server, script: Path, connections: int, seconds: int) -> tuple[float, float]:
    """Requests per second, and processor seconds per request."""
    url = server.where["endpoint"]
    out, cpu = measured(["wrk", "-t2", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url])
    found = re.search(r"(\d+) requests in ([\d.]+)s", out)
    if found is None or "Non-2xx" in out:
        raise RuntimeError(f"wrk could not read: {out}")
    return int(found[1]) / float(found[2]), cpu / int(found[1])


def read(server: Server, seconds: float, *options: str) -> dict[str, Any]:
    """What the core reads in that time."""
    where = server.where
    keys = [f"{name}={where[name]}" for name in ("endpoint", "region", "access_key_id", "secret_access_key")]
    out, cpu = measured([str(READ), f"s3://{where['bucket']}/x", "--seconds", str(seconds), *options, *keys])
    done: dict[str, Any] = json.loads(out)
    return {**done, "cpu": cpu}


def against_wrk(name: str, count: int, size: int, remote: tuple[str, ...], *options: str) -> list[Row]:
    """Rates of both sides over several rounds, and processor time per GB."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, script = Path(scratch), Path(scratch) / "walk.lua"
        objects(folder, count, size)
        path = f'"/bucket/x/"..string.format("%04d.npy", n % {count})'
        script.write_text(f'local n = 0\nrequest = function() n = n + 1; return wrk.format("GET", {path}) end\n')
        with serving(folder, *remote) as server:
            tried = {number: wrk(server, script, number, 2)[0] for number in CONNECTIONS}
            best = max(tried, key=lambda number: tried[number])
            ours: list[float] = []
            theirs: list[float] = []
            settled: list[float] = []
            costs: list[tuple[float, float]] = []
            for _ in range(ROUNDS):
                done = read(server, SECONDS, *options)
                rate, cpu = wrk(server, script, best, SECONDS)
                ours.append(done["objects"] / done["seconds"])
                settled.append(done["settled_objects"] / done["settled_seconds"])
                theirs.append(rate)
                costs.append((done["cpu"] / done["bytes"] * 1e9, cpu / size * 1e9))
    baseline = f"wrk, {best} connections"
    unit, scale = ("MB/s", size / 1e6) if size > 1 << 20 else ("requests/s", 1.0)

    def row(what: str, figures: list[float]) -> Row:
        ratios = [mine / other for mine, other in zip(figures, theirs, strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        mine, other = statistics.median(figures) * scale, statistics.median(theirs) * scale
        return figure(f"{name}, {what}", unit, mine, other, baseline, ROUNDS, (high - low) / 2 / statistics.median(ratios))

    mine, other = (statistics.median(cost[side] for cost in costs) for side in (0, 1))
    cost = figure(f"{name}, processor time", "s/GB", mine, other, baseline, ROUNDS, lower=True)
    return [row("from the start", ours), row("second half", settled), cost]


def hedging() -> list[Row]:
    """What 2 % of requests that stall for a second cost, with and without second requests."""
    with tempfile.TemporaryDirectory() as scratch:
        objects(Path(scratch), 200, 64 << 10)
        with serving(Path(scratch), "--first-byte", "10ms", "--fault", "stall=1s,share=0.02") as server:
            p99: dict[str, list[float]] = {"0": [], "0.05": []}
            extra: list[float] = []
            for _ in range(ROUNDS):
                for share, figures in p99.items():
                    before = server.told("stats")["get"]
                    done = read(server, SECONDS, "--hedge", share, "--tasks", "16")
                    figures.append(done["p99_ms"])
                    if share != "0":
                        extra.append((server.told("stats")["get"] - before) / done["objects"] * 100 - 100)
    without, with_them = statistics.median(p99["0"]), statistics.median(p99["0.05"])
    return [
        figure("2 % stalled for 1 s, p99 latency", "ms", with_them, without, "hedge = 0", ROUNDS, lower=True),
        figure("further requests for that", "%", statistics.median(extra), 6.0, "the goal", ROUNDS, lower=True),
    ]


def epoch(loader: hw.StreamingDataLoader, hook: Any = None) -> float:
    """Seconds of one pass."""
    began = time.perf_counter()
    for step, _ in enumerate(loader):
        time.sleep(0.02)
        if hook and step == 20:
            hook()
    return time.perf_counter() - began


def failover() -> list[Row]:
    """What a replica costs that dies in the middle of an epoch, beside an undisturbed one."""
    with tempfile.TemporaryDirectory() as scratch:
        objects(Path(scratch), 600, 1 << 20)
        with serving(Path(scratch), *REMOTE) as first, serving(Path(scratch), *REMOTE) as second:
            names = ("endpoint", "region", "access_key_id", "secret_access_key")
            places = [
                hw.Source(f"s3://{server.where['bucket']}/x", **{name: server.where[name] for name in names})
                for server in (first, second)
            ]
            calm: list[float] = []
            disturbed: list[float] = []
            for _ in range(ROUNDS):
                dataset = hw.StreamingDataset({"x": places}, cache=hw.CacheConfig(memory=0))
                calm.append(epoch(hw.StreamingDataLoader(dataset, batch_size=8)))
                disturbed.append(epoch(hw.StreamingDataLoader(dataset, batch_size=8), lambda: first.told("kill")))
                if not dataset.stats()["replica_failovers_total"]:
                    raise RuntimeError("the second replica was never asked")
                first.told("revive")
                time.sleep(2)
    extra = statistics.median(after - before for before, after in zip(calm, disturbed, strict=True))
    return [figure("a replica dies within an epoch, further time", "s", max(extra, 0.001), 2.0, "the goal", ROUNDS, lower=True)]


def listing() -> list[Row]:
    """A million keys: the time of the whole index against that of the pages alone."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch, serving(Path(scratch), "--keys", "1000000", *REMOTE[:2]) as server:
        where = server.where
        pages = 1000 * 0.030
        environment = {**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "test"}
        for uri, endpoint in ((f"s3://{where['bucket']}/", "endpoint"), (f"gs://{where['bucket']}/", "gcs")):
            options = ["--endpoint", where[endpoint]] + (["--anonymous"] if endpoint == "gcs" else [])
            out, _ = measured([str(COMMAND), "index", uri, "--json", *options], environment)
            took = json.loads(out)["seconds"]
            name = f"a million keys of {uri[:2]}, 30 ms a page"
            rows.append(figure(name, "s", took, pages, "1,000 pages one by one", 1, lower=True))
    return rows


def main() -> None:
    """Runs all rows and reports them."""
    if not shutil.which("wrk"):
        sys.exit("sources: wrk is not installed (apt-get install wrk)")
    rows = [
        *against_wrk("4 MiB at 30 ms and 100 MB/s a stream", 128, 4 << 20, REMOTE),
        *against_wrk("48 KB at 30 ms", 2000, 48_000, REMOTE),
        *against_wrk("48 KB at 30 ms, 512 at once", 2000, 48_000, REMOTE, "--max-concurrency", "512", "--tasks", "1024"),
        *against_wrk("4 MiB, nothing emulated", 128, 4 << 20, ()),
        *against_wrk("48 KB, nothing emulated", 2000, 48_000, ()),
        *hedging(),
        *failover(),
        *listing(),
    ]
    report("sources", rows)


if __name__ == "__main__":
    main()
