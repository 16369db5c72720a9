"""A run under torchrun that is killed and goes on with fewer, as many or more ranks: one sequence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clips import SAMPLES, loader, write_clips

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


def trained(folder: Path, run: Path, ranks: int, kill_at: int, name: str) -> int:
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--nnodes=1", f"--rdzv-id={name}"]
    command = [*torchrun, "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", str(run / "train.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HEADWATER_HOME": str(run / "home")}
    arguments = [str(folder), str(run), str(kill_at), str(STEP)]
    return subprocess.run([*command, *arguments], check=False, env=environment, capture_output=True, timeout=300).returncode


def steps_of(run: Path, name: str, ranks: int) -> dict[tuple[int, int], list[int]]:
    """Where a step began, by epoch and position → samples of all ranks, in their order."""
    steps: dict[tuple[int, int], list[int]] = {}
    for rank in range(ranks):
        for line in (run / f"{name}-{rank}.jsonl").read_text().splitlines():
            epoch, position, indices = json.loads(line)
            steps.setdefault((epoch, position), []).extend(indices)
    return steps


@pytest.mark.parametrize("ranks_after", [1, 2, 4])
def test_killed_with_two_ranks_and_gone_on_with_others_it_is_one_sequence(tmp_path: Path, ranks_after: int) -> None:
    (tmp_path / "set").mkdir()
    folder = write_clips(tmp_path / "set")
    (tmp_path / "train.py").write_text(SCRIPT)
    reference = loader(folder, STEP)
    whole = []
    for epoch in range(2):
        position = 0
        for batch in reference:
            indices = [i for i, pad in zip(batch["__index__"].tolist(), batch["__pad__"].tolist(), strict=True) if not pad]
            whole.append(((epoch, position), indices))
            position = min(position + STEP, SAMPLES)
    assert trained(folder, tmp_path, 2, 5, "first") != 0
    state = json.loads((tmp_path / "state.json").read_text())
    assert (state["epoch"], state["position"]) == (0, 4 * STEP)
    assert trained(folder, tmp_path, ranks_after, 0, "second") == 0
    before, after = steps_of(tmp_path, "first", 2), steps_of(tmp_path, "second", ranks_after)
    stands = (state["epoch"], state["position"])
    gone_on = [(place, indices) for place, indices in before.items() if place < stands]
    assert sorted(gone_on + list(after.items())) == whole
