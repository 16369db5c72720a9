"""What the cache gives: reuse against the most there can be, and what packing costs the first epoch.

Reuse is counted by the loader over whole shuffled epochs after two that fill the cache. The most there can be is capacity /
dataset, both in the bytes that the cache charges; LRU stands beside it with what theory says of it, to which the loader's
window adds. First epochs are of new datasets in turn — packing on, packing off, nothing kept at all — in memory through an
emulated remote of 30 ms and 100 MB/s per stream, and with a disk behind the fault server, with a cache whose memory holds half
of the samples as they are.

Tiers are compared by the time of `dataset[i]` for one sample: memory as it is, memory compressed, disk with the file in the
page cache, and a miss at a server of 30 ms. Two ranks are two processes of one run behind the fault server, each with a memory
of its own or both with a disk, held against `headwater simulate`. Hits, writes and opening of the tiers by themselves are of
`crates/core/examples/cache.rs`.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

import headwater as hw
from measure import RESULTS, Row, aimed, figure, report
from server import SLOW, Server
from sets import PAIRS, demo_set

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
# Points by which reuse may differ from capacity / dataset and from what was simulated; reuse thanks to packing in memory for
# 40 % of the raw bytes; first epochs with packing against those without; opening a folder in microseconds.
POINTS, SIMULATED_POINTS, PACKED_REUSE, FIRST_EPOCH, OPENING = 1.0, 2.0, 85.0, 0.97, 1e6
EPOCHS = 4
PAIRED = 7
REMOTE = hw.Throttle(first_byte="30ms", stream_rate="100MB")

Policy = Literal["auto", "lru"]
Compression = Literal["auto", "none"]


def opened(folder: Path, memory: int, policy: Policy, compression: Compression, **other: Any) -> hw.StreamingDataset:
    """The dataset behind a cache of that size."""
    cache = hw.CacheConfig(memory=memory, policy=policy, compression=compression)
    return hw.StreamingDataset(str(folder), pairs=PAIRS, cache=cache, **other)


def walk(loader: hw.StreamingDataLoader, epochs: int = 1) -> None:
    """Whole epochs."""
    for _ in range(epochs):
        for _ in loader:
            pass


def settle(dataset: hw.StreamingDataset) -> None:
    """Waits until all that waits to be packed is."""
    before = -1.0
    while (now := float(dataset.stats()["cache_pack_seconds_total"])) != before:
        before = now
        time.sleep(0.2)


def reuse(folder: Path, memory: int, policy: Policy, compression: Compression, batch: int) -> float:
    """Percent of units that a loader reuses in steady state."""
    dataset = opened(folder, memory, policy, compression)
    loader = hw.StreamingDataLoader(dataset, batch, shuffle=True, drop_last=False)
    walk(loader, 2)
    settle(dataset)
    dataset.reset_metrics()
    walk(loader, EPOCHS)
    stats = loader.stats()
    return 100 * float(stats["loader_units_reused_total"] / stats["loader_units_asked_total"])


def charged(folder: Path) -> int:
    """What all samples take in a cache that holds them as they are."""
    dataset = opened(folder, 4_000_000_000, "auto", "none")
    loader = hw.StreamingDataLoader(dataset, 16, drop_last=False)
    # What comes while too much waits to be packed is not kept: it is when it comes again.
    for _ in range(20):
        walk(loader)
        settle(dataset)
        stats = dataset.stats()
        if stats["cache_memory_entries"] == len(dataset) * len(PAIRS):
            return int(stats["cache_memory_bytes"])
    raise SystemExit(f"{folder}: {stats['cache_memory_entries']} units of {len(dataset)} samples are kept")


def reuse_rows() -> list[Row]:
    """Reuse for several shares of the dataset, and thanks to packing."""
    small, large = demo_set("96 KB", 800), demo_set("6.8 MB", 96)
    whole, rows = charged(small), []
    for share in SHARES:
        memory = int(share * whole)
        kept = figure(
            f"reuse, auto, capacity {share:.0%} of the dataset",
            "%",
            reuse(small, memory, "auto", "none", 32),
            100 * share,
            "capacity / dataset",
            EPOCHS,
        )
        rows.append(aimed(kept, "ours", at_least=100 * share - POINTS, at_most=100 * share + POINTS))
        theory = share + (1 - share) * math.log(1 - share)
        rows.append(
            figure(
                f"reuse, lru, capacity {share:.0%} of the dataset",
                "%",
                reuse(small, memory, "lru", "none", 32),
                100 * theory,
                "c + (1 - c) ln(1 - c)",
                EPOCHS,
            )
        )
    packed = reuse(large, int(0.4 * charged(large)), "auto", "auto", 8)
    row = figure("reuse, packed, memory 40% of the raw bytes", "%", packed, 40, "raw entries", EPOCHS)
    rows.append(aimed(row, "ours", at_least=PACKED_REUSE))
    return rows


def in_turn(what: str, sides: Mapping[str, Callable[[], float]]) -> list[Row]:
    """The seconds of the first side against those of each other, in rounds of all, which begin with another one each time."""
    for call in sides.values():
        call()
    took: dict[str, list[float]] = {side: [] for side in sides}
    names = list(sides)
    for number in range(PAIRED):
        first = number % len(names)
        for side in names[first:] + names[:first]:
            took[side].append(sides[side]())
    mine, rows = took[names[0]], []
    for side in names[1:]:
        ratios = [theirs / ours for ours, theirs in zip(mine, took[side], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        row = Row(
            name=f"first epoch, {names[0]}: {what}",
            unit="s",
            ours=statistics.median(mine),
            baseline=statistics.median(took[side]),
            baseline_name=side,
            ratio=middle,
            n=PAIRED,
            spread=(high - low) / 2 / middle,
        )
        rows.append(aimed(row, at_least=FIRST_EPOCH) if side == "packing off" else row)
    return rows


def packing_rows() -> list[Row]:
    """First epochs with packing on, off, and with nothing kept, in memory."""
    folder = demo_set("6.8 MB", 96)
    memory = charged(folder) // 2
    packed: dict[str, int | float] = {}

    def first_epoch(memory: int, compression: Compression) -> float:
        dataset = opened(folder, memory, "auto", compression, fetch=hw.FetchConfig(throttle=REMOTE))
        loader = hw.StreamingDataLoader(dataset, 8, shuffle=True)
        began = time.perf_counter()
        walk(loader)
        took = time.perf_counter() - began
        settle(dataset)
        if memory and compression == "auto":
            packed.update(loader.stats())
        return took

    what = "96 samples of 6.8 MB, emulated remote, memory"
    sides = {
        "packing on": lambda: first_epoch(memory, "auto"),
        "packing off": lambda: first_epoch(memory, "none"),
        "no cache": lambda: first_epoch(0, "none"),
    }
    rows = in_turn(what, sides)
    ratio = packed["cache_pack_bytes_total"] / max(1, packed["cache_packed_bytes_total"])
    rows.append(figure(f"ratio of what was packed: {what}", "", ratio, 1.0, "as it is", 1))
    kept = 100 * packed["cache_insertions_total"] / (96 * len(PAIRS))
    rows.append(figure(f"kept of a first epoch: {what}", "%", kept, 100, "all", 1))
    return rows


def settled(dataset: hw.StreamingDataset) -> None:
    """Waits until all that waits to be packed and written is."""
    settle(dataset)
    before = -1.0
    while (now := sum(float(dataset.stats()[f"cache_disk_{what}_total"]) for what in ("insertions", "declined"))) != before:
        before = now
        time.sleep(0.3)


def tier_rows() -> list[Row]:
    """Time of one sample from each tier."""
    folder, samples = demo_set("6.8 MB", 96), 24
    raw = charged(folder)
    place = RESULTS / "tiers"
    shutil.rmtree(place, ignore_errors=True)
    with Server(folder, *SLOW) as server:

        def through(**cache: Any) -> hw.StreamingDataset:
            fields = {name: server.source(name) for name in PAIRS}
            return hw.StreamingDataset(fields, pairs=PAIRS, cache=hw.CacheConfig(**cache))

        def microseconds(dataset: hw.StreamingDataset, rounds: int) -> list[float]:
            took = []
            for _ in range(rounds):
                for index in range(samples):
                    began = time.perf_counter()
                    dataset[index]
                    took.append(1e6 * (time.perf_counter() - began))
            return took

        def tier(name: str, counter: str, rounds: int, **cache: Any) -> tuple[str, list[float], float]:
            """Its times, and the bytes that a sample takes there; that all of it comes from there is made sure of."""
            dataset = through(**cache)
            for _ in range(3 if counter != "source_requests_total" else 0):
                microseconds(dataset, 1)
                settled(dataset)
            dataset.reset_metrics()
            took = microseconds(dataset, rounds)
            stats = dataset.stats()
            if stats[counter] != rounds * samples * len(PAIRS):
                raise SystemExit(f"{name}: {counter} is {stats[counter]} for {rounds} times {samples} samples")
            files = sum(file.stat().st_size for file in place.rglob("*.hwc")) if cache.get("disk") else 0
            bytes_there = files or stats["cache_memory_bytes"] or stats["source_read_bytes_total"] / rounds
            return name, took, bytes_there / samples

        tiers = [
            tier("memory as it is", "cache_hits_total", 20, memory=2 * raw, compression="none"),
            tier("memory compressed", "cache_hits_total", 20, memory=raw // 2),
            tier("disk, in the page cache", "cache_disk_hits_total", 20, memory=0, disk=place, disk_capacity="8GB"),
            tier("miss, server of 30 ms", "source_requests_total", 3, memory=0),
        ]
    _, miss, stored = tiers[-1]
    rows = []
    for name, took, size in tiers:
        for percent, at in (("p50", 0.5), ("p99", 0.99)):
            mine, other = (sorted(times)[int(at * (len(times) - 1))] for times in (took, miss))
            what = f"{percent} of one sample of 6.8 MB by index: {name}"
            rows.append(figure(what, "us", mine, other, "a miss", len(took), lower=True))
        rows.append(figure(f"bytes of that sample: {name}", "bytes", size, stored, "as stored", samples, lower=True))
    return rows


RANK = """
import json, sys, time, headwater as hw
told = json.loads(sys.argv[1])
source = hw.Source(told["uri"], **told["options"])
dataset = hw.StreamingDataset({"x": source}, cache=hw.CacheConfig(**told["cache"]))
loader = hw.StreamingDataLoader(dataset, 8, shuffle=True, seed=1, rank=told["rank"], world_size=2)
def settle():
    before = -1.0
    names = ("cache_disk_insertions_total", "cache_disk_declined_total", "cache_insertions_total", "cache_declined_total")
    while (now := sum(float(dataset.stats()[name]) for name in names)) != before:
        before = now
        time.sleep(0.3)
for _ in range(told["warm"]):
    for _ in loader: pass
    settle()
dataset.reset_metrics()
for _ in range(told["epochs"]):
    for _ in loader: pass
    settle()
stats = loader.stats()
print(json.dumps({name: stats[f"loader_units_{name}_total"] for name in ("asked", "reused")} | {"entry":
    float(dataset.stats()["cache_memory_bytes"]) / max(1.0, float(dataset.stats()["cache_memory_entries"]))}))
"""


def rank_rows() -> list[Row]:
    """Reuse of two ranks with memories of their own and with a shared disk, against what was simulated."""
    folder, place, samples, size = RESULTS / "ranks", RESULTS / "ranks-cache", 400, 65_536
    if len(list(folder.glob("x/*.npy"))) < samples:
        (folder / "x").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(1)
        for number in range(samples):
            np.save(folder / "x" / f"{number:03}.npy", noise.integers(0, 256, size, np.uint8))
    shutil.rmtree(place, ignore_errors=True)
    rows = []
    with Server(folder) as server:

        def ran(cache: dict[str, Any]) -> list[dict[str, float]]:
            told = {"uri": server.uri("x"), "options": server.options, "cache": cache, "warm": 6, "epochs": EPOCHS}
            command = [sys.executable, "-c", RANK]
            ranks = [
                subprocess.Popen([*command, json.dumps(told | {"rank": rank})], stdout=subprocess.PIPE, text=True)
                for rank in (0, 1)
            ]
            printed = [rank.communicate(timeout=600)[0] for rank in ranks]
            return [json.loads(lines) for lines in printed]

        # What a sample takes: in memory as the cache charges it, on disk in blocks of 4 KB.
        entry = round(ran({"memory": 1 << 30, "compression": "none"})[0]["entry"])
        block = -(-(size + 4096) // 4096) * 4096
        for name, cache, sample, tiers in (
            ("memory of 25 % each", {"memory": samples * entry // 4}, entry, ["--memory", str(samples * entry // 4)]),
            (
                "shared disk of 50 %",
                {"memory": 0, "disk": str(place), "disk_capacity": samples * block // 2},
                block,
                ["--memory", "0", "--disk", str(samples * block // 2)],
            ),
        ):
            counted = ran(cache)
            mine = 100 * sum(rank["reused"] for rank in counted) / sum(rank["asked"] for rank in counted)
            numbers = ["--samples", str(samples), "--sample-size", str(sample), "--ranks-per-node", "2", "--batch-size", "8"]
            command = ["target/release/headwater", "simulate", "--json", "--seed", "1", "--epochs", str(6 + EPOCHS)]
            said = subprocess.run([*command, *numbers, *tiers, "--policy", "auto"], check=True, capture_output=True, text=True)
            simulated = 100 * json.loads(said.stdout)["policies"][0]["usual_epoch"]["reuse"]
            beside = f"headwater simulate, {mine - simulated:+.2f} points"
            row = figure(f"reuse of two ranks, {name}", "%", mine, simulated, beside, EPOCHS)
            rows.append(aimed(row, "ours", at_least=simulated - SIMULATED_POINTS, at_most=simulated + SIMULATED_POINTS))
    return rows


def disk_rows() -> list[Row]:
    """First epochs with a disk tier and memory, packing on and off, with a disk alone, and with neither."""
    folder, place = demo_set("6.8 MB", 96), RESULTS / "first-epoch"
    memory, disk = charged(folder) // 2, {"disk": place, "disk_capacity": "8GB"}
    with Server(folder, *SLOW) as server:

        def first_epoch(**cache: Any) -> float:
            shutil.rmtree(place, ignore_errors=True)
            fields = {name: server.source(name) for name in PAIRS}
            dataset = hw.StreamingDataset(fields, pairs=PAIRS, cache=hw.CacheConfig(**cache))
            loader = hw.StreamingDataLoader(dataset, 8, shuffle=True)
            began = time.perf_counter()
            walk(loader)
            took = time.perf_counter() - began
            settled(dataset)
            return took

        what = "96 samples of 6.8 MB, server of 30 ms, memory and disk"
        sides = {
            "packing on": lambda: first_epoch(memory=memory, **disk),
            "packing off": lambda: first_epoch(memory=memory, compression="none", **disk),
            "no cache": lambda: first_epoch(memory=0),
        }
        rows = in_turn(what, sides)
        alone = {"disk tier on": lambda: first_epoch(memory=0, **disk), "no disk tier": lambda: first_epoch(memory=0)}
        return rows + in_turn("96 samples of 6.8 MB, server of 30 ms", alone)


def core_rows() -> list[Row]:
    """The tiers by themselves."""
    command = ["target/release/examples/cache", str(RESULTS / "cache"), "--records", "200000"]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found = [json.loads(line) for line in printed.splitlines()]
    beside = {
        "memory hits": "copying the same number of values of 4 KB",
        "disk hits": "reading the same files",
        "disk writes": "writing and renaming as many files",
    }
    rows = []
    for line in found:
        what, size, threads = line["what"], line.get("size", ""), line.get("threads", 0)
        name = " ".join(filter(None, (what, size and f"of {size}", threads and f"threads: {threads}")))
        if line.get("declined"):
            raise SystemExit(f"{name}: {line['declined']} records were declined")
        if threads:
            rows.append(figure(name, "/s", line["per_second"], line["plain"], beside[what], 1))
        elif what == "opening":
            took = 1e6 * line["seconds"]
            row = figure(f"opening a folder of {line['records']:,} records", "us", took, OPENING, "1 s", 1, lower=True)
            rows.append(aimed(row, "ours", at_most=OPENING))
        else:
            rows.append(figure(name, "bytes", line["bytes"], 4096, "a block", 1, lower=True))
    return rows


def main() -> None:
    """Runs the suite, or the parts named."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "reuse": reuse_rows,
        "packing": packing_rows,
        "tiers": tier_rows,
        "ranks": rank_rows,
        "disk": disk_rows,
        "core": core_rows,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    # That the remote is emulated is said above.
    logging.getLogger("headwater").setLevel(logging.ERROR)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(parts)}; all of them by default")
    given = parser.parse_args().parts or list(parts)
    report("cache", [row for part in given for row in parts[part]()])


if __name__ == "__main__":
    main()
