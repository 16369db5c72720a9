"""Who waits for whose fetch: one fetch per key at a time, whichever loops and threads ask, and nobody waits for himself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fetching import Source, settled
from headwater.adapter import AsyncPrefetcher, SmartLRUCache
from waiting import until, within


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


def test_many_that_ask_for_one_key_at_once_cost_one_fetch_and_get_a_value_each(
    prefetcher: AsyncPrefetcher, source: Source
) -> None:
    source.held.clear()
    prefetcher.start()

    async def some() -> list[Any]:
        return await asyncio.gather(*(prefetcher.get("a") for _ in range(5)))

    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(asyncio.run, some()) for _ in range(4)]
        until(lambda: source.under_way, "the fetch")
        time.sleep(0.05)
        source.held.set()
        values = [value for future in futures for value in future.result()]
    assert source.asked == ["a"]
    assert len(values) == 20
    for value in values:
        assert value["x"][0] == 1
        value["x"].fill_(9)


def test_who_asks_for_what_is_being_fetched_ahead_waits_for_that(prefetcher: AsyncPrefetcher, source: Source) -> None:
    source.held.clear()
    prefetcher.start()
    prefetcher.queue_item("a")
    until(lambda: source.under_way, "the fetch")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(prefetcher.get_sync, "a")
        time.sleep(0.02)
        assert not future.done()
        source.held.set()
        assert future.result(30)["key"] == "a"
    assert source.asked == ["a"]


def test_who_asks_for_what_is_still_queued_does_not_wait_for_its_turn(prefetcher: AsyncPrefetcher, source: Source) -> None:
    for key in "abc":
        prefetcher.queue_item(key)
    assert prefetcher.get_sync("c")["key"] == "c"
    assert source.asked == ["c"]
    prefetcher.start()
    until(lambda: settled(prefetcher), "the queue")
    assert source.asked == ["c", "a", "b"]


def test_who_leaves_does_not_cancel_it_for_the_others(prefetcher: AsyncPrefetcher, source: Source) -> None:
    async def work() -> Any:
        source.held.clear()
        first = asyncio.create_task(prefetcher.get("a"))
        await asyncio.sleep(0.01)
        others = [asyncio.create_task(prefetcher.get("a")) for _ in range(3)]
        await asyncio.sleep(0.01)
        others[0].cancel()
        first.cancel()
        await asyncio.sleep(0.01)
        source.held.set()
        return await asyncio.gather(*others, return_exceptions=True)

    left, *values = asyncio.run(work())
    assert isinstance(left, asyncio.CancelledError)
    assert [value["key"] for value in values] == ["a", "a"]
    assert source.asked == ["a", "a"], "the first one left, another one fetched"


def test_it_goes_on_when_the_loop_it_was_started_in_is_gone(
    prefetcher: AsyncPrefetcher, cache: SmartLRUCache, source: Source
) -> None:
    async def start() -> None:
        prefetcher.start()
        prefetcher.queue_item("a")

    asyncio.run(start())
    until(lambda: "a" in cache, "a")
    prefetcher.queue_item("b")
    until(lambda: "b" in cache, "b")

    async def use() -> list[Any]:
        return [await prefetcher.get("a"), await prefetcher.get("c"), prefetcher.get_sync("d")]

    assert [value["key"] for value in asyncio.run(use())] == ["a", "c", "d"]


def test_it_fetches_while_the_training_loop_blocks_its_event_loop(prefetcher: AsyncPrefetcher, cache: SmartLRUCache) -> None:
    async def train() -> None:
        prefetcher.start()
        prefetcher.queue_item("a")
        until(lambda: "a" in cache, "a")

    asyncio.run(train())


def test_a_blocking_get_does_not_wait_for_a_fetch_of_the_loop_that_it_blocks(
    prefetcher: AsyncPrefetcher, source: Source
) -> None:
    async def work() -> list[Any]:
        source.held.clear()
        first = asyncio.create_task(prefetcher.get("a"))
        while not source.under_way:
            await asyncio.sleep(0)
        source.held.set()
        return [prefetcher.get_sync("a"), await first]

    assert [value["key"] for value in within(lambda: asyncio.run(work()))] == ["a", "a"]
    assert source.asked == ["a", "a"], "the loop could not go on with the first"


def test_a_blocking_get_in_a_running_loop_waits_for_what_is_being_fetched_ahead(
    prefetcher: AsyncPrefetcher, source: Source
) -> None:
    async def work() -> Any:
        source.held.clear()
        prefetcher.start()
        prefetcher.queue_item("a")
        until(lambda: source.under_way, "the fetch")
        threading.Timer(0.05, source.held.set).start()
        return prefetcher.get_sync("a")["key"]

    assert within(lambda: asyncio.run(work())) == "a"
    assert source.asked == ["a"]


def test_a_fetch_function_may_block_to_ask_for_what_is_being_fetched(cache: SmartLRUCache) -> None:
    is_asked = threading.Event()

    async def shared() -> str:
        while not is_asked.is_set():
            await asyncio.sleep(0.002)
        return "shared"

    def fetch(key: str) -> Any:
        if key == "shared":
            return shared()
        is_asked.set()
        return [key, prefetcher.get_sync("shared")]

    prefetcher = AsyncPrefetcher(cache, fetch)
    prefetcher.start()
    prefetcher.queue_item("shared")
    until(lambda: prefetcher.get_metrics().in_flight == 1, "the first fetch")
    prefetcher.queue_item("a")
    assert within(lambda: prefetcher.get_sync("a")) == ["a", "shared"]
    prefetcher.stop()


def test_loops_that_block_each_other_do_not_wait_for_each_other(prefetcher: AsyncPrefetcher, source: Source) -> None:
    both = threading.Barrier(2)

    async def work(mine: str, other: str) -> list[str]:
        first = asyncio.create_task(prefetcher.get(mine))
        while mine not in source.asked:
            await asyncio.sleep(0)
        both.wait(30)
        return [prefetcher.get_sync(other)["key"], (await first)["key"]]

    source.held.clear()
    found: dict[str, list[str]] = {}
    for keys in ("ab", "ba"):
        run = lambda keys=keys: found.setdefault(keys, asyncio.run(work(*keys)))  # noqa: E731
        threading.Thread(target=run, daemon=True).start()
    until(lambda: len(source.asked) == 4, "each fetches what the other is at")
    source.held.set()
    until(lambda: len(found) == 2, "both")
    assert found == {"ab": ["b", "a"], "ba": ["a", "b"]}


def test_what_somebody_waited_for_counts_as_no_prefetch_hit_later(
    prefetcher: AsyncPrefetcher, cache: SmartLRUCache, source: Source
) -> None:
    source.held.clear()
    prefetcher.start()
    prefetcher.queue_item("a")
    until(lambda: source.under_way, "the fetch")
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(prefetcher.get_sync, "a")
        until(lambda: cache.get_metrics().misses, "the miss")
        source.held.set()
        assert future.result(30)["key"] == "a"
    assert prefetcher.get_sync("a")["key"] == "a"
    metrics = cache.get_metrics()
    assert (metrics.hits, metrics.misses, metrics.prefetch_hits) == (1, 1, 0)
