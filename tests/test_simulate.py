"""What `headwater simulate` says beforehand is what ranks then reuse."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from servers import testkit

HEADWATER = str(Path(sys.executable).with_name("headwater"))
SAMPLES, BATCH, SEED, WARM, MEASURED = 600, 10, 1, 6, 12
# On disk a sample takes two blocks, with what is beside it; in memory as it is.
SAMPLE_BYTES, BLOCKS, ENTRY = 4096, 8192, 4192

RANK = """
import json, sys, time
import headwater as hw
told = json.loads(sys.argv[1])
source = hw.Source(told["uri"], **told["options"])
dataset = hw.StreamingDataset({"x": source}, framework="numpy", cache=hw.CacheConfig(**told["cache"]))
loader = hw.StreamingDataLoader(dataset, told["batch"], shuffle=True, seed=told["seed"], rank=told["rank"], world_size=2)
WAITING = ("cache_insertions_total", "cache_declined_total", "cache_disk_insertions_total", "cache_disk_declined_total")
def epochs(count):
    for _ in range(count):
        for _ in loader:
            pass
        # What comes next begins when all is packed and written.
        before = None
        while (now := [dataset.stats()[name] for name in WAITING]) != before:
            before = now
            time.sleep(0.05)
epochs(told["warm"])
kept = dataset.stats()
dataset.reset_metrics()
epochs(told["measured"])
counted = loader.stats()
print(json.dumps({
    "asked": counted["loader_units_asked_total"],
    "reused": counted["loader_units_reused_total"],
    "entry": kept["cache_memory_bytes"] / max(1, kept["cache_memory_entries"]),
}))
"""


@pytest.fixture
def server(tmp_path: Path, fault_servers: Callable[[Path], testkit.Testkit]) -> testkit.Testkit:
    folder = tmp_path / "data"
    (folder / "x").mkdir(parents=True)
    noise = np.random.default_rng(1)
    for number in range(SAMPLES):
        np.save(folder / "x" / f"{number:03}.npy", noise.integers(0, 256, SAMPLE_BYTES, np.uint8))
    return fault_servers(folder)


def walked(server: testkit.Testkit, cache: dict[str, object]) -> list[dict[str, float]]:
    """What two ranks count, each in a process of its own."""
    options = {**testkit.CREDENTIALS["s3"], **server.options("s3")}
    told = {"uri": server.uri("s3", "x"), "options": options, "cache": cache, "batch": BATCH, "seed": SEED}
    told |= {"warm": WARM, "measured": MEASURED}
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, json.dumps(told | {"rank": rank})], stdout=subprocess.PIPE, text=True) for rank in (0, 1)
    ]
    try:
        return [json.loads(rank.communicate(timeout=120)[0]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def reused(counted: list[dict[str, float]]) -> float:
    """The share of all that was asked for."""
    assert sum(rank["asked"] for rank in counted) == MEASURED * SAMPLES
    return sum(rank["reused"] for rank in counted) / sum(rank["asked"] for rank in counted)


def simulated(sample_bytes: int, *tiers: str) -> float:
    """The share that is told beforehand."""
    training = ("--ranks-per-node", "2", "--batch-size", str(BATCH), "--seed", str(SEED), "--epochs", str(WARM + MEASURED))
    numbers = ("--samples", str(SAMPLES), "--sample-size", str(sample_bytes), "--policy", "auto")
    command = [HEADWATER, "simulate", "--json", *numbers, *training, *tiers]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    found: float = json.loads(said.stdout)["policies"][0]["usual_epoch"]["reuse"]
    return found


@pytest.mark.slow
def test_two_ranks_with_memories_of_their_own_reuse_what_was_simulated(server: testkit.Testkit) -> None:
    memory = SAMPLES * ENTRY // 4
    counted = walked(server, {"memory": memory, "compression": "none"})
    foreseen = simulated(round(counted[0]["entry"]), "--memory", str(memory))
    assert foreseen == pytest.approx(0.25, abs=0.02)
    assert reused(counted) == pytest.approx(foreseen, abs=0.02)


@pytest.mark.slow
def test_two_ranks_with_one_disk_reuse_what_was_simulated(server: testkit.Testkit, tmp_path: Path) -> None:
    disk = SAMPLES * BLOCKS // 2
    counted = walked(server, {"memory": 0, "disk": str(tmp_path / "cache"), "disk_capacity": disk})
    foreseen = simulated(BLOCKS, "--memory", "0", "--disk", str(disk))
    assert foreseen == pytest.approx(0.5, abs=0.02)
    assert reused(counted) == pytest.approx(foreseen, abs=0.02)
