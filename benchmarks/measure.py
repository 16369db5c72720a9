"""Comparing two ways of doing one thing: alternating, in one process, reported as medians with their spread."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

RESULTS = Path("target/bench")


class Row(TypedDict):
    """One comparison. ``ratio`` above 1 means that ours is better."""

    name: str
    unit: str
    ours: float
    baseline: float
    baseline_name: str
    ratio: float
    n: int
    spread: float


def compare(
    name: str, unit: str, amount: float, ours: Callable[[], object], baselines: Mapping[str, Callable[[], object]], n: int = 7
) -> Row:
    """Times each side ``n`` times in turn after one warm-up; the strongest baseline is the one that counts.

    ``amount`` is what one call handles (samples, bytes); figures are ``amount`` per second. ``spread`` is half the
    interquartile range of the ratio over the rounds, relative to its median.
    """
    sides = {"ours": ours, **baselines}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for call in sides.values():
        call()
    for _ in range(n):
        for side, call in sides.items():
            began = time.perf_counter()
            call()
            seconds[side].append(time.perf_counter() - began)
    medians = {side: statistics.median(times) for side, times in seconds.items()}
    best = min(baselines, key=lambda side: medians[side])
    ratios = [theirs / mine for mine, theirs in zip(seconds["ours"], seconds[best], strict=True)]
    ratio = statistics.median(ratios)
    low, _, high = statistics.quantiles(ratios, n=4)
    return Row(
        name=name,
        unit=unit,
        ours=amount / medians["ours"],
        baseline=amount / medians[best],
        baseline_name=best,
        ratio=ratio,
        n=n,
        spread=(high - low) / 2 / ratio,
    )


def figure(
    name: str,
    unit: str,
    ours: float,
    baseline: float,
    baseline_name: str,
    n: int,
    spread: float = 0.0,
    *,
    lower: bool = False,
) -> Row:
    """A row of figures measured elsewhere; ``lower`` says that less is better."""
    ratio = baseline / ours if lower else ours / baseline
    return Row(name=name, unit=unit, ours=ours, baseline=baseline, baseline_name=baseline_name, ratio=ratio, n=n, spread=spread)


def report(suite: str, rows: list[Row]) -> None:
    """Prints a table and writes ``target/bench/<suite>.json``."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{suite}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    width = max(len(row["name"]) for row in rows)
    print(f"{'':<{width}} {'ours':>12} {'baseline':>12}  {'ratio':>6} {'spread':>7}  baseline is")
    for row in rows:
        figures = f"{row['ours']:>12,.1f} {row['baseline']:>12,.1f}  {row['ratio']:>5.2f}x {100 * row['spread']:>5.0f} %"
        print(f"{row['name']:<{width}} {figures}  {row['baseline_name']} ({row['unit']})")
    print(f"written to {path}")
