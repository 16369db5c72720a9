"""`StreamingDatasetAdapter`: what is fetched ahead, kept, counted and let go."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from adapted import SAMPLES, Servers, adapter, expected, latent, local, remote, write
from headwater.adapter import StreamingDatasetAdapter
from same import assert_same
from waiting import until

STATS = {
    "num_items",
    "current_size_gb",
    "max_size_gb",
    "hit_rate",
    "total_hits",
    "total_misses",
    "total_evictions",
    "prefetch_hits",
    "compression_savings_gb",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "set")


def packed_room(folder: Path) -> float:
    """A cache that has no room for all as it is, but for all compressed."""
    return 0.75 * sum(path.stat().st_size for path in folder.glob("*/*.pt")) / 1e9


def hit_rate(dataset: StreamingDatasetAdapter, order: list[int], batch: int, *, prefetch: bool) -> float:
    """That of one epoch of a loop that says what comes, as the trainers' examples do."""
    dataset.reset_metrics()
    for begin in range(0, len(order), batch):
        if prefetch:
            coming = order[begin + batch : begin + 2 * batch]
            dataset.prefetch_batch(coming)
        for number in order[begin : begin + batch]:
            assert_same(dataset[number], expected(number))
        if prefetch:
            until(lambda: not dataset.stats()["prefetch_waiting"] and arrived(dataset), "what was queued arrives")
    return float(dataset.get_cache_stats()["hit_rate"])


def arrived(dataset: StreamingDatasetAdapter) -> bool:
    stats = dataset.stats()
    return stats["prefetch_fetched_total"] >= 2 * stats["prefetch_queued_total"]


def test_the_first_epoch_hits_what_was_queued_and_later_ones_hit_the_cache(folder: Path, fault_servers: Servers) -> None:
    server = fault_servers(folder)
    dataset = adapter([remote(server, "latents"), remote(server, "conditions")], prefetch_ahead=0)
    orders = [torch.randperm(SAMPLES, generator=torch.Generator().manual_seed(epoch)).tolist() for epoch in range(3)]
    first = hit_rate(dataset, orders[0], 4, prefetch=True)
    assert first > 0.8, "all but the first batch were queued"
    assert dataset.get_cache_stats()["prefetch_hits"] == round(first * 2 * SAMPLES)
    for order in orders[1:]:
        assert hit_rate(dataset, order, 4, prefetch=False) == 1.0
    assert server.stats()["get"] == 2 * SAMPLES


def test_reading_in_order_fetches_ahead_by_itself(folder: Path, fault_servers: Servers) -> None:
    server = fault_servers(folder)
    dataset = adapter([remote(server, "latents"), remote(server, "conditions")], prefetch_ahead=10)
    for number in range(SAMPLES):
        assert_same(dataset[number], expected(number))
        until(lambda: not dataset.stats()["prefetch_waiting"] and arrived(dataset), "what was queued arrives")
    stats = dataset.get_cache_stats()
    assert stats["prefetch_hits"] == 2 * (SAMPLES - 2), "all but the two that tell the order"
    assert stats["hit_rate"] > 0.85
    assert server.stats()["get"] == 2 * SAMPLES


def test_nothing_is_fetched_ahead_while_the_worker_is_stopped(folder: Path, fault_servers: Servers) -> None:
    server = fault_servers(folder)
    dataset = adapter([remote(server, "latents"), remote(server, "conditions")], enable_prefetch=False)
    assert dataset.prefetch_batch([0, 1]) == 0
    for number in range(4):
        dataset[number]
    assert server.stats()["get"] == 8
    for _ in range(2):
        dataset.start_prefetch_worker()
    assert dataset.prefetch_batch([10, 11]) == 2
    until(lambda: server.stats()["get"] == 12, "the queue is fetched")
    for _ in range(2):
        dataset.stop_prefetch_worker()
    assert dataset.stats()["prefetch_bytes"] == 0
    assert dataset.prefetch_batch([12]) == 0


def test_no_thread_of_pythons_is_left_by_starting_and_stopping(folder: Path) -> None:
    before = set(threading.enumerate())
    dataset = adapter(local(folder))
    for _ in range(10):
        dataset.start_prefetch_worker()
        dataset.prefetch_batch(range(SAMPLES))
        dataset[0]
        dataset.stop_prefetch_worker()
    assert set(threading.enumerate()) == before


def test_what_is_kept_is_compressed_within_the_size_that_was_given(folder: Path) -> None:
    size = packed_room(folder)
    dataset = adapter(local(folder), cache_size_gb=size, prefetch_ahead=0)
    over: list[float] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            if (held := dataset.get_cache_stats()["current_size_gb"]) > size:
                over.append(held)

    watching = threading.Thread(target=watch)
    watching.start()
    for _ in range(3):
        for number in range(SAMPLES):
            assert_same(dataset[number], expected(number))
    # What is read faster than it is packed is not kept, and has its next chance when it is read again.
    everything = list(range(SAMPLES))
    until(lambda: dataset[everything] and dataset.get_cache_stats()["num_items"] == 2 * SAMPLES, "all is packed")
    done.set()
    watching.join()
    stats = dataset.get_cache_stats()
    assert set(stats) == STATS
    assert not over
    assert stats["max_size_gb"] == pytest.approx(size, rel=1e-6)
    stored = sum(path.stat().st_size for path in folder.glob("*/*.pt")) / 1e9
    assert stats["current_size_gb"] < 0.75 * stored
    assert stats["compression_savings_gb"] > 0.25 * stored


def test_uncompressed_entries_are_as_large_as_what_they_hold(folder: Path) -> None:
    dataset = adapter(local(folder), compression_type="none", prefetch_ahead=0)
    for number in range(SAMPLES):
        dataset[number]
    tensors = SAMPLES * 4 * (16 * 2 * 8 * 8 + 8 * 64) / 1e9
    stats = dataset.get_cache_stats()
    assert stats["current_size_gb"] >= tensors
    assert stats["compression_savings_gb"] == 0


def test_metrics_begin_anew_and_what_is_kept_stays_until_it_is_cleared(folder: Path) -> None:
    dataset = adapter(local(folder), prefetch_ahead=0)
    for _ in range(2):
        for number in range(4):
            dataset[number]
    stats = dataset.get_cache_stats()
    assert (stats["num_items"], stats["total_hits"], stats["total_misses"]) == (8, 8, 8)
    assert stats["hit_rate"] == 0.5
    dataset.reset_metrics()
    stats = dataset.get_cache_stats()
    assert (stats["num_items"], stats["total_hits"], stats["total_misses"], stats["hit_rate"]) == (8, 0, 0, 0.0)
    dataset.clear_cache()
    assert dataset.get_cache_stats()["num_items"] == 0
    dataset[0]
    assert dataset.get_cache_stats()["total_misses"] == 2


def test_what_is_too_old_is_asked_for_again_and_counts_as_a_miss_when_it_was_replaced(
    folder: Path, fault_servers: Servers
) -> None:
    server = fault_servers(folder)
    sources = [remote(server, "latents"), remote(server, "conditions")]
    dataset = adapter(sources, max_ttl_seconds=0.0, on_changed="reload", prefetch_ahead=0)
    dataset[0]
    until(lambda: dataset.get_cache_stats()["num_items"] == 2, "both are kept")
    dataset.reset_metrics()
    torch.save(latent(100), folder / "new.pt")
    server.put("latents/latent_0000.pt", (folder / "new.pt").read_bytes())
    assert_same(dataset[0]["latent_conditions"], latent(100))
    stats = dataset.get_cache_stats()
    assert (stats["total_hits"], stats["total_misses"]) == (1, 1)
