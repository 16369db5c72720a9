"""Ranks that torchrun starts: who reads what, with copies of a model over several ranks and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow
SAMPLES, RANKS = 22, 4
# Each rank writes what each of its loaders reads: indices, pads, and steps.
SCRIPT = """
import json, os, sys
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
import headwater as hw

folder, failing, results = sys.argv[1:]
dataset = hw.StreamingDataset(folder)

def walked(dataset=dataset, **arguments):
    try:
        loader = hw.StreamingDataLoader(dataset, **{"batch_size": 3, "shuffle": True, "seed": 4, **arguments})
    except hw.ConfigError as error:
        return str(error)
    first = [batch["__index__"].tolist() for batch in loader]
    loader.set_epoch(0)
    pads = [pad for batch in loader for pad in batch.get("__pad__", [])]
    return [len(loader), first, sum(map(int, pads))]

answers = {"before": walked()}
dist.init_process_group("gloo")
rank = dist.get_rank()
mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "tp"))
pair = dist.new_group([0, 1])
answers["after"] = walked()
answers["budget"] = hw.StreamingDataLoader(dataset)._native.budget()
answers["replication"] = walked(replication=2)
answers["dropping"] = walked(replication=2, drop_last=True)
answers["mesh"] = walked(process_group=mesh["dp"])
answers["group"] = walked(process_group=mesh.get_group("dp"))
answers["whole mesh"] = walked(process_group=mesh)
answers["given"] = walked(rank=mesh["dp"].get_local_rank(), world_size=mesh["dp"].size())
answers["alone"] = walked(rank=0, world_size=1)
answers["pair"] = walked(process_group=pair)
answers["odd"] = walked(replication=3)
answers["both"] = walked(replication=2, process_group=mesh["dp"])
answers["nonsense"] = walked(process_group="dp")

# One object is damaged, which all ranks find alike; another one goes away while they run.
def walked_failing(**arguments):
    try:
        return walked(hw.StreamingDataset(failing, on_error="substitute"), **arguments)
    except hw.HeadwaterError as error:
        return str(error)

answers["damaged"] = {way: walked_failing(**how) for way, how in
    {"none": {}, "replication": {"replication": 2}, "mesh": {"process_group": mesh["dp"]}}.items()}
gone = {way: hw.StreamingDataset(failing, on_error="skip") for way in ("none", "replication", "mesh")}
dist.barrier()
if rank == 0:
    os.remove(f"{failing}/07.pt")
dist.barrier()
def walked_gone(way, **arguments):
    try:
        return walked(gone[way], **arguments)
    except hw.NotFoundError as error:
        return str(error)
answers["gone"] = {"none": walked_gone("none"), "replication": walked_gone("replication", replication=2),
    "mesh": walked_gone("mesh", process_group=mesh["dp"])}
dist.barrier()
with open(f"{results}/{rank}.json", "w") as file:
    json.dump(answers, file)
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("run")
    for folder in ("set", "failing", "results", "home"):
        (root / folder).mkdir()
    for sample in range(SAMPLES):
        for folder in ("set", "failing"):
            torch.save(torch.tensor([float(sample)]), root / folder / f"{sample:02}.pt")
    (root / "failing/03.pt").write_bytes(b"no tensor at all")
    (root / "train.py").write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    command = [*torchrun, str(root / "train.py"), *(str(root / folder) for folder in ("set", "failing", "results"))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HEADWATER_HOME": str(root / "home")}
    done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return [json.loads((root / "results" / f"{rank}.json").read_text()) for rank in range(RANKS)]


def together(walks: list[Any]) -> list[int]:
    """The samples of all ranks, step by step."""
    assert len({steps for steps, _, _ in walks}) == 1, "equal steps"
    return [index for step in zip(*(batches for _, batches, _ in walks), strict=True) for batch in step for index in batch]


def test_ranks_are_found_before_and_after_torch_distributed_is_up(answers: list[dict[str, Any]]) -> None:
    walks = [answer["after"] for answer in answers]
    assert walks == [answer["before"] for answer in answers]
    # 22 samples are one step of 4 × 3 and one of 4 × 3 with two pads.
    seen = together(walks)
    assert (walks[0][0], sum(pads for _, _, pads in walks)) == (2, 2)
    assert len(seen) == 24
    assert set(seen) == set(range(SAMPLES))


def test_all_ways_to_name_replicas_read_the_same(answers: list[dict[str, Any]]) -> None:
    for way in ("replication", "mesh", "group", "given"):
        walks = [answer[way] for answer in answers]
        assert walks[0] == walks[1]
        assert walks[2] == walks[3]
        assert walks == [answer["replication"] for answer in answers], way
    walks = [answers[rank]["replication"] for rank in (0, 2)]
    assert sorted(together(walks)) == list(range(SAMPLES)), "22 samples are no multiple of 6: 18, and 2 each"
    assert together(walks) == [index for batch in answers[0]["alone"][1] for index in batch]
    dropping = [answers[rank]["dropping"] for rank in (0, 2)]
    assert together(dropping) == together(walks)[:18]
    assert [answer["whole mesh"] for answer in answers] == [answer["after"] for answer in answers]


def test_replicas_put_the_same_in_the_place_of_what_none_of_them_can_decode(answers: list[dict[str, Any]]) -> None:
    for way in ("replication", "mesh"):
        walks = [answer["damaged"][way] for answer in answers]
        assert walks[0] == walks[1]
        assert walks[2] == walks[3]
        assert 3 not in together(walks)
        assert [len(batch) for batch in walks[0][1]] == [len(batch) for batch in answers[0][way][1]]


def test_what_a_replica_cannot_read_and_another_might_have_is_raised_and_not_skipped(answers: list[dict[str, Any]]) -> None:
    for way in ("replication", "mesh"):
        raised = [answer["gone"][way] for answer in answers if isinstance(answer["gone"][way], str)]
        assert len(raised) == 2, "both that read it"
        assert all("07.pt" in words and "other ranks that read the same samples" in words for words in raised)
    # Without replicas it is left out.
    walks = [answer["gone"]["none"] for answer in answers]
    assert {index for _, batches, _ in walks for batch in batches for index in batch} == set(range(SAMPLES)) - {3, 7}


def test_what_cannot_be_meant_is_refused(answers: list[dict[str, Any]]) -> None:
    assert answers[0]["pair"][0] == 4
    assert answers[2]["pair"] == "cannot use process_group: rank 2 is not in it"
    for answer in answers:
        assert answer["odd"] == "cannot use `replication = 3`: the world size, which is 4, must be a multiple of it"
        assert "goes with neither rank, world_size nor replication" in answer["both"]
        assert answer["nonsense"].startswith("cannot use a `str` as process_group")


def test_ranks_of_a_machine_use_no_more_than_its_memory_together(answers: list[dict[str, Any]]) -> None:
    limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < sum(answer["budget"][0] for answer in answers) <= min(4_000_000_000, limit / 4)
