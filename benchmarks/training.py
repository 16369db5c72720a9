"""How busy a training loop is kept, how soon it begins, and what else on the machine pays for it.

Busy is the share of its time that a loop spends in its steps, the first one left out; a step sleeps, as a processor does that
waits for an accelerator. The source is our S3 server in memory with 30 ms to the first byte and 100 MB/s per stream, cold:
nothing is cached. A step takes 1.3 times as long as ``wrk`` takes for the bytes of a batch at its best, in the same run. Beside
it a plain ``DataLoader`` whose workers read with boto3, of the number that serves it best.

Start is a process of its own: importing the package; and, of a kept manifest of 100,000 samples, opening and the first batch.

The busy main thread counts in the interpreter while a loader of it reads for the first time, or from memory: what it has left
of what it counts alone, and which part of all cores the loader takes.

A transform is called ahead by as many threads as there are by default, beside that on the consuming thread: samples per second
of a loop whose steps sleep, of small samples from memory, for functions that wait, compute without the interpreter, or with it.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import headwater as hw
from measure import RESULTS, Row, aimed, compare, figure, report
from server import SLOW, Server
from sets import PAIRS, demo_set
from sources import CONNECTIONS, objects_of

SIZE, COUNT, BATCH = 4 << 20, 96, 8
# Names of each object, so that an epoch takes seconds: what it takes to find the pace is in it, and is not most of it.
NAMES = 40
LONGER = 1.3
RUNS = 5
WORKERS = (2, 4, 8, 16)
# What is aimed at: percent of a loop in its steps; milliseconds to import, and to the first batch of a kept manifest; percent
# of all cores that a loader takes, beyond which training loops lose.
BUSY, IMPORTED, FIRST_BATCH, TAKEN = 95.0, 100.0, 1000.0, 40.0


class Objects(Dataset[torch.Tensor]):
    """The plain way: one ``get_object`` per sample."""

    def __init__(self, where: dict[str, Any]) -> None:
        self.where = where
        self.client: Any = None

    def __len__(self) -> int:
        return COUNT * NAMES

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.client is None:
            self.client = boto3.client(
                "s3",
                endpoint_url=self.where["endpoint"],
                region_name=self.where["region"],
                aws_access_key_id=self.where["access_key_id"],
                aws_secret_access_key=self.where["secret_access_key"],
            )
        body = self.client.get_object(Bucket=self.where["bucket"], Key=f"object-{index:05}.npy")["Body"].read()
        return torch.from_numpy(np.load(io.BytesIO(body)))


def many_names() -> Path:
    """The objects of ``sources.py`` under so many names each."""
    folder = RESULTS / "sets" / f"npy-{SIZE}-{COUNT}-{NAMES}"
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(sorted(objects_of(SIZE, COUNT).iterdir())):
        for name in range(NAMES):
            link = folder / f"object-{name * COUNT + number:05}.npy"
            if not link.exists():
                os.link(path, link)
    return folder


def busy(batches: Any, step: float) -> float:
    """Percent of its time that the loop is in its steps, from the end of the first one on."""
    first, last, within = 0.0, 0.0, 0.0
    for number, _ in enumerate(batches):
        began = time.perf_counter()
        time.sleep(step)
        last = time.perf_counter()
        first = first or last
        within += (last - began) * (number > 0)
    return 100 * within / (last - first)


def busy_rows() -> list[Row]:
    """Cold, over a network."""
    with Server(many_names(), *SLOW) as server:
        tried = {connections: server.wrk(connections, 2, COUNT * NAMES) for connections in CONNECTIONS}
        best = max(run["objects"] / run["seconds"] for run in tried.values())
        step = LONGER * BATCH / best

        def ours() -> float:
            dataset = hw.StreamingDataset(server.source(), cache=hw.CacheConfig(memory=0))
            return busy(hw.StreamingDataLoader(dataset, BATCH, shuffle=True), step)

        def plain(workers: int) -> float:
            return busy(DataLoader(Objects(server.where), BATCH, shuffle=True, num_workers=workers), step)

        first = {workers: plain(workers) for workers in WORKERS}
        workers = max(first, key=lambda number: first[number])
        rates: dict[str, list[float]] = {"ours": [], "plain": []}
        for _ in range(RUNS):
            rates["ours"].append(ours())
            rates["plain"].append(plain(workers))
    mine, other = statistics.median(rates["ours"]), statistics.median(rates["plain"])
    spread = (max(rates["ours"]) - min(rates["ours"])) / 2 / mine
    what = f"busy in steps of {1e3 * step:.0f} ms, cold: batches of {BATCH} x 4 MiB, S3 of 30 ms and 100 MB/s per stream"
    return [aimed(figure(what, "%", mine, other, f"boto3, DataLoader of {workers}", RUNS, spread), "ours", at_least=BUSY)]


IMPORT = "import time; began = time.perf_counter(); import headwater; print(time.perf_counter() - began)"
FIRST = """
import sys, time
import headwater as hw
began = time.perf_counter()
dataset = hw.StreamingDataset(sys.argv[1], framework="numpy", manifest=sys.argv[2])
loader = hw.StreamingDataLoader(dataset, 8, shuffle=True)
next(iter(loader))
print(time.perf_counter() - began)
"""
MANY = 100_000


def many_small() -> Path:
    """A folder of so many samples, each the same small tensor: links to one file."""
    folder = RESULTS / "sets" / f"links-{MANY}"
    if not (folder / "done").exists():
        (folder / "x").mkdir(parents=True, exist_ok=True)
        np.save(folder / "one.npy", np.zeros(64, np.float32))
        for number in range(MANY):
            link = folder / f"x/{number:06}.npy"
            # A file has no more than some ten thousand names.
            source = folder / f"one-{number // 10_000}.npy"
            if not source.exists():
                source.write_bytes((folder / "one.npy").read_bytes())
            if not link.exists():
                os.link(source, link)
        (folder / "done").touch()
    return folder


def seconds_of(script: str, *arguments: str) -> list[float]:
    """What a script prints, in processes of its own."""
    command = [sys.executable, "-c", script, *arguments]
    return [float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) for _ in range(RUNS)]


def start_rows() -> list[Row]:
    """The first seconds."""
    folder = many_small()
    manifest = folder / "kept.manifest"
    manifest.unlink(missing_ok=True)
    hw.StreamingDataset(folder / "x", manifest=manifest)
    imported, first = seconds_of(IMPORT), seconds_of(FIRST, str(folder / "x"), str(manifest))
    what = f"opening with a kept manifest of {MANY:,} samples, and the first batch"
    figures = (("import headwater", imported, IMPORTED), (what, first, FIRST_BATCH))
    return [
        aimed(figure(name, "ms", 1e3 * statistics.median(took), goal, "the goal", RUNS, lower=True), "ours", at_most=goal)
        for name, took, goal in figures
    ]


def counted(seconds: float) -> float:
    """What the main thread counts per second."""
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        for _ in range(1000):
            count += 1
    return count / (time.perf_counter() - began)


def beside(batches: Any, step: float) -> tuple[float, float]:
    """What the main thread counts per second in steps between batches; percent of all cores that others take meanwhile."""
    rates, clocks = [], (time.process_time, time.thread_time, time.perf_counter)
    before = [clock() for clock in clocks]
    for _batch in batches:
        rates.append(counted(step))
    process, main, wall = (clock() - began for clock, began in zip(clocks, before, strict=True))
    return statistics.mean(rates), 100 * (process - main) / wall / (os.cpu_count() or 1)


def share_rows() -> list[Row]:
    """What a busy main thread has left of what it counts, and what a loader beside it takes."""
    folder, cores = demo_set("6.8 MB", 48), os.cpu_count() or 1

    def opened() -> hw.StreamingDataLoader:
        return hw.StreamingDataLoader(hw.StreamingDataset(str(folder), pairs=PAIRS), BATCH, shuffle=True)

    kept = opened()
    for _ in range(3):
        beside(kept, 0.05)
    # What is read for the first time is also packed for the cache.
    ways: dict[str, tuple[float, Callable[[], Any]]] = {
        "from memory": (0.02, lambda: kept),
        "its first epoch, from files in the page cache": (0.1, opened),
    }
    rows = []
    for way, (step, made) in ways.items():
        alone, rates, shares = [], [], []
        for _ in range(RUNS):
            alone.append(counted(0.2))
            rate, share = beside(made(), step)
            rates.append(rate)
            shares.append(share)
        rate, share = statistics.median(rates), statistics.median(shares)
        what = f"{way}: batches of {BATCH} x 6.8 MB in steps of {1e3 * step:.0f} ms"
        spread = (max(shares) - min(shares)) / 2 / share
        taken = figure(
            f"cores taken beside a busy main thread, {what}", "%", share, 100, f"{cores} cores", RUNS, spread, lower=True
        )
        rows.append(aimed(taken, "ours", at_most=TAKEN))
        spread = (max(rates) - min(rates)) / 2 / rate
        rows.append(
            figure(f"what that thread counts meanwhile, {what}", "/s", rate, statistics.median(alone), "alone", RUNS, spread)
        )
    return rows


def waits(sample: dict[str, Any]) -> dict[str, Any]:
    """As one that asks a service."""
    time.sleep(0.005)
    return {"index": sample["__index__"]}


def computes(sample: dict[str, Any]) -> dict[str, Any]:
    """A millisecond or two of numpy, which lets go of the interpreter."""
    values = np.linspace(0, 1, 1 << 18, dtype=np.float32)
    return {"index": sample["__index__"], "mean": float(np.exp(np.sin(np.sqrt(values))).mean())}


def interprets(sample: dict[str, Any]) -> dict[str, Any]:
    """About as long in Python alone."""
    return {"index": sample["__index__"], "sum": sum(number * number % 7 for number in range(40_000))}


STEP_SECONDS = 0.02


def sleeping_step() -> None:
    """As a processor waits for an accelerator."""
    time.sleep(STEP_SECONDS)


def busy_step() -> None:
    """About as long in Python alone."""
    sum(number * number % 7 for number in range(400_000))


# A function, what it does, a step, what that does.
TRANSFORMS = (
    (waits, "waits", sleeping_step, "sleep"),
    (computes, "computes in numpy", sleeping_step, "sleep"),
    (interprets, "computes in Python", sleeping_step, "sleep"),
    (interprets, "computes in Python", busy_step, "compute in Python"),
)


def transform_rows() -> list[Row]:
    """Functions of the user's, ahead of the loop."""
    folder = demo_set("96 KB", 160)

    def stepping(loader: hw.StreamingDataLoader, step: Callable[[], None]) -> Callable[[], None]:
        def call() -> None:
            for _ in loader:
                step()

        return call

    rows = []
    for function, does, step, steps in TRANSFORMS:
        dataset = hw.StreamingDataset(str(folder), pairs=PAIRS, transform=function)
        threads = {count: hw.StreamingDataLoader(dataset, BATCH, transform_threads=count) for count in (None, 0)}
        took = [min(timed(call) for _ in range(RUNS)) for call in (lambda: function({"__index__": 0}), step)]  # noqa: B023
        name = f"a transform of {1e3 * took[0]:.1f} ms {does}, batches of {BATCH}, steps of {1e3 * took[1]:.0f} ms {steps}"
        baseline = {"on the consuming thread": stepping(threads[0], step)}
        rows.append(compare(name, "samples/s", len(dataset), stepping(threads[None], step), baseline, n=RUNS))
    return rows


def timed(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def main() -> None:
    """Runs the suite, or the parts named."""
    parts: dict[str, Callable[[], list[Row]]] = {
        "busy": busy_rows,
        "start": start_rows,
        "share": share_rows,
        "transform": transform_rows,
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(parts)}; all of them by default")
    given = parser.parse_args().parts or list(parts)
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    torch.set_num_threads(1)
    report("training", [row for part in given for row in parts[part]()])


if __name__ == "__main__":
    main()
