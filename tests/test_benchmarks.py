"""What benchmarks say of their goals; what they measure is no test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SUITE = """
from measure import aimed, figure, report
rows = [
    aimed(figure("speed", "GB/s", 4.5, 2.0, "the other", 3), "ours", at_least=4.0),
    aimed(figure("gain", "", 3.0, 2.0, "one core", 3, 0.05), at_least=1.8),
    aimed(figure("reuse", "%", 51.5, 50.0, "capacity", 3), "ours", at_least=49.0, at_most=51.0),
    figure("beside", "s", 1.0, 2.0, "the other", 3, lower=True),
]
report("made-up", [row for row in rows if row["name"] in {names}])
print("never reached after a goal was missed")
"""


def run(names: list[str], folder: Path) -> tuple[int, list[str], dict[str, bool | None]]:
    """Status, lines, and of each row whether its goal was met."""
    script = SUITE.replace("{names}", repr(names))
    ran = subprocess.run(
        [sys.executable, "-c", script],
        check=False,
        cwd=folder,
        env={"PYTHONPATH": str(BENCHMARKS)},
        capture_output=True,
        text=True,
    )
    # Standard error is told of each figure as soon as it is there.
    assert [line.partition(":")[0] for line in ran.stderr.splitlines()] == ["speed", "gain", "reuse", "beside"]
    rows = json.loads((folder / "target/bench/made-up.json").read_text())
    return ran.returncode, ran.stdout.splitlines(), {row["name"]: row.get("goal", {}).get("met") for row in rows}


def test_goals_that_are_met_are_said_and_no_error(tmp_path: Path) -> None:
    status, lines, met = run(["speed", "beside"], tmp_path)
    assert (status, met) == (0, {"speed": True, "beside": None})
    assert "at least 4 GB/s: met" in lines[1]
    assert not any("missed" in line for line in lines[:-1])


def test_a_missed_goal_is_an_error_after_everything_was_printed(tmp_path: Path) -> None:
    status, lines, met = run(["speed", "gain", "reuse", "beside"], tmp_path)
    assert (status, met) == (1, {"speed": True, "gain": False, "reuse": False, "beside": None})
    assert "written to" in lines[5]
    assert lines[6:] == [
        "missed: gain: 1.50x instead of at least 1.80x (spread 5 %)",
        "missed: reuse: 51.5 % instead of at least 49 % and at most 51 % (spread 0 %)",
    ]
