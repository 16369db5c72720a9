"""What the cache gives: reuse against the most there can be, and what packing costs the first epoch.

Reuse is counted by the loader over whole shuffled epochs after two that fill the cache. The most there can be is capacity /
dataset, both in the bytes that the cache charges; LRU stands beside it with what theory says of it, to which the loader's
window adds. First epochs are of new datasets in pairs, packing on and off in turn, through an emulated remote of 30 ms and
100 MB/s per stream, with a cache that holds half of the samples as they are.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import time
from pathlib import Path
from typing import Any, Literal

import headwater as hw
from measure import Row, figure, report
from sets import PAIRS, demo_set

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
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
    walk(hw.StreamingDataLoader(dataset, 16, drop_last=False))
    settle(dataset)
    return int(dataset.stats()["cache_memory_bytes"])


def reuse_rows() -> list[Row]:
    """Reuse for several shares of the dataset, and thanks to packing."""
    small, large = demo_set("96 KB", 800), demo_set("6.8 MB", 96)
    whole, rows = charged(small), []
    for share in SHARES:
        memory = int(share * whole)
        rows.append(
            figure(
                f"reuse, auto, capacity {share:.0%} of the dataset",
                "%",
                reuse(small, memory, "auto", "none", 32),
                100 * share,
                "capacity / dataset",
                EPOCHS,
            )
        )
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
    rows.append(figure("reuse, packed, memory 40% of the raw bytes", "%", packed, 40, "raw entries", EPOCHS))
    return rows


def packing_rows() -> list[Row]:
    """First epochs with packing on and off."""
    folder = demo_set("6.8 MB", 96)
    memory = charged(folder) // 2

    def first_epoch(compression: Compression) -> tuple[float, dict[str, int | float]]:
        dataset = opened(folder, memory, "auto", compression, fetch=hw.FetchConfig(throttle=REMOTE))
        loader = hw.StreamingDataLoader(dataset, 8, shuffle=True)
        began = time.perf_counter()
        walk(loader)
        took = time.perf_counter() - began
        settle(dataset)
        return took, loader.stats()

    first_epoch("auto")
    pairs = [(first_epoch("auto"), first_epoch("none")) for _ in range(PAIRED)]
    on, off = ([pair[side][0] for pair in pairs] for side in (0, 1))
    ratios = [plain / packed for packed, plain in zip(on, off, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    stats = pairs[-1][0][1]
    what = "96 samples of 6.8 MB, emulated remote"
    middle = statistics.median(ratios)
    rows = [
        Row(
            name=f"first epoch, packing on: {what}",
            unit="s",
            ours=statistics.median(on),
            baseline=statistics.median(off),
            baseline_name="packing off",
            ratio=middle,
            n=PAIRED,
            spread=(high - low) / 2 / middle,
        )
    ]
    ratio = stats["cache_pack_bytes_total"] / max(1, stats["cache_packed_bytes_total"])
    rows.append(figure(f"ratio of what was packed: {what}", "", ratio, 1.0, "as it is", 1))
    return rows


def main() -> None:
    """Runs the suite, or the parts named."""
    parts = {"reuse": reuse_rows, "packing": packing_rows}
    parser = argparse.ArgumentParser(description=__doc__)
    # That the remote is emulated is said above.
    logging.getLogger("headwater").setLevel(logging.ERROR)
    parser.add_argument("parts", nargs="*", help=f"{', '.join(parts)}; all of them by default")
    given = parser.parse_args().parts or list(parts)
    report("cache", [row for part in given for row in parts[part]()])


if __name__ == "__main__":
    main()
