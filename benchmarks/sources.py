"""Reading from remotes: throughput against ``wrk``, and what failures cost.

The server is our fault server, in memory: slowed down to 30 ms to the first byte and 100 MB/s per stream, and as fast as this
machine allows. ``wrk`` asks it for the same objects in the same rounds, with the number of connections that serves it best, and
throws away what comes. Ours is the core with default policies (``crates/core/examples/read.rs``), whose bytes are verified and
in buffers; the loader over the same objects is a row of its own. Both programs share the machine with the server.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import headwater as hw
from measure import RESULTS, Row, aimed, figure, report
from server import SLOW, Server

ROUNDS = 5
SECONDS = 6
# Name, bytes of an object, objects, samples of a batch.
LARGE, SMALL = ("4 MiB", 4 << 20, 96, 8), ("48 KB", 48_000, 4096, 64)
CONNECTIONS = (8, 16, 32, 64, 128, 256)
# The most that hedging may ask for besides, in percent, and that a revived replica may be left alone, in milliseconds.
MOST_EXTRA, LONGEST_REST = 6.0, 30e3


def objects_of(size: int, count: int) -> Path:
    """A folder of ``.npy`` files of exactly that size, written once."""
    folder = RESULTS / "sets" / f"npy-{size}-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"object-{number:05}.npy"
        if not path.exists():
            np.save(path, np.random.default_rng(number).integers(0, 256, size - 128, np.uint8))
    return folder


def loader_rate(server: Server, batch: int, seconds: float) -> Callable[[], float]:
    """A call that walks epochs for that time and returns objects per second; no cache."""
    dataset = hw.StreamingDataset(server.source(), cache=hw.CacheConfig(memory=0))
    loader = hw.StreamingDataLoader(dataset, batch)
    for _ in loader:
        pass

    def walk() -> float:
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            count += sum(len(made["__index__"]) for made in loader)
        return count / (time.perf_counter() - began)

    return walk


def spread(figures: list[float]) -> float:
    """Half the interquartile range, relative to the median."""
    low, middle, high = statistics.quantiles(figures, n=4)
    return (high - low) / 2 / middle


def throughput_rows(kind: tuple[str, int, int, int], speed: tuple[str, ...]) -> list[Row]:
    """The core and the loader against ``wrk``."""
    name, size, count, batch = kind
    what = f"{name} objects, {'30 ms and 100 MB/s per stream' if speed else 'unthrottled'}"
    with Server(objects_of(size, count), *speed) as server:
        # The two best of a short try go into the rounds.
        tried = {connections: server.wrk(connections, 1, count)["objects"] for connections in CONNECTIONS}
        best = sorted(tried, key=lambda connections: -tried[connections])[:2]
        theirs: dict[int, list[dict[str, Any]]] = {connections: [] for connections in best}
        ours: list[dict[str, Any]] = []
        loaded: list[float] = []
        load = loader_rate(server, batch, SECONDS / 2)
        for _ in range(ROUNDS):
            for connections in best:
                theirs[connections].append(server.wrk(connections, SECONDS // 2, count))
            ours.append(server.read(SECONDS))
            loaded.append(load())
    rates = {connections: [run["objects"] / run["seconds"] for run in runs] for connections, runs in theirs.items()}
    fastest = max(rates, key=lambda connections: statistics.median(rates[connections]))
    baseline = f"wrk, {fastest} connections"
    unit, scale = ("MB/s", size / 1e6) if kind is LARGE else ("requests/s", 1.0)

    def row(side: str, mine: list[float]) -> Row:
        median, other = statistics.median(mine) * scale, statistics.median(rates[fastest]) * scale
        return figure(f"{side}: {what}", unit, median, other, baseline, ROUNDS, spread(mine))

    def cpu(runs: list[dict[str, Any]]) -> list[float]:
        return [1e3 * run["cpu"] / (run["objects"] * size / 1e9) for run in runs]

    mine, other = cpu(ours), statistics.median(cpu(theirs[fastest]))
    return [
        row(f"core, {SECONDS} s from opening", [run["objects"] / run["seconds"] for run in ours]),
        row("core, second half of those", [run["settled_objects"] / run["settled_seconds"] for run in ours]),
        row("loader, no cache, many epochs", loaded),
        figure(
            f"processor time per GB, core: {what}",
            "ms/GB",
            statistics.median(mine),
            other,
            baseline,
            ROUNDS,
            spread(mine),
            lower=True,
        ),
    ]


def hedging_rows() -> list[Row]:
    """Latency of objects while 2 % of requests stall for a second, and what hedging costs."""
    _, size, count, _ = SMALL
    with Server(objects_of(size, count), *SLOW, "--fault", "stall=1s,share=0.02,on=get") as server:
        sides: dict[str, list[dict[str, Any]]] = {"0": [], "0.05": []}
        for _ in range(ROUNDS):
            for hedge, runs in sides.items():
                before = server.gets()
                # As many at once as have a turn from the beginning: what is timed is asking, not queueing.
                run = server.read(SECONDS, "--tasks", "16", "--hedge", hedge)
                runs.append({**run, "extra": 100 * ((server.gets() - before) / run["objects"] - 1)})
    what = "48 KB objects, 2 % of requests stall 1 s, 16 at once"

    def column(hedge: str, name: str) -> list[float]:
        return [run[name] for run in sides[hedge]]

    rows = []
    for name in ("p50", "p99"):
        mine = column("0.05", f"{name}_ms")
        none = statistics.median(column("0", f"{name}_ms"))
        median = statistics.median(mine)
        rows.append(figure(f"latency, {name}: {what}", "ms", median, none, "hedge=0", ROUNDS, spread(mine), lower=True))
    extra = statistics.median(column("0.05", "extra"))
    row = figure(f"extra requests: {what}", "%", extra, MOST_EXTRA, "what is allowed", ROUNDS, lower=True)
    rows.append(aimed(row, "ours", at_most=MOST_EXTRA))
    return rows


def failover_rows(step: float) -> list[Row]:
    """What it costs an epoch that its first replica dies after a quarter, and when that one is read again."""
    _, size, count, _ = SMALL
    folder, batch = objects_of(size, count), 16
    # What is told of every epoch: its seconds, and those of them that its consumer waited for sources.
    whole: list[tuple[float, float]] = []
    cut: list[tuple[float, float]] = []
    back: list[float] = []
    with Server(folder, *SLOW) as first, Server(folder, *SLOW) as second:
        for _ in range(ROUNDS):
            dataset = hw.StreamingDataset([first.source(), second.source()], cache=hw.CacheConfig(memory=0))
            loader = hw.StreamingDataLoader(dataset, batch)

            def epoch(kill_at: int | None, loader: hw.StreamingDataLoader = loader) -> tuple[float, float]:
                stall = loader.stats()["loader_stall_source_seconds_total"]
                began = time.perf_counter()
                for number, _ in enumerate(loader):
                    if number == kill_at:
                        first.say("kill")
                    time.sleep(step)
                return time.perf_counter() - began, loader.stats()["loader_stall_source_seconds_total"] - stall

            epoch(None)
            whole.append(epoch(None))
            cut.append(epoch(count // batch // 4))
            first.heard()
            stats = loader.stats()
            opened, failed_over = stats["replica_breaker_opened_total"], stats["replica_failovers_total"]
            if stats["replica_breakers_open"] != 1:
                raise SystemExit(f"the dead replica is still asked: {stats}")
            first.say("revive")
            first.heard()
            began, before = time.perf_counter(), first.gets()
            for _ in itertools.chain.from_iterable(loader for _ in itertools.count()):
                if loader.stats()["replica_breakers_open"] == 0 or time.perf_counter() - began > 60:
                    break
                time.sleep(0.01)
            back.append(time.perf_counter() - began)
            epoch(None)
            gets = first.gets() - before
            print(f"breaker opened {opened} time(s), {failed_over} failovers; {gets} reads of the revived replica")
            if loader.stats()["replica_breakers_open"] or gets < count:
                raise SystemExit(f"the revived replica is not read: {loader.stats()}")
    what = f"4,096 objects of 48 KB, step of {step * 1e3:.0f} ms, first of two replicas killed after a quarter"
    rows = []
    for at, name in enumerate(("an epoch", "of it waiting for sources")):
        mine, usual = ([pair[at] * 1e3 for pair in side] for side in (cut, whole))
        middle = max(statistics.median(usual), 0.1), max(statistics.median(mine), 0.1)
        rows.append(figure(f"{name}: {what}", "ms", middle[1], middle[0], "undisturbed", ROUNDS, spread(mine), lower=True))
    revived = f"until the revived replica is read again: {what}"
    mine = [seconds * 1e3 for seconds in back]
    row = figure(revived, "ms", statistics.median(mine), LONGEST_REST, "the longest rest", ROUNDS, spread(mine), lower=True)
    rows.append(aimed(row, "ours", at_most=LONGEST_REST))
    return rows


def listing_rows() -> list[Row]:
    """A million keys in one folder, 30 ms a page: the whole index, joined and kept, against the pages one after the other."""
    empty = RESULTS / "sets" / "empty"
    empty.mkdir(parents=True, exist_ok=True)
    rows = []
    with Server(empty, "--keys", "1000000", *SLOW[:2]) as server:
        environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "test"}
        for scheme, endpoint, options in (
            ("s3", "endpoint", []),
            ("gs", "gcs", ["--anonymous"]),
            ("az", "azure", ["--anonymous"]),
        ):
            command = ["target/release/headwater", "index", f"{scheme}://{server.where['bucket']}/", "--json"]
            command += ["--endpoint", server.where[endpoint], *options]
            printed = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
            seconds = json.loads(printed.stdout)["seconds"]
            name = f"a million keys over {scheme}, 30 ms a page"
            rows.append(figure(name, "s", seconds, 30.0, "1,000 pages in turn", 1, lower=True))
    return rows


def main() -> None:
    """Runs the suite, or the parts named."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "large": lambda: throughput_rows(LARGE, SLOW),
        "small": lambda: throughput_rows(SMALL, SLOW),
        "large-limit": lambda: throughput_rows(LARGE, ()),
        "small-limit": lambda: throughput_rows(SMALL, ()),
        "hedging": hedging_rows,
        "failover": lambda: failover_rows(0.01) + failover_rows(0.0),
        "listing": listing_rows,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(parts)}; all of them by default")
    given = parser.parse_args().parts or list(parts)
    # That replicas come and go is meant.
    logging.getLogger("headwater").setLevel(logging.ERROR)
    if not shutil.which("wrk"):
        print("wrk is not installed: nothing to compare throughput with")
        given = [part for part in given if part in ("hedging", "failover", "listing")]
    report("sources", [row for part in given for row in parts[part]()])


if __name__ == "__main__":
    main()
