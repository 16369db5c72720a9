"""The loader against what a user would run instead.

Warm from memory, cold through an emulated remote, and up the ladder from no cache to prefetch on an S3 server that takes 30 ms.
Warm rows: the files are in the page cache for both sides; ours are raw entries of the memory tier, fp32 as stored. Baselines
are ``torch.load`` (also ``mmap=True``) in a ``DataLoader`` of 0, 1, 2, 4 and 8 persistent workers; the best of them counts.
Packed rows are the same with a memory that has room for the entries only when they are compressed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import headwater as hw
from measure import Row, aimed, compare, figure, report
from sets import PAIRS, demo_set


class Warm(NamedTuple):
    """A demo set and how it is walked; what is aimed at, from raw and packed entries, as multiples of the plain way."""

    size: str
    batch: int
    samples: int
    epochs: int
    raw: float
    packed: float


WARM = {"8 x 6.8 MB": Warm("6.8 MB", 8, 48, 6, 5.0, 3.0), "64 x 96 KB": Warm("96 KB", 64, 800, 6, 20.0, 8.0)}
REMOTE = hw.Throttle(first_byte="30ms", stream_rate="100MB")
FIRST_BYTE, STREAM_RATE, CONCURRENCY = 0.030, 100e6, 32
# What else is aimed at: the share of what two threads copy, a limit where two ways to copy come so near each other; and,
# in epoch 2, what neither cache nor prefetch gives.
COLLATION, LIMIT = 0.6, 0.9
LADDER = {"cache": 1.5, "cache and prefetch": 2.0}


class Files(Dataset[dict[str, Any]]):
    """The plain way: two files per sample, ``torch.load``."""

    def __init__(self, folder: Path, keys: list[str], mmap: bool) -> None:
        self.folder, self.keys, self.mmap = folder, keys, mmap

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key = self.keys[index]
        latents, conditions = self.folder / f"latents/latent_{key}.pt", self.folder / f"conditions/condition_{key}.pt"
        return {
            "latents": torch.load(latents, weights_only=True, mmap=self.mmap),
            "conditions": torch.load(conditions, weights_only=True, mmap=self.mmap),
        }


def drain(batches: Any) -> int:
    """Walks a loader; a tensor of every batch is touched."""
    samples = 0
    for batch in batches:
        samples += len(batch["latents"]["latents"])
    return samples


def plain_loaders(folder: Path, dataset: hw.StreamingDataset, batch: int) -> dict[str, DataLoader[Any]]:
    """Every baseline by name."""
    keys = [dataset.key(index) for index in range(len(dataset))]
    made = {}
    for mmap in (False, True):
        for workers in (0, 1, 2, 4, 8):
            name = f"torch.load{'(mmap=True)' if mmap else ''}, DataLoader of {workers}"
            files = Files(folder, keys, mmap)
            made[name] = DataLoader(
                files, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
            )
    return made


def warm_cache(loader: hw.StreamingDataLoader) -> None:
    """Walks until everything is in the cache, and the buffers of batches are there."""
    units = 2 * len(loader.dataset)
    deadline = time.monotonic() + 120
    while loader.stats()["cache_memory_entries"] < units and time.monotonic() < deadline:
        drain(loader)
    for _ in range(3):
        drain(loader)
    loader.dataset.reset_metrics()


def repeat(epochs: int, batches: Any) -> Callable[[], None]:
    """A call that walks several epochs."""

    def call() -> None:
        for _ in range(epochs):
            drain(batches)

    return call


def cpu_seconds(call: Callable[[], None]) -> float:
    """Processor time of a call, children included."""
    before = os.times()
    call()
    after = os.times()
    return sum(after[:4]) - sum(before[:4])


# Ways to copy memory to memory from a thread, none of which holds the interpreter.
COPYING: dict[str, Callable[[int, int, int], Any]] = {
    "memmove of libc": ctypes.memmove,
    "numpy": lambda to, source, count: np.copyto(viewed(to, count), viewed(source, count)),
    "torch": lambda to, source, count: torch.from_numpy(viewed(to, count)).copy_(torch.from_numpy(viewed(source, count))),
}


def viewed(address: int, count: int) -> Any:
    """Memory as an array."""
    memory: Any = (ctypes.c_uint8 * count).from_address(address)
    return np.frombuffer(memory, np.uint8)


def copying_rates(megabytes: int = 256, rounds: int = 7) -> dict[str, float]:
    """Bytes per second that two threads copy from memory to memory, by way: medians of rounds of all ways in turn."""
    count = megabytes << 20
    sides = [(np.ones(count, np.uint8), np.ones(count, np.uint8)) for _ in range(2)]
    rates: dict[str, list[float]] = {way: [] for way in COPYING}
    for _ in range(rounds):
        for way, copy in COPYING.items():
            threads = [threading.Thread(target=copy, args=(to.ctypes.data, source.ctypes.data, count)) for source, to in sides]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            rates[way].append(2 * count / (time.perf_counter() - began))
    return {way: statistics.median(of) for way, of in rates.items()}


def copying_row(what: str, rates: dict[str, float]) -> Row:
    """Whether the best way to copy is what the machine does: another way comes near it."""
    second, best = sorted(rates, key=lambda way: rates[way])[-2:]
    name = f"two threads copy 256 MB each, by {second}: {what}"
    return aimed(figure(name, "GB/s", rates[second] / 1e9, rates[best] / 1e9, f"by {best}", n=7), at_least=LIMIT)


def warm_rows(name: str) -> list[Row]:
    """Throughput, share of memcpy, processor time and page faults, all from memory."""
    size, batch, samples, epochs, goal, _ = WARM[name]
    folder = demo_set(size, samples)
    dataset = hw.StreamingDataset(str(folder), pairs=PAIRS)
    loader = hw.StreamingDataLoader(dataset, batch, shuffle=True, drop_last=True)
    warm_cache(loader)
    plain = plain_loaders(folder, dataset, batch)
    what = f"{name}, raw entries in memory, fp32"
    count = epochs * len(loader) * batch
    calls = {baseline: repeat(epochs, batches) for baseline, batches in plain.items()}
    before_it = copying_rates()
    throughput = compare(f"loader warm: {what}", "samples/s", count, repeat(epochs, loader), calls, n=5)
    best = throughput["baseline_name"]
    before = loader.stats()
    drain(loader)
    per_batch = (loader.stats()["collated_bytes_total"] - before["collated_bytes_total"]) / len(loader)
    rate = throughput["ours"] / batch * per_batch
    # Before and after, since a shared machine's memory is not always equally fast; the faster counts.
    copying = max(before_it, copying_rates(), key=lambda rates: max(rates.values()))
    way, limit = max(copying.items(), key=lambda of: of[1])
    share = figure(f"share of two-thread memcpy: {what}", "GB/s", rate / 1e9, limit / 1e9, f"{way}, 256 MB, 2 threads", n=7)
    rows = [aimed(throughput, at_least=goal), aimed(share, at_least=COLLATION), copying_row(what, copying)]
    gigabytes = count / batch * per_batch / 1e9
    ours = cpu_seconds(repeat(epochs, loader)) / gigabytes
    theirs = cpu_seconds(repeat(epochs, plain["torch.load, DataLoader of 0"])) / gigabytes
    rows.append(
        figure(f"processor time per GB: {what}", "s/GB", ours, theirs, "torch.load, DataLoader of 0", n=epochs, lower=True)
    )
    # The workers of the baselines would be in the way of what is timed alone.
    del plain, calls
    gc.collect()
    rows += latency_rows(what, loader, dataset, folder)
    rows.append(fault_row(name, what))
    print(f"{name}: best baseline is {best}")
    return rows


def packed_rows(name: str) -> list[Row]:
    """Throughput from memory that holds all entries packed, and has no room for them as they are."""
    size, batch, samples, epochs, _, goal = WARM[name]
    folder = demo_set(size, samples)
    stored = sum(path.stat().st_size for path in folder.glob("*/*.pt"))
    dataset = hw.StreamingDataset(str(folder), pairs=PAIRS, cache=hw.CacheConfig(memory=stored // 2))
    loader = hw.StreamingDataLoader(dataset, batch, shuffle=True, drop_last=True)
    warm_cache(loader)
    stats = loader.stats()
    if stats["cache_memory_entries"] != 2 * samples or stats["cache_memory_bytes"] > stored // 2:
        raise SystemExit(f"{stats['cache_memory_entries']} entries of {2 * samples} are kept")
    calls = {baseline: repeat(epochs, batches) for baseline, batches in plain_loaders(folder, dataset, batch).items()}
    what = f"loader warm: {name}, packed entries in memory, fp32"
    throughput = compare(what, "samples/s", epochs * len(loader) * batch, repeat(epochs, loader), calls, n=5)
    ratio = stored / stats["cache_memory_bytes"]
    return [
        aimed(throughput, at_least=goal),
        figure(f"ratio: {name}, packed entries in memory", "", ratio, 1.0, "as stored", 1),
    ]


def quantiles(seconds: list[float]) -> tuple[float, float]:
    """Median and 99th percentile."""
    ordered = sorted(seconds)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def latency_rows(what: str, loader: hw.StreamingDataLoader, dataset: hw.StreamingDataset, folder: Path) -> list[Row]:
    """Hits and hand-over against loading the same objects and taking batches the plain way."""
    dataset.reset_metrics()
    repeat(40, loader)()
    stats = loader.stats()
    files = sorted(folder.glob("*/*.pt"))[:400]
    loads = []
    for path in files:
        began = time.perf_counter()
        torch.load(path, weights_only=True)
        loads.append(time.perf_counter() - began)
    rows = []
    for suffix, theirs in zip(("p50", "p99"), quantiles(loads), strict=True):
        ours = stats[f"hit_seconds_{suffix}"] * 1e6
        name = f"one unit from the cache into its batch, {suffix}: {what}"
        rows.append(figure(name, "us", ours, theirs * 1e6, "torch.load of it", n=len(files), lower=True))
    keys = [dataset.key(index) for index in range(len(dataset))]
    plain = DataLoader(Files(folder, keys, mmap=False), loader_batch(loader), shuffle=True, drop_last=True)
    waits = []
    batches = iter(plain)
    while True:
        began = time.perf_counter()
        if next(batches, None) is None:
            break
        waits.append(time.perf_counter() - began)
    for suffix, theirs in zip(("p50", "p99"), quantiles(waits), strict=True):
        ours = stats[f"loader_hand_over_seconds_{suffix}"] * 1e6
        name = f"hand-over of a batch, {suffix}: {what}"
        rows.append(figure(name, "us", ours, theirs * 1e6, "next() of DataLoader of 0", n=len(waits), lower=True))
    return rows


def loader_batch(loader: hw.StreamingDataLoader) -> int:
    """Its batch size."""
    size: int = json.loads(loader._native.config)["batch_size"]
    return size


def faults(name: str) -> dict[str, float]:
    """Page faults per batch with buffers reused, and with every batch kept so that none can be.

    In a process of its own: once kept batches are let go, their memory is there to be reused.
    """
    size, batch, samples, *_ = WARM[name]
    loader = hw.StreamingDataLoader(
        hw.StreamingDataset(str(demo_set(size, samples)), pairs=PAIRS), batch, shuffle=True, drop_last=True
    )
    warm_cache(loader)

    def per_batch(kept: list[Any] | None) -> float:
        # Far more batches than there are idle buffers.
        before, count = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, 0
        for made in itertools.chain.from_iterable(loader for _ in range(max(1, 60 // len(loader)))):
            count += 1
            if kept is not None:
                kept.append(made)
        return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / count

    return {"reused": per_batch(None), "kept": per_batch([])}


def fault_row(name: str, what: str) -> Row:
    """Medians of five processes."""
    command = [sys.executable, __file__, "faults", name]
    runs = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
        for _ in range(5)
    ]
    reused = max(statistics.median(run["reused"] for run in runs), 0.1)
    kept = statistics.median(run["kept"] for run in runs)
    return figure(f"page faults per batch: {what}", "faults", reused, kept, "every batch kept", len(runs), lower=True)


def cold_rows() -> list[Row]:
    """An emulated remote of 30 ms and 100 MB/s per stream, no cache, against reading one sample after the other from it."""
    folder, batch = demo_set("6.8 MB", 96), 8
    fetch = hw.FetchConfig(throttle=REMOTE)
    dataset = hw.StreamingDataset(str(folder), pairs=PAIRS, fetch=fetch, cache=hw.CacheConfig(memory=0))
    sizes = [path.stat().st_size for path in folder.glob("*/*.pt")]
    loader = hw.StreamingDataLoader(dataset, batch, shuffle=True)

    def ours() -> tuple[float, float]:
        """Samples per second after the first batch, and of the whole epoch."""
        began = time.perf_counter()
        batches = iter(loader)
        next(batches)
        first = time.perf_counter()
        samples = sum(len(made["__index__"]) for made in batches)
        done = time.perf_counter()
        return samples / (done - first), (samples + batch) / (done - began)

    def sequential(count: int) -> float:
        began = time.perf_counter()
        for index in range(count):
            dataset[index]
        return count / (time.perf_counter() - began)

    # What the line allows: every stream carries an object in the time to its first byte and its bytes at the stream's rate.
    per_object = statistics.mean(FIRST_BYTE + size / STREAM_RATE for size in sizes)
    ideal = CONCURRENCY / per_object / 2
    ours()
    dataset.reset_metrics()
    behind_first, whole, plain = [], [], []
    for _ in range(5):
        rates = ours()
        behind_first.append(rates[0])
        whole.append(rates[1])
        plain.append(sequential(8))
    what = "6.8 MB samples, raw .pt, emulated remote of 30 ms and 100 MB/s per stream"
    stats = loader.stats()

    def row(name: str, rates: list[float], baseline: float, baseline_name: str) -> Row:
        mine = statistics.median(rates)
        spread = (max(rates) - min(rates)) / 2 / mine
        return figure(f"{name}: {what}", "samples/s", mine, baseline, baseline_name, len(rates), spread)

    def miss(suffix: str) -> Row:
        ours = stats[f"miss_seconds_{suffix}"] * 1e3
        name = f"a unit from asking for it, with its wait for a stream, to its value, {suffix}: {what}"
        return figure(name, "ms", ours, per_object * 1e3, "computed, without waiting", 5, lower=True)

    return [
        row("loader cold, after the first batch", behind_first, statistics.median(plain), "one after the other"),
        row(f"share of the ideal ({CONCURRENCY} streams), whole epoch", whole, ideal, "computed"),
        miss("p50"),
        miss("p99"),
    ]


def ladder_rows() -> list[Row]:
    """Epoch 2 from an S3 server that takes 30 ms: no cache, cache, cache and prefetch, with a step of 20 ms."""
    rows = []
    for name, (size, batch, samples, *_) in WARM.items():
        folder = demo_set(size, samples)
        with serving(folder, "--first-byte", "30ms") as server:
            place = hw.Source(f"s3://{server['bucket']}", **{key: server[key] for key in OPTIONS})

            def epoch(kind: str, place: hw.Source = place, batch: int = batch) -> float:
                cache = hw.CacheConfig(memory=0 if kind == "none" else "2GB")
                dataset = hw.StreamingDataset(place, pairs=PAIRS, cache=cache)
                batches: Any = DataLoader(dataset, batch, shuffle=True, drop_last=True)
                if kind == "cache and prefetch":
                    batches = hw.StreamingDataLoader(dataset, batch, shuffle=True, drop_last=True)
                seconds = 0.0
                for _ in range(2):
                    began = time.perf_counter()
                    for _ in batches:
                        time.sleep(0.02)
                    seconds = time.perf_counter() - began
                return len(batches) * batch / seconds

            kinds = ("none", "cache", "cache and prefetch")
            rates: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(5):
                for kind in kinds:
                    rates[kind].append(epoch(kind))
        none = statistics.median(rates["none"])
        for kind in kinds[1:]:
            mine = statistics.median(rates[kind])
            spread = (max(rates[kind]) - min(rates[kind])) / 2 / mine
            what = f"epoch 2, {kind}: {name}, S3 in memory with 30 ms, step of 20 ms"
            row = figure(what, "samples/s", mine, none, "neither: DataLoader of 0 over the dataset", 5, spread)
            rows.append(aimed(row, at_least=LADDER[kind]))
    return rows


OPTIONS = ("endpoint", "region", "access_key_id", "secret_access_key")


class serving:  # noqa: N801 - reads as a verb
    """The testkit's S3 server over a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        command = ["target/release/headwater-testkit", str(folder), *options]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> dict[str, str]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        described: dict[str, str] = json.loads(line)
        return described

    def __exit__(self, *_: object) -> None:
        self.process.communicate(timeout=30)


def main() -> None:
    """Runs the suite, or the parts named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="warm, packed, cold, ladder; all of them by default")
    given = parser.parse_args().parts
    if given[:1] == ["faults"]:
        print(json.dumps(faults(given[1])))
        return
    parts = given or ["warm", "packed", "cold", "ladder"]
    torch.set_num_threads(1)
    # Eight workers on two cores are meant.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    rows: list[Row] = []
    if "warm" in parts:
        rows += [row for name in WARM for row in warm_rows(name)]
    if "packed" in parts:
        rows += [row for name in WARM for row in packed_rows(name)]
    if "cold" in parts:
        rows += cold_rows()
    if "ladder" in parts:
        rows += ladder_rows()
    report("loader", rows)


if __name__ == "__main__":
    main()
