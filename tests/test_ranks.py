"""Ranks of one job: one lists, the others read, and all walk the same dataset."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

import headwater as hw
from servers import testkit

SAMPLES = 5


@pytest.fixture
def server(tmp_path: Path) -> Iterator[testkit.Testkit]:
    folder = tmp_path / "data" / "x"
    folder.mkdir(parents=True)
    for sample in range(SAMPLES):
        torch.save(torch.full((3,), float(sample)), folder / f"{sample}.pt")
    with testkit.serving(tmp_path / "data") as server:
        yield server


def place(server: testkit.Testkit) -> hw.Source:
    return hw.Source(server.uri("s3", "x"), anonymous=True, **server.options("s3"))


def on_ranks(work: Any, ranks: int, *arguments: Any) -> list[Any]:
    """What `work(rank, *arguments)` returns on every rank, or the text of its exception."""
    context = multiprocessing.get_context("fork")

    def run(rank: int, answer: Connection) -> None:
        try:
            answer.send(work(rank, *arguments))
        except Exception as error:
            answer.send(f"{type(error).__name__}: {error}")

    pipes = [context.Pipe(duplex=False) for _ in range(ranks)]
    processes = [context.Process(target=run, args=(rank, pipes[rank][1])) for rank in range(ranks)]
    for process in processes:
        process.start()
    answers = [receiver.recv() if receiver.poll(90) else "no answer" for receiver, _ in pipes]
    for process in processes:
        process.join(10)
        process.kill()
    return answers


def joined(rank: int, ranks: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)


def test_the_first_rank_lists_and_the_others_wait_for_its_manifest(server: testkit.Testkit, tmp_path: Path) -> None:
    def work(rank: int) -> tuple[int, str]:
        joined(rank, 3, tmp_path)
        if rank == 0:
            time.sleep(0.5)  # so that the others come first
        dataset = hw.StreamingDataset({"x": place(server)}, manifest=tmp_path / "shared" / "run.manifest")
        return len(dataset), dataset.content_fingerprint

    before = server.stats()["list"]
    answers = on_ranks(work, 3)
    assert answers == [answers[0]] * 3
    assert answers[0][0] == SAMPLES
    assert server.stats()["list"] - before <= 2, "one listed, in two pages at most"


def test_ranks_that_see_another_dataset_say_so(
    server: testkit.Testkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.distributed._COMPARE_SECONDS", 5.0)

    def work(rank: int) -> int:
        joined(rank, 2, tmp_path)
        other = tmp_path / f"of-rank-{rank}"
        other.mkdir()
        for sample in range(3 + rank):
            torch.save(torch.zeros(1), other / f"{sample}.pt")
        return len(hw.StreamingDataLoader(hw.StreamingDataset(other), batch_size=1))

    first, second = on_ranks(work, 2)
    assert first == 2
    assert second.startswith("ConfigError: cannot load: rank 1 has another dataset than rank 0: samples (3 there, 4 here)")


def test_a_rank_that_lists_the_same_place_otherwise_says_so_soon(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    torch.save(torch.zeros(1), folder / "0.pt")

    def work(rank: int) -> int:
        joined(rank, 2, tmp_path)
        store = dist.distributed_c10d._get_default_store()
        if rank == 1:
            store.wait(["listed"])
            torch.save(torch.zeros(1), folder / "1.pt")
        length = len(hw.StreamingDataLoader(hw.StreamingDataset({"x": folder}), batch_size=1))
        store.set("listed", "")
        return length

    first, second = on_ranks(work, 2)
    assert first == 1
    assert second.startswith("ConfigError: cannot load: rank 1 has another dataset than rank 0: samples (1 there, 2 here)")


def test_ranks_of_one_dataset_agree(server: testkit.Testkit, tmp_path: Path) -> None:
    def work(rank: int) -> list[str]:
        joined(rank, 2, tmp_path)
        loader = hw.StreamingDataLoader(hw.StreamingDataset({"x": place(server)}), batch_size=1, drop_last=True)
        return [key for batch in loader for key in batch["__key__"]]

    assert on_ranks(work, 2) == [["0", "2"], ["1", "3"]]


@pytest.mark.parametrize("seconds", [0.0, 2.0])
def test_a_loader_that_only_the_first_rank_makes_shifts_no_comparison(
    server: testkit.Testkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr("headwater.distributed._GRACE_SECONDS", 0.2)

    def work(rank: int) -> int:
        joined(rank, 2, tmp_path)
        if rank == 0:
            alone = tmp_path / "alone" / "x"
            alone.mkdir(parents=True)
            torch.save(torch.zeros(1), alone / "0.pt")
            hw.StreamingDataLoader(hw.StreamingDataset({"x": alone}), batch_size=1, rank=None)
            time.sleep(seconds)  # as a long listing takes
        return len(hw.StreamingDataLoader(hw.StreamingDataset({"x": place(server)}), batch_size=1, drop_last=True))

    assert on_ranks(work, 2) == [2, 2]


def test_a_rank_that_lists_another_replica_has_the_same_dataset(server: testkit.Testkit, tmp_path: Path) -> None:
    def work(rank: int) -> tuple[int, str]:
        joined(rank, 2, tmp_path)
        # The second rank cannot reach the first replica, and so knows no versions of it.
        first = place(server) if rank == 0 else hw.Source("s3://bucket/x", endpoint="http://127.0.0.1:9", anonymous=True)
        dataset = hw.StreamingDataset({"x": [first, place(server)]})
        return len(hw.StreamingDataLoader(dataset, batch_size=1, drop_last=True)), dataset.content_fingerprint

    (first, content), (second, other) = on_ranks(work, 2)
    assert (first, second) == (2, 2)
    assert content != other


def test_a_rank_without_a_counterpart_warns_and_goes_on(
    server: testkit.Testkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headwater.distributed._COMPARE_SECONDS", 0.5)

    def work(rank: int) -> int:
        joined(rank, 2, tmp_path)
        loader = hw.StreamingDataLoader(hw.StreamingDataset({"x": place(server)}), batch_size=1) if rank else []
        if rank == 0:
            dist.distributed_c10d._get_default_store().wait(["done"])
        else:
            dist.distributed_c10d._get_default_store().set("done", "")
        return len(loader)

    assert on_ranks(work, 2) == [0, 3]


def test_copies_on_each_ranks_disk_are_one_dataset(tmp_path: Path) -> None:
    def work(rank: int) -> int:
        joined(rank, 2, tmp_path)
        copy = tmp_path / f"of-rank-{rank}"
        copy.mkdir()
        for sample in range(4):
            torch.save(torch.zeros(1), copy / f"{sample}.pt")
            os.utime(copy / f"{sample}.pt", (1_000 + rank, 1_000 + rank))
        return len(hw.StreamingDataLoader(hw.StreamingDataset({"x": copy}), batch_size=1))

    assert on_ranks(work, 2) == [2, 2]


def test_a_replaced_object_of_the_same_size_is_another_dataset(server: testkit.Testkit, tmp_path: Path) -> None:
    old = server.source("s3", "x")

    def work(rank: int) -> int:
        joined(rank, 2, tmp_path)
        if rank == 0:
            dataset = hw.StreamingDataset({"x": old})
            dist.barrier()
        else:
            dist.barrier()
            body = (tmp_path / "data" / "x" / "1.pt").read_bytes()
            server.put("x/0.pt", body)
            dataset = hw.StreamingDataset({"x": old}, manifest_max_age=0)
        return len(hw.StreamingDataLoader(dataset, batch_size=1, drop_last=True))

    first, second = on_ranks(work, 2)
    assert first == 2
    assert second.startswith("ConfigError: cannot load: rank 1 has another dataset than rank 0: content_fingerprint")


def test_a_group_that_is_made_anew_compares_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater.distributed._COMPARE_SECONDS", 20.0)

    def work(rank: int) -> int:
        folders = [tmp_path / f"of-rank-{rank}" / str(samples) / "x" for samples in (4, 4 + rank)]
        for folder, samples in zip(folders, (4, 4 + rank), strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            for sample in range(samples):
                torch.save(torch.zeros(1), folder / f"{sample}.pt")
        for group, folder in enumerate(folders):
            (tmp_path / str(group)).mkdir(exist_ok=True)
            joined(rank, 2, tmp_path / str(group))
            length = len(hw.StreamingDataLoader(hw.StreamingDataset({"x": folder}), batch_size=1, drop_last=True))
            if group == 0:
                dist.barrier()
                dist.destroy_process_group()
        return length

    second = on_ranks(work, 2)[1]
    assert second.startswith("ConfigError: cannot load: rank 1 has another dataset than rank 0: samples (4 there, 5 here)")


def test_a_file_has_the_others_wait_as_an_argument_does(server: testkit.Testkit, tmp_path: Path) -> None:
    toml = tmp_path / "headwater.toml"
    options = {"endpoint": server.endpoint, "region": "test", "anonymous": "true"}
    lines = [f'{name} = "{value}"' for name, value in options.items()]
    manifest = tmp_path / "shared" / "run.manifest"
    toml.write_text(
        f'manifest = "{manifest}"\n[fields]\nx = "{server.uri("s3", "x")}"\n[storage_options.s3]\n' + "\n".join(lines) + "\n"
    )

    def work(rank: int) -> int:
        joined(rank, 3, tmp_path)
        if rank == 0:
            time.sleep(0.5)
        return len(hw.StreamingDataset.open(toml))

    before = server.stats()["list"]
    assert on_ranks(work, 3) == [SAMPLES] * 3
    assert server.stats()["list"] - before <= 2, "one listed, in two pages at most"


def test_processes_of_one_machine_list_once(server: testkit.Testkit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADWATER_HOME", str(tmp_path / "home"))
    server.fault("stall=500ms,on=list")

    def work(rank: int) -> int:
        return len(hw.StreamingDataset({"x": place(server)}))

    before = server.stats()["list"]
    assert on_ranks(work, 4) == [SAMPLES] * 4
    assert server.stats()["list"] - before <= 4 + 2


def test_a_folder_that_the_command_published_is_read_over_http(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "run"
    values = {f"{sample:02}": torch.randn(3, 7) for sample in range(SAMPLES)}
    for field in ("a", "b"):
        (folder / field).mkdir(parents=True)
        for key, value in values.items():
            torch.save(value if field == "a" else -value, folder / field / f"{key}.pt")
    command = [sys.executable, "-m", "headwater", "index", str(folder), "--publish"]
    subprocess.run(command, check=True, timeout=60)
    (folder / "a" / "later.pt").write_bytes(b"not listed")
    with testkit.serving(tmp_path / "data") as server:
        dataset = hw.StreamingDataset(server.source("http", "run"), manifest="published")
        samples = {sample["__key__"]: sample for sample in dataset}
        assert server.stats()["list"] <= 1, "whether it is there"
    assert samples.keys() == values.keys()
    for key, value in values.items():
        assert samples[key]["a"].numpy().tobytes() == value.numpy().tobytes()
        assert samples[key]["b"].numpy().tobytes() == (-value).numpy().tobytes()
