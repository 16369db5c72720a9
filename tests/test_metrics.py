"""What is counted: of each source by itself and of the consumer's time; and the reference of it all."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import headwater as hw
from forks import in_child
from servers.testkit import Testkit
from waiting import until

ROOT = Path(__file__).parents[1]
REFERENCE = (ROOT / "docs/metrics.md").read_text()
SAMPLES = 24


@pytest.fixture
def servers(tmp_path: Path, fault_servers: Callable[[Path], Testkit]) -> tuple[Testkit, Testkit]:
    """Two of the same objects."""
    for field in ("x", "y"):
        (tmp_path / field).mkdir()
        for number in range(SAMPLES):
            torch.save(torch.full((8,), number), tmp_path / field / f"{number:02}.pt")
    return fault_servers(tmp_path), fault_servers(tmp_path)


def named(source: hw.Source) -> str:
    """As metrics name it: one URI may mean two servers."""
    return f"{source.uri} at {source.options['endpoint']}"


def test_the_reference_is_what_the_program_prints() -> None:
    command = [str(ROOT / "target/release/headwater"), "docs", "metrics"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == REFERENCE


def test_guides_name_metrics_by_their_names() -> None:
    known = set(re.findall(r"`(?:headwater_)?([a-z_0-9]+)", REFERENCE))
    for guide in ROOT.glob("docs/*.md"):
        named = set(re.findall(r"`((?:source|loader|cache|replica|prefetch|buffer|manifest)_[a-z_]+_total)", guide.read_text()))
        assert named <= known, guide.name


def test_every_figure_is_in_the_reference(servers: tuple[Testkit, Testkit]) -> None:
    loader = hw.StreamingDataLoader(hw.StreamingDataset({"x": servers[0].source("s3", "x")}), 4)
    list(loader)
    names = {re.sub(r"_p(50|99)$", "", name) for name in loader.stats() if name != "verdict"}
    assert names >= {"loader_running_seconds_total", "source_request_seconds", "loader_threads"}
    assert names <= set(re.findall(r"`([a-z_0-9]+)`", REFERENCE))


def test_sources_are_told_apart_and_add_up(servers: tuple[Testkit, Testkit]) -> None:
    first, second = servers[0].source("s3", "x"), servers[1].source("http", "y")
    dataset = hw.StreamingDataset({"x": first, "y": second}, cache=hw.CacheConfig(memory=0))
    for index in (0, 1, 2):
        dataset[index]
    stats, by_source = dataset.stats(), dataset.source_stats()
    assert list(by_source) == [named(first), second.uri]
    for name in ("source_requests_total", "source_read_bytes_total", "source_read_seconds_total"):
        assert sum(source[name] for source in by_source.values()) == pytest.approx(stats[name])
    assert [source["source_requests_total"] for source in by_source.values()] == [3, 3]
    assert all(source["source_request_seconds_p50"] > 0 and not source["errors"] for source in by_source.values())
    dataset.reset_metrics()
    assert [source["source_requests_total"] for source in dataset.source_stats().values()] == [0, 0]


def test_the_text_is_what_prometheus_reads_and_says_what_stats_say(servers: tuple[Testkit, Testkit]) -> None:
    source = servers[0].source("s3", "x")
    dataset = hw.StreamingDataset({"x": source}, cache=hw.CacheConfig(memory="1MB"))
    loader = hw.StreamingDataLoader(dataset, 4)
    list(loader)
    samples = {}
    for family in text_string_to_metric_families(dataset.openmetrics()):  # type: ignore[no-untyped-call]
        assert family.documentation
        samples.update({(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in family.samples})
    stats = dataset.stats()
    assert samples["headwater_loader_batches_total", ()] == stats["loader_batches_total"] == SAMPLES / 4
    asked = samples["headwater_source_requests_total", (("source", named(source)),)]
    assert asked == samples["headwater_source_request_seconds_count", (("source", named(source)),)] == SAMPLES
    for stage in ("source", "decode", "collate", "transform", "placing"):
        stall = samples["headwater_loader_stall_seconds_total", (("stage", stage),)]
        assert stall == pytest.approx(stats[f"loader_stall_{stage}_seconds_total"])
    assert samples["headwater_cache_capacity_bytes", (("tier", "memory"),)] == 1_000_000
    assert samples["headwater_cache_capacity_bytes", (("tier", "disk"),)] == 0
    assert samples["headwater_loader_wait_seconds_bucket", (("le", "+Inf"),)] == SAMPLES / 4


def test_a_forked_worker_counts_from_nothing(servers: tuple[Testkit, Testkit]) -> None:
    dataset = hw.StreamingDataset({"x": servers[0].source("s3", "x")}, cache=hw.CacheConfig(memory=0))
    dataset[0]

    def worker() -> None:
        dataset[1]
        stats = dataset.stats()
        assert (stats["source_requests_total"], stats["samples_read_total"]) == (1, 1)
        assert stats["manifest_samples"] == SAMPLES
        assert [source["source_requests_total"] for source in dataset.source_stats().values()] == [1]

    in_child(worker)
    assert dataset.stats()["source_requests_total"] == 1


def test_errors_are_counted_by_their_kind_at_the_source_that_has_them(servers: tuple[Testkit, Testkit]) -> None:
    first, second = servers[0].source("s3", "x"), servers[1].source("s3", "y")
    fetch = hw.FetchConfig(retries=0, hedge=0)
    dataset = hw.StreamingDataset({"x": first, "y": second}, cache=hw.CacheConfig(memory=0), fetch=fetch)
    dataset[0]
    servers[0].fault("status=403,on=get")
    with pytest.raises(hw.AccessDeniedError):
        dataset[1]
    servers[0].clear()
    servers[0].fault("status=503,on=get")
    with pytest.raises(hw.UnavailableError):
        dataset[2]
    by_source = dataset.source_stats()
    assert not by_source[named(second)]["errors"]
    assert by_source[named(first)]["errors"] == {"denied": 1, "unavailable": 1}
    assert dataset.stats()["source_errors_total"] == 2


def test_the_replica_that_is_left_alone_says_so(servers: tuple[Testkit, Testkit]) -> None:
    preferred, other = servers[0].source("s3", "x"), servers[1].source("s3", "x")
    fetch = hw.FetchConfig(retries=0, hedge=0, deadline="5s")
    dataset = hw.StreamingDataset({"x": [preferred, other]}, cache=hw.CacheConfig(memory=0), fetch=fetch)
    dataset[0]
    servers[0].kill()

    def is_left_alone() -> bool:
        assert torch.equal(dataset[1]["x"], torch.full((8,), 1))
        return bool(dataset.source_stats()[named(preferred)]["replica_breakers_open"] == 1)

    until(is_left_alone, "it is left alone")
    by_source = dataset.source_stats()
    assert by_source[named(preferred)]["replica_errors_total"] > 0
    assert by_source[named(other)]["replica_breakers_open"] == 0
    assert by_source[named(other)]["replica_answer_seconds_p50"] > 0
    assert dataset.stats()["replica_breakers_open"] == 1


def test_the_consumers_time_is_steps_and_stalls(servers: tuple[Testkit, Testkit]) -> None:
    loader = hw.StreamingDataLoader(hw.StreamingDataset({"x": servers[0].source("s3", "x")}), 4)
    began, batches = time.perf_counter(), 0
    for _ in loader:
        batches += 1
        time.sleep(0.02)
    took, stats = time.perf_counter() - began, loader.stats()
    running = stats["loader_running_seconds_total"]
    stalls = sum(float(stats[f"loader_stall_{stage}_seconds_total"]) for stage in ("source", "decode", "collate"))
    assert 0.02 * (batches - 1) <= running <= took
    assert stalls <= running
