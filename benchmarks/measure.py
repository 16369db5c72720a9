"""Comparing two ways of doing one thing: alternating, in one process, reported as medians with their spread.

Rows may be held to a goal, which is judged here alone: the table and the JSON say whether it was met, and a suite that missed
one ends with an error once everything is printed.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

RESULTS = Path("target/bench")

Of = Literal["ours", "ratio"]


class Goal(TypedDict):
    """Between what a row's own figure or its ratio is to lie, ends included; ``None`` where there is no such end."""

    of: Of
    at_least: float | None
    at_most: float | None
    met: bool


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
    goal: NotRequired[Goal]


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
    ours_rate, best_rate, spread = amount / medians["ours"], amount / medians[best], (high - low) / 2 / ratio
    row = Row(name=name, unit=unit, ours=ours_rate, baseline=best_rate, baseline_name=best, ratio=ratio, n=n, spread=spread)
    return told(row)


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
    row = Row(name=name, unit=unit, ours=ours, baseline=baseline, baseline_name=baseline_name, ratio=ratio, n=n, spread=spread)
    return told(row)


def told(row: Row) -> Row:
    """The row, which standard error is told of at once: a suite takes minutes, and may not come to its end."""
    print(f"{row['name']}: {shown(row, 'ours', row['ours'])}, {row['ratio']:.2f}x", file=sys.stderr, flush=True)
    return row


def aimed(row: Row, of: Of = "ratio", *, at_least: float | None = None, at_most: float | None = None) -> Row:
    """The row, held to a goal for its ``ratio`` or, in its unit, for what is ``ours``."""
    value = row[of]
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return {**row, "goal": Goal(of=of, at_least=at_least, at_most=at_most, met=met)}


def shown(row: Row, of: Of, value: float) -> str:
    """A figure of a row, with its unit."""
    return f"{value:,.2f}x" if of == "ratio" else f"{value:,.4g} {row['unit']}".rstrip()


def aim(row: Row) -> str:
    """What a row is to reach, nothing where it has no goal."""
    goal = row.get("goal")
    if not goal:
        return ""
    ends = (("at least", goal["at_least"]), ("at most", goal["at_most"]))
    return " and ".join(f"{words} {shown(row, goal['of'], end)}" for words, end in ends if end is not None)


def judged(row: Row) -> str:
    """The same, and whether it did."""
    goal = row.get("goal")
    return f"{aim(row)}: {'met' if goal['met'] else 'MISSED'}" if goal else ""


def missed(rows: list[Row]) -> list[str]:
    """A line about each row that did not reach its goal."""
    lines = []
    for row in rows:
        goal = row.get("goal")
        if goal and not goal["met"]:
            found = shown(row, goal["of"], row[goal["of"]])
            lines.append(f"missed: {row['name']}: {found} instead of {aim(row)} (spread {100 * row['spread']:.0f} %)")
    return lines


def report(suite: str, rows: list[Row]) -> None:
    """Prints a table and writes ``target/bench/<suite>.json``; a goal that was missed ends the program with status 1."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{suite}.json"
    path.write_text(json.dumps(rows, indent=1) + "\n")
    width, goal_width = max(len(row["name"]) for row in rows), max(4, *(len(judged(row)) for row in rows))
    print(f"{'':<{width}} {'ours':>12} {'baseline':>12}  {'ratio':>6} {'spread':>7}  {'goal':<{goal_width}}  baseline is")
    for row in rows:
        figures = f"{row['ours']:>12,.1f} {row['baseline']:>12,.1f}  {row['ratio']:>5.2f}x {100 * row['spread']:>5.0f} %"
        print(f"{row['name']:<{width}} {figures}  {judged(row):<{goal_width}}  {row['baseline_name']} ({row['unit']})")
    print(f"written to {path}")
    if lines := missed(rows):
        print("\n".join(lines))
        sys.exit(1)
