"""A run under torchrun that is killed and goes on with fewer, as many or more ranks, or other batches: one sequence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clips import SAMPLES, indices, loader, write_clips

pytestmark = pytest.mark.slow
# Samples of a step, over all ranks.
STEP = 8
# Each rank notes what it reads, and waits for the others after each step as training does; the first one saves the state.
SCRIPT = """
import json, os, signal, sys, time
from pathlib import Path
import headwater as hw

folder, run, kill_at, step_samples = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
loader = hw.StreamingDataLoader(
    hw.StreamingDataset(folder, framework="numpy"), step_samples // world_size, shuffle=True, seed=5, num_threads=1 + rank
)
saved = run / "state.json"
if saved.exists():
    loader.load_state_dict(json.loads(saved.read_text()))
log = open(run / f"{os.environ['TORCHELASTIC_RUN_ID']}-{rank}.jsonl", "w", buffering=1)
together = run / f"{os.environ['TORCHELASTIC_RUN_ID']}-together"
together.mkdir(exist_ok=True)

def wait_for_all(step):
    (together / f"{step}-{rank}").touch()
    ends = time.monotonic() + 60
    while not all((together / f"{step}-{other}").exists() for other in range(world_size)):
        assert time.monotonic() < ends
        time.sleep(0.002)

step = 0
while loader.state_dict()["epoch"] < 2:
    before = loader.state_dict()
    for batch in loader:
        pads = batch["__pad__"].tolist()
        real = [index for index, pad in zip(batch["__index__"].tolist(), pads) if not pad]
        print(json.dumps([before["epoch"], before["position"], real]), file=log)
        step += 1
        if step == kill_at and rank == world_size - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        wait_for_all(step)
        before = loader.state_dict()
        if rank == 0:
            (run / "state.new").write_text(json.dumps(before))
            (run / "state.new").rename(saved)
        wait_for_all(f"saved-{step}")
"""


def trained(folder: Path, run: Path, ranks: int, kill_at: int, name: str, step: int = STEP) -> int:
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--nnodes=1", f"--rdzv-id={name}"]
    command = [*torchrun, "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", str(run / "train.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HEADWATER_HOME": str(run / "home")}
    arguments = [str(folder), str(run), str(kill_at), str(step)]
    return subprocess.run([*command, *arguments], check=False, env=environment, capture_output=True, timeout=300).returncode


def steps_of(run: Path, name: str, ranks: int) -> dict[tuple[int, int], list[int]]:
    """Where a step began, by epoch and position → samples of all ranks, in their order."""
    steps: dict[tuple[int, int], list[int]] = {}
    for rank in range(ranks):
        for line in (run / f"{name}-{rank}.jsonl").read_text().splitlines():
            epoch, position, indices = json.loads(line)
            steps.setdefault((epoch, position), []).extend(indices)
    return steps


@pytest.mark.parametrize(("ranks_after", "step_after"), [(1, STEP), (2, STEP), (4, STEP), (2, 6), (4, 20)], ids=str)
def test_killed_with_two_ranks_and_gone_on_with_others_it_is_one_sequence(
    tmp_path: Path, ranks_after: int, step_after: int
) -> None:
    (tmp_path / "set").mkdir()
    folder = write_clips(tmp_path / "set")
    (tmp_path / "train.py").write_text(SCRIPT)
    reference = loader(folder, 1)
    epochs = [[index for [index] in indices(reference)] for _ in range(2)]
    assert trained(folder, tmp_path, 2, 5, "first") != 0
    state = json.loads((tmp_path / "state.json").read_text())
    stands = (state["epoch"], state["position"])
    assert stands == (0, 4 * STEP)
    assert trained(folder, tmp_path, ranks_after, 0, "second", step_after) == 0
    before, after = steps_of(tmp_path, "first", 2), steps_of(tmp_path, "second", ranks_after)
    gone_on = {place: samples for place, samples in before.items() if place < stands} | after
    seen: list[list[int]] = [[], []]
    for (epoch, position), samples in sorted(gone_on.items()):
        assert position == len(seen[epoch]), "a step begins where the one before it ended"
        seen[epoch] += samples
    assert seen == epochs
    # What is full is of the size that was asked for.
    sizes = [len(samples) for (_, position), samples in after.items() if position + step_after <= SAMPLES]
    assert sizes == [step_after] * len(sizes) != []
