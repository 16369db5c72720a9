"""Replicas: one that dies, comes back or lies changes nothing of what arrives; with none left the error says so in time."""

from __future__ import annotations

import pickle
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import torch

import headwater as hw
from same import assert_same
from servers.rclone import RcloneServer
from servers.testkit import KINDS, Testkit
from waiting import until

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

pytestmark = pytest.mark.e2e

SAMPLES = 160
BATCH = 4
NOTHING_KEPT = hw.CacheConfig(memory=0)
Servers = Callable[[Path], Testkit]


def write(folder: Path, samples: int = SAMPLES, salt: int = 0) -> Path:
    """A field of samples that all have the same size."""
    (folder / "run").mkdir(parents=True)
    for number in range(samples):
        torch.save(torch.arange(1000) * (salt + 1) + number, folder / f"run/{number:04}.pt")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "right")


def opened(*replicas: Any, fetch: hw.FetchConfig | None = None, **arguments: Any) -> hw.StreamingDataset:
    return hw.StreamingDataset({"x": list(replicas)}, cache=NOTHING_KEPT, fetch=fetch, **arguments)


def walked(dataset: hw.StreamingDataset) -> hw.StreamingDataLoader:
    """A loader that is never far ahead, so that much of an epoch is still to be read."""
    return hw.StreamingDataLoader(dataset, BATCH, shuffle=True, seed=3, window_samples=2 * BATCH)


def assert_epoch(batches: Any, expected: list[dict[str, Any]], meanwhile: Callable[[int], Any] = lambda _: None) -> None:
    """Compares batch by batch with an undisturbed epoch."""
    count = 0
    for number, (batch, undisturbed) in enumerate(zip(batches, expected, strict=True)):
        assert_same(batch["__index__"], undisturbed["__index__"])
        assert_same(batch["x"], undisturbed["x"])
        meanwhile(number)
        count += 1
    assert count == SAMPLES // BATCH


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_that_dies_within_an_epoch_is_not_missed_and_is_read_again_once_it_is_back(
    folder: Path, fault_servers: Servers, kind: str
) -> None:
    first, second = fault_servers(folder), fault_servers(folder)
    undisturbed = list(walked(opened(str(folder / "run"))))
    loader = walked(opened(first.source(kind, "run"), second.source(kind, "run")))
    assert_epoch(loader, undisturbed, lambda number: first.kill() if number == 5 else None)
    stats = loader.stats()
    assert stats["replica_failovers_total"] > 0
    assert stats["replica_breaker_opened_total"] >= 1
    assert stats["replica_breakers_open"] == 1
    assert stats["sample_errors_total"] == 0

    served = first.stats()["get"]
    first.revive()
    until(lambda: loader.dataset[0] and loader.stats()["replica_breakers_open"] == 0, "the breaker closes")
    loader.set_epoch(0)
    assert_epoch(loader, undisturbed)
    assert first.stats()["get"] >= served + SAMPLES


def test_a_loader_with_a_local_replica_outlives_every_remote(folder: Path, fault_servers: Servers) -> None:
    remote = fault_servers(folder)
    undisturbed = list(walked(opened(str(folder / "run"))))
    loader = walked(opened(remote.source("s3", "run"), str(folder / "run")))
    assert_epoch(loader, undisturbed, lambda number: remote.kill() if number == 3 else None)
    assert loader.stats()["replica_failovers_total"] > 0


def test_breakers_of_every_field_are_counted(folder: Path, fault_servers: Servers) -> None:
    first, second, third = (fault_servers(folder) for _ in range(3))
    fields = {
        "x": [first.source("s3", "run"), third.source("s3", "run")],
        "y": [second.source("s3", "run"), third.source("s3", "run")],
    }
    dataset = hw.StreamingDataset(fields, cache=NOTHING_KEPT)
    first.kill()
    second.kill()
    for index in range(8):
        dataset[index]
    assert dataset.stats()["replica_breakers_open"] == 2
    first.revive()
    until(lambda: dataset[0] and dataset.stats()["replica_breakers_open"] == 1, "the breaker of one field closes")
    second.revive()
    until(lambda: dataset[0] and dataset.stats()["replica_breakers_open"] == 0, "the breaker of the other closes")


def test_replicas_may_speak_other_protocols_than_each_other(folder: Path, fault_servers: Servers) -> None:
    servers = [fault_servers(folder) for _ in KINDS]
    dataset = opened(*(server.source(kind, "run") for server, kind in zip(servers, KINDS, strict=True)))
    for number, server in enumerate(servers):
        assert_same(dataset[number]["x"], torch.arange(1000) + number)
        if server is not servers[-1]:
            server.kill()
    assert all(server.stats()["get"] > 0 for server in servers)
    assert all(server.stats()["tokens_leaked"] == 0 for server in servers)


def test_a_replica_that_is_down_when_the_dataset_is_opened_is_passed_over_and_pickled(
    folder: Path, fault_servers: Servers
) -> None:
    down, up = fault_servers(folder), fault_servers(folder)
    replicas = [down.source("http", "run"), up.source("http", "run")]
    down.kill()
    dataset = opened(*replicas)
    assert len(dataset) == SAMPLES
    again = pickle.loads(pickle.dumps(dataset))
    for read in (dataset, again):
        assert_same(read[7]["x"], torch.arange(1000) + 7)


@pytest.mark.parametrize("kind", KINDS)
def test_when_every_replica_is_dead_the_error_names_them_all(folder: Path, fault_servers: Servers, kind: str) -> None:
    servers = [fault_servers(folder), fault_servers(folder)]
    fetch = hw.FetchConfig(deadline="3s", retries=3, connect_timeout="1s")
    loader = walked(opened(*(server.source(kind, "run") for server in servers), fetch=fetch))
    batches = iter(loader)
    next(batches)
    for server in servers:
        server.kill()
    with pytest.raises((hw.UnavailableError, hw.DeadlineError)) as error:
        list(batches)
    text = str(error.value)
    for server in servers:
        assert server.endpoint in text
    assert "every replica failed" in text
    assert ".pt" in text


def test_when_no_replica_answers_the_deadline_holds(folder: Path, fault_servers: Servers) -> None:
    servers = [fault_servers(folder), fault_servers(folder)]
    dataset = opened(*(server.source("s3", "run") for server in servers), fetch=hw.FetchConfig(deadline="1s", retries=3))
    for server in servers:
        server.fault("stall=1h")
    with pytest.raises(hw.DeadlineError, match=r"0002\.pt"):
        dataset[2]
    assert dataset.stats()["source_timeouts_total"] == 1
    for server in servers:
        server.clear()
    assert_same(dataset[2]["x"], torch.arange(1000) + 2)


def test_replicas_that_are_all_down_at_the_start_are_named(folder: Path, fault_servers: Servers) -> None:
    servers = [fault_servers(folder), fault_servers(folder)]
    for server in servers:
        server.kill()
    with pytest.raises(hw.UnavailableError) as error:
        opened(*(server.source("s3", "run") for server in servers), fetch=hw.FetchConfig(deadline="3s", retries=1))
    assert all(server.endpoint in str(error.value) for server in servers)


@pytest.mark.parametrize("kind", KINDS)
def test_a_replica_that_serves_other_content_of_the_same_size_is_refused_and_counted(
    folder: Path, tmp_path: Path, fault_servers: Servers, kind: str
) -> None:
    right, wrong = fault_servers(folder), fault_servers(write(tmp_path / "wrong", salt=1))
    backup = fault_servers(folder)
    dataset = opened(*(server.source(kind, "run") for server in (right, wrong, backup)))
    for index in range(5):
        dataset[index]
    right.kill()
    for index in range(5):
        assert_same(dataset[index]["x"], torch.arange(1000) + index)
    assert dataset.stats()["replica_refused_total"] >= 3
    assert wrong.stats()["get"] >= 3


def test_other_content_alone_is_an_error(folder: Path, tmp_path: Path, fault_servers: Servers) -> None:
    right, wrong = fault_servers(folder), fault_servers(write(tmp_path / "wrong", salt=1))
    fetch = hw.FetchConfig(retries=0)
    dataset = opened(right.source("s3", "run"), wrong.source("s3", "run"), fetch=fetch)
    dataset[0]
    right.kill()
    with pytest.raises(hw.HeadwaterError, match="other bytes") as error:
        dataset[0]
    assert wrong.bucket in str(error.value)
    assert dataset.stats()["replica_refused_total"] == 1


def test_a_replica_whose_objects_have_other_sizes_is_refused(folder: Path, tmp_path: Path, fault_servers: Servers) -> None:
    right = fault_servers(folder)
    (tmp_path / "wrong/run").mkdir(parents=True)
    for original in (folder / "run").iterdir():
        torch.save(torch.zeros(3), tmp_path / "wrong/run" / original.name)
    dataset = opened(right.source("s3", "run"), fault_servers(tmp_path / "wrong").source("s3", "run"), str(folder / "run"))
    right.kill()
    for index in range(5):
        assert_same(dataset[index]["x"], torch.arange(1000) + index)
    assert dataset.stats()["replica_refused_total"] > 0


def test_a_replica_that_lacks_an_object_costs_only_that_object(folder: Path, tmp_path: Path, fault_servers: Servers) -> None:
    whole = fault_servers(folder)
    first = fault_servers(write(tmp_path / "part", samples=SAMPLES))
    dataset = opened(first.source("s3", "run"), whole.source("s3", "run"))
    first.fault("missing,key=0003")
    for index in range(5):
        assert_same(dataset[index]["x"], torch.arange(1000) + index)
    stats = dataset.stats()
    assert stats["replica_failovers_total"] == 1
    assert stats["replica_breakers_open"] == 0
    assert whole.stats()["get"] == 1


@pytest.fixture
def misbehaving(folder: Path, rclone_server: RcloneServer) -> tuple[hw.Source, Path]:
    """The folder's objects as rclone serves them, and where they lie."""
    prefix = uuid.uuid4().hex
    place = Path(rclone_server["folder"]) / prefix
    shutil.copytree(folder / "run", place)
    options = {name: str(value) for name, value in rclone_server.items() if name not in ("bucket", "folder")}
    return hw.Source(f"s3://{rclone_server['bucket']}/{prefix}", **options), place


@pytest.mark.parametrize("part_size", [0, 4096], ids=["whole", "in parts"])
@pytest.mark.parametrize("alone", [True, False], ids=["alone", "with a replica"])
def test_what_rclone_serves_comes_out_right(
    folder: Path, fault_servers: Servers, misbehaving: tuple[hw.Source, Path], part_size: int, alone: bool
) -> None:
    source, _ = misbehaving
    replicas = [source] if alone else [source, fault_servers(folder).source("s3", "run")]
    dataset = opened(*replicas, fetch=hw.FetchConfig(part_size=part_size, retries=2))
    assert len(dataset) == SAMPLES
    for index, sample in enumerate(dataset[list(range(24))]):
        assert_same(sample["x"], torch.arange(1000) + index)


def test_rclone_ignores_conditions_and_answers_ranges_as_wholes_and_a_change_is_noticed_all_the_same(
    folder: Path, rclone_server: RcloneServer, misbehaving: tuple[hw.Source, Path]
) -> None:
    source, place = misbehaving
    dataset = opened(source)
    client: S3Client = boto3.client(
        "s3",
        endpoint_url=rclone_server["endpoint"],
        region_name=rclone_server["region"],
        aws_access_key_id=rclone_server["access_key_id"],
        aws_secret_access_key=rclone_server["secret_access_key"],
    )
    bucket, key = rclone_server["bucket"], f"{place.name}/0000.pt"
    answer = client.get_object(Bucket=bucket, Key=key, Range="bytes=0-9", IfMatch='"another"', ChecksumMode="ENABLED")
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 200, "neither 412 nor 206"
    assert not [name for name in answer["ResponseMetadata"]["HTTPHeaders"] if "checksum" in name]
    shutil.copy(folder / "run/0009.pt", place / "0000.pt")
    with pytest.raises(hw.ObjectChangedError, match="it was replaced"):
        dataset[0]


def test_an_object_that_was_replaced_everywhere_is_read_anew_on_request(folder: Path, fault_servers: Servers) -> None:
    servers = [fault_servers(folder), fault_servers(folder)]
    dataset = opened(*(server.source("s3", "run") for server in servers), on_changed="reload")
    assert_same(dataset[0]["x"], torch.arange(1000))
    for server in servers:
        server.put("run/0000.pt", (folder / "run/0009.pt").read_bytes())
    assert_same(dataset[0]["x"], torch.arange(1000) + 9)


def test_an_object_that_was_replaced_everywhere_has_changed(folder: Path, fault_servers: Servers) -> None:
    servers = [fault_servers(folder), fault_servers(folder)]
    dataset = opened(*(server.source("s3", "run") for server in servers))
    for server in servers:
        server.put("run/0000.pt", (folder / "run/0009.pt").read_bytes() + b"longer")
    with pytest.raises(hw.ObjectChangedError, match="on_changed"):
        dataset[0]
