"""How a process finds its rank: what launchers leave in the environment, what runs in the process, and what is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import headwater as hw

# What a process of its own prints: which samples each of its loaders reads, and what a loader's cache may take.
SCRIPT = """
import json, logging, sys
logging.basicConfig(level="WARNING", format="%(message)s", stream=sys.stderr)
{before}
import headwater as hw
try:
    dataset = hw.StreamingDataset({folder!r}, **{dataset})
    loader = hw.StreamingDataLoader(dataset, **{loader})
    print(json.dumps([[int(index) for batch in loader for index in batch["__index__"]], loader._native.budget()]))
except hw.ConfigError as error:
    print(json.dumps(str(error)))
"""
SAMPLES = 12
STEP = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_NODEID": "0",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_NTASKS": "6",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
MPIRUN = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "4"}
TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
# A module of that name, as Ray's is in a worker of Ray Train.
RAY = """
from types import ModuleType, SimpleNamespace
ray = ModuleType("ray.train")
ray.get_context = lambda: SimpleNamespace(
    get_world_rank=lambda: 3, get_world_size=lambda: 4, get_local_world_size=lambda: 2
)
sys.modules["ray.train"] = ray
"""
OTHER_TASK_OF_RAY = """
from types import ModuleType
def outside():
    raise RuntimeError("not in a training function")
ray = ModuleType("ray.train")
ray.get_context = outside
sys.modules["ray.train"] = ray
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    for sample in range(SAMPLES):
        torch.save(torch.tensor([float(sample)]), root / f"{sample:02}.pt")
    return root


def run(
    folder: Path, environment: dict[str, str], before: str = "", dataset: dict[str, Any] | None = None, **loader: Any
) -> tuple[Any, str]:
    """What a process with these variables prints, and what it logs."""
    text = SCRIPT.format(folder=os.fspath(folder), before=before, loader=repr(loader), dataset=repr(dataset or {}))
    names = ("SLURM", "OMPI", "PMI", "RAY")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(names) and name not in TORCHRUN}
    done = subprocess.run(
        [sys.executable, "-c", text], env={**kept, **environment}, capture_output=True, text=True, timeout=120, check=True
    )
    return json.loads(done.stdout), done.stderr


def part(rank: int, world_size: int) -> list[int]:
    return list(range(rank, SAMPLES, world_size))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "before", "rank", "world_size"),
    [
        pytest.param({}, "", 0, 1, id="alone"),
        pytest.param(TORCHRUN, "", 1, 2, id="torchrun"),
        pytest.param(STEP, "", 1, 3, id="srun"),
        pytest.param(MPIRUN, "", 2, 4, id="mpirun"),
        pytest.param({**MPIRUN, **STEP}, "", 2, 4, id="mpirun in a step of Slurm"),
        pytest.param({**TORCHRUN, **STEP}, "", 1, 2, id="torchrun in a step of Slurm"),
        pytest.param({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_JOB_ID": "5"}, "", 0, 1, id="batch script"),
        pytest.param({**STEP, "SLURM_STEP_ID": "4294967290"}, "", 0, 1, id="shell of salloc"),
        pytest.param({"RAY_RAYLET_PID": "7", **STEP}, RAY, 3, 4, id="Ray Train"),
        pytest.param({"RAY_RAYLET_PID": "7", **STEP}, OTHER_TASK_OF_RAY, 0, 1, id="other task of Ray"),
        pytest.param(STEP, RAY, 1, 3, id="Ray imported, not running"),
    ],
)
def test_a_process_finds_its_rank(folder: Path, environment: dict[str, str], before: str, rank: int, world_size: int) -> None:
    (walked, _), said = run(folder, environment, before)
    assert walked == part(rank, world_size)
    # Slurm and mpirun also start processes that train apart.
    assert ("reads its part of every epoch" in said) == (rank == 0 and world_size > 1 and "RANK" not in environment)


@pytest.mark.slow
def test_the_first_rank_says_that_its_part_is_because_of_slurm(folder: Path) -> None:
    said = run(folder, {**STEP, "SLURM_PROCID": "0"})[1]
    assert "each of 3 processes reads its part of every epoch, as Slurm started so many" in said
    (walked, _), said = run(folder, {**STEP, "SLURM_PROCID": "0"}, rank=0, world_size=1)
    assert (walked, said) == (part(0, 1), "")


def test_a_file_is_believed_before_a_launcher(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "headwater.toml"

    def walked(lines: str) -> list[int]:
        file.write_text(f'source = "{folder}"\n[loader]\n{lines}')
        return [int(index) for batch in hw.open(file) for index in batch["__index__"]]

    assert walked("") == part(1, 2)
    assert walked("rank = 0\nworld_size = 1\n") == part(0, 1)
    assert walked("rank = 5\nworld_size = 6\nreplication = 2\n") == part(2, 3)
    assert walked("replication = 2\n") == part(0, 1)
    with pytest.raises(hw.ConfigError, match="both rank and world_size"):
        walked("rank = 0\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", ["RANK", "WORLD_SIZE"])
def test_half_a_setting_is_refused(folder: Path, number: str) -> None:
    missing = "WORLD_SIZE" if number == "RANK" else "RANK"
    refused, _ = run(folder, {number: "1"})
    assert refused == f"cannot use `{number}`: it is set and {missing} is not: set both or none"


@pytest.mark.slow
def test_what_a_loader_is_told_is_believed_though_half_a_setting_is_there(folder: Path) -> None:
    (walked, _), _ = run(folder, {"RANK": "1"}, rank=0, world_size=1)
    assert sorted(walked) == list(range(SAMPLES))
    refused, _ = run(folder, {"RANK": "1"}, "", {"manifest": os.fspath(folder / "manifest")}, rank=0, world_size=1)
    assert refused.startswith("cannot use `RANK`"), "who makes the manifest is not known"


@pytest.mark.slow
def test_ranks_of_a_machine_share_its_memory(folder: Path) -> None:
    def cache(environment: dict[str, str], before: str = "") -> int:
        bytes_: int = run(folder, environment, before)[0][1][0]
        return bytes_

    alone = cache({})
    assert 0 < alone <= 4_000_000_000
    two_of_two = {**TORCHRUN, "LOCAL_WORLD_SIZE": "2"}
    ways = [(two_of_two, ""), (STEP, ""), ({"RAY_RAYLET_PID": "7"}, RAY)]
    shares = [cache(environment, before) for environment, before in ways]
    # Memory that is available changes as other processes come and go.
    assert shares == pytest.approx([alone / 2] * len(shares), rel=0.3)
    assert cache(MPIRUN) == pytest.approx(alone / 4, rel=0.3)


@pytest.mark.slow
def test_more_than_a_share_of_memory_is_not_granted_and_warned_of_once(folder: Path) -> None:
    cache = """import headwater as hw
cache = hw.CacheConfig(memory="900TB")
"""
    text = "{'cache': cache}"
    script = SCRIPT.format(folder=os.fspath(folder), before=cache, loader="{}", dataset=text)
    script = script.replace("    print(json", "    loader = hw.StreamingDataLoader(dataset)\n    print(json", 1)
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **TORCHRUN, "LOCAL_WORLD_SIZE": "8"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    walked, (granted, window, idle) = json.loads(done.stdout)
    assert walked == part(1, 2)
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < granted + window + idle <= limit / 8
    assert done.stderr.count("cache memory of 900 TB is more than this process's share") == 1, done.stderr


@pytest.mark.slow
def test_workers_of_a_dataloader_share_the_memory_of_their_rank(folder: Path) -> None:
    script = f"""
import logging, sys
logging.basicConfig(level="WARNING", format="%(message)s", stream=sys.stderr)
import headwater as hw
from torch.utils.data import DataLoader
dataset = hw.StreamingDataset({os.fspath(folder)!r}, cache=hw.CacheConfig(memory="900TB"))
print(sum(len(batch["__index__"]) for batch in DataLoader(dataset, batch_size=2, num_workers=3)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **TORCHRUN, "LOCAL_WORLD_SIZE": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.split() == [str(SAMPLES)]
    assert "which 6 of this machine use" in done.stderr, done.stderr


# Prints how many native threads read in this process, or in one of its workers, and how many would call a transform.
THREADS = """
import json, sys
from pathlib import Path
import headwater as hw
from torch.utils.data import DataLoader

def counted(_):
    names = [task.joinpath("comm").read_text().strip() for task in Path("/proc/self/task").iterdir()]
    return sum(name.startswith("headwater-") and name[-1].isdigit() for name in names)

dataset = hw.StreamingDataset(sys.argv[1], transform=counted)
made = DataLoader(dataset, 3, num_workers=int(sys.argv[2]))
print(json.dumps([max(int(batch.max()) for batch in made), hw.StreamingDataLoader(dataset)._native.transform_threads]))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < (os.cpu_count() or 1), reason="cores that a process is bound to are not divided"
)
def test_ranks_of_a_machine_and_their_workers_share_its_cores(folder: Path) -> None:
    def threads(local_world_size: int, workers: int = 0) -> list[int]:
        ranks = {"RANK": "0", "WORLD_SIZE": str(local_world_size), "LOCAL_WORLD_SIZE": str(local_world_size)}
        command = [sys.executable, "-c", THREADS, os.fspath(folder), str(workers)]
        done = subprocess.run(command, env={**os.environ, **ranks}, capture_output=True, text=True, timeout=120, check=True)
        made: list[int] = json.loads(done.stdout)
        return made

    alone, of_two, worker_of_two = threads(1), threads(2), threads(1, workers=2)
    assert alone[0] >= 4
    assert of_two[0] == -(-alone[0] // 2)
    assert worker_of_two[0] == of_two[0], "a worker has half of what its rank has"
    assert threads(2, workers=2)[0] == max(-(-alone[0] // 4), 2)
    assert of_two[1] < alone[1] or alone[0] >= 8, "of functions there are four at most"
