"""The prefetcher that trainers of the older loader use, by its names: what is queued is there when asked for."""

from __future__ import annotations

import asyncio
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fetching import Source, settled
from forks import in_child
from headwater.adapter import AsyncPrefetcher, SmartLRUCache
from headwater.errors import ConfigError
from waiting import until


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def cache() -> SmartLRUCache:
    return SmartLRUCache(0.2)


@pytest.fixture
def prefetcher(cache: SmartLRUCache, source: Source) -> Iterator[AsyncPrefetcher]:
    prefetcher = AsyncPrefetcher(cache, source, queue_size=10)
    yield prefetcher
    source.held.set()
    prefetcher.stop()


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("headwater-prefetcher")}


def test_what_is_queued_is_in_the_cache_when_asked_for(
    prefetcher: AsyncPrefetcher, cache: SmartLRUCache, source: Source
) -> None:
    prefetcher.start()
    keys = [str(number) for number in range(40)]
    for begin in range(0, 40, 10):
        assert all(prefetcher.queue_item(key) for key in keys[begin : begin + 10])
        until(lambda: settled(prefetcher), "the queue")
    values = [asyncio.run(prefetcher.get(key)) for key in keys]
    assert [value["key"] for value in values] == keys
    assert source.asked == keys, "in their order, and each once"
    metrics = cache.get_metrics()
    assert (metrics.hits, metrics.misses, metrics.prefetch_hits) == (40, 0, 40)
    assert prefetcher.get_metrics().fetched == 40
    assert prefetcher.get_metrics().fetched_on_demand == 0


def test_prefetch_hits_are_more_than_four_fifths_when_keys_are_queued_ahead_of_a_training_loop(cache: SmartLRUCache) -> None:
    async def fetch(key: str) -> torch.Tensor:
        await asyncio.sleep(0.001)
        return torch.zeros(1000)

    prefetcher = AsyncPrefetcher(cache, fetch, queue_size=16)
    keys = [str(number) for number in range(60)]
    prefetcher.start()
    for key in keys[:10]:
        prefetcher.queue_item(key)
    for at, key in enumerate(keys):
        for ahead in keys[at + 10 : at + 11]:
            prefetcher.queue_item(ahead)
        # The step, during which the loop, if there is one, is not running.
        until(lambda key=key: key in cache or prefetcher.get_metrics().waiting == 0, "a step")
        assert prefetcher.get_sync(key) is not None
    prefetcher.stop()
    metrics = cache.get_metrics()
    assert metrics.prefetch_hits > 0.8 * len(keys), metrics


def test_a_key_that_was_not_queued_is_fetched_when_asked_for_and_then_cached(
    prefetcher: AsyncPrefetcher, cache: SmartLRUCache, source: Source
) -> None:
    for get in (lambda: asyncio.run(prefetcher.get("a")), lambda: prefetcher.get_sync("a")):
        assert get()["key"] == "a"
    assert source.asked == ["a"]
    assert "a" in cache
    assert cache.get_metrics().prefetch_hits == 0
    prefetcher.start()
    assert prefetcher.get_sync("b")["key"] == "b"
    assert prefetcher.get_metrics().fetched_on_demand == 2


def test_a_cached_key_is_not_fetched_again(prefetcher: AsyncPrefetcher, cache: SmartLRUCache, source: Source) -> None:
    cache.put_sync("a", 1)
    prefetcher.start()
    prefetcher.queue_item("a")
    prefetcher.queue_item("b")
    until(lambda: "b" in cache and settled(prefetcher), "the queue")
    assert source.asked == ["b"]
    assert prefetcher.get_metrics().skipped == 1


def test_a_full_queue_drops_and_counts_and_never_waits(
    prefetcher: AsyncPrefetcher, cache: SmartLRUCache, source: Source
) -> None:
    taken = [prefetcher.queue_item(str(number)) for number in range(25)]
    assert taken == [True] * 10 + [False] * 15
    metrics = prefetcher.get_metrics()
    assert (metrics.queued, metrics.dropped, metrics.waiting) == (10, 15, 10)
    assert prefetcher.queue_item("3"), "it is queued already"
    assert prefetcher.get_metrics().queued == 10
    prefetcher.start()
    until(lambda: settled(prefetcher) and len(source.asked) == 10, "the queue")
    assert source.asked == [str(number) for number in range(10)], "first in, first out"
    assert all(str(number) in cache for number in range(10))


def test_only_so_many_are_fetched_at_once(prefetcher: AsyncPrefetcher, source: Source) -> None:
    source.held.clear()
    prefetcher.start()
    for number in range(10):
        prefetcher.queue_item(str(number))
    until(lambda: source.under_way == 4, "fetches")
    metrics = prefetcher.get_metrics()
    assert (metrics.in_flight, metrics.waiting) == (4, 6)
    assert source.asked == ["0", "1", "2", "3"]


def test_start_and_stop_may_be_called_again_and_leave_no_thread(
    prefetcher: AsyncPrefetcher, cache: SmartLRUCache, source: Source
) -> None:
    assert not threads()
    prefetcher.stop()
    for _ in range(3):
        prefetcher.start()
        prefetcher.start()
        assert prefetcher.is_running
        assert len(threads()) == 1
        prefetcher.queue_item("a")
        until(lambda: "a" in cache, "a")
        prefetcher.stop()
        prefetcher.stop()
        assert not prefetcher.is_running
        assert not threads()
    assert source.asked == ["a"]


def test_stopping_cancels_what_is_under_way_and_forgets_what_waits(prefetcher: AsyncPrefetcher, source: Source) -> None:
    source.held.clear()
    prefetcher.start()
    for number in range(10):
        prefetcher.queue_item(str(number))
    until(lambda: source.under_way == 4, "fetches")
    prefetcher.stop()
    assert source.under_way == 0
    assert settled(prefetcher)
    assert not threads()
    source.held.set()
    prefetcher.start()
    prefetcher.queue_item("more")
    until(lambda: "more" in source.asked, "more")


def test_code_that_awaits_start_and_stop_works_too(cache: SmartLRUCache, source: Source) -> None:
    async def work() -> Any:
        prefetcher = AsyncPrefetcher(cache, source)
        await prefetcher.start()
        prefetcher.queue_item("a")
        value = await prefetcher.get("a")
        await prefetcher.stop()
        return value["key"]

    assert asyncio.run(work()) == "a"


def test_a_prefetcher_that_is_let_go_ends_its_thread(cache: SmartLRUCache, source: Source) -> None:
    prefetcher = AsyncPrefetcher(cache, source)
    prefetcher.start()
    prefetcher.queue_item("a")
    until(lambda: "a" in cache, "a")
    assert threads()
    del prefetcher
    until(lambda: not threads(), "its end")


def test_a_forked_child_has_it_stopped_and_may_start_it(
    prefetcher: AsyncPrefetcher, cache: SmartLRUCache, source: Source
) -> None:
    source.held.clear()
    prefetcher.start()
    for number in range(10):
        prefetcher.queue_item(str(number))
    until(lambda: source.under_way, "fetches")

    def work() -> None:
        assert not prefetcher.is_running
        assert settled(prefetcher)
        source.held = threading.Event()
        source.held.set()
        prefetcher.start()
        prefetcher.queue_item("0")
        until(lambda: "0" in cache, "0")
        assert prefetcher.get_sync("1")["key"] == "1"
        prefetcher.stop()

    in_child(work)
    source.held.set()
    until(lambda: settled(prefetcher), "the parent's queue")
    assert all(str(number) in cache for number in range(10))


async def fetch_for_pickle(key: str) -> str:
    return key


def test_a_pickled_prefetcher_comes_up_stopped_and_empty(cache: SmartLRUCache) -> None:
    prefetcher = AsyncPrefetcher(cache, fetch_for_pickle, queue_size=2)
    prefetcher.queue_item("a")
    other = pickle.loads(pickle.dumps(prefetcher))
    assert not other.is_running
    assert other.get_metrics().waiting == 0
    assert [other.queue_item(key) for key in "abc"] == [True, True, False]
    assert other.get_sync("a") == "a"


def test_metrics_are_reset(prefetcher: AsyncPrefetcher) -> None:
    prefetcher.get_sync("a")
    prefetcher.queue_item("b")
    prefetcher.reset_metrics()
    metrics = prefetcher.get_metrics()
    assert (metrics.queued, metrics.fetched_on_demand, metrics.waiting) == (0, 0, 1)


@pytest.mark.parametrize("setting", ["queue_size", "concurrency"])
def test_a_wrong_setting_is_an_error_that_names_it(cache: SmartLRUCache, source: Source, setting: str) -> None:
    with pytest.raises(ConfigError, match=setting):
        AsyncPrefetcher(cache, source, **{setting: 0})


@pytest.mark.parametrize("key", [3, None, b"a"])
def test_what_is_no_key_is_refused_at_once(prefetcher: AsyncPrefetcher, key: Any) -> None:
    with pytest.raises(TypeError, match="keys are strings"):
        prefetcher.queue_item(key)
    assert prefetcher.get_metrics().queued == 0


def test_what_it_cannot_work_with_is_refused_at_once(cache: SmartLRUCache, source: Source) -> None:
    with pytest.raises(TypeError, match="a SmartLRUCache"):
        AsyncPrefetcher(None, source)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a function"):
        AsyncPrefetcher(cache, None)  # type: ignore[arg-type]
