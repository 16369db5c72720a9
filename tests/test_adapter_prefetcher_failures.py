"""Fetches that fail, and values that the cache declines."""

from __future__ import annotations

import asyncio
import gc
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fetching import Source, settled
from headwater.adapter import AsyncPrefetcher, SmartLRUCache
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


def test_a_failing_fetch_is_counted_logged_once_raised_where_it_is_asked_for_and_stops_no_other(
    prefetcher: AsyncPrefetcher, cache: SmartLRUCache, source: Source, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "headwater"):
        prefetcher.start()
        for _ in range(2):
            for key in ("bad 1", "odd", "good"):
                prefetcher.queue_item(key)
            until(lambda: settled(prefetcher), "the queue")
    assert sorted(record.getMessage() for record in caplog.records) == [
        "cannot prefetch `bad 1`: OSError: bad 1 is gone",
        "cannot prefetch `odd`: TypeError: cannot keep a `object`",
    ]
    assert prefetcher.get_metrics().failed == 4
    assert "good" in cache
    assert prefetcher.is_running
    asked = len(source.asked)
    with pytest.raises(OSError, match="bad 1 is gone"):
        asyncio.run(prefetcher.get("bad 1"))
    with pytest.raises(TypeError, match="cannot keep"):
        prefetcher.get_sync("odd")
    assert len(source.asked) == asked, "what it failed with was known"
    with pytest.raises(OSError, match="bad 1 is gone"):
        prefetcher.get_sync("bad 1")
    assert len(source.asked) == asked + 1, "the next call tries again"


def test_a_fetch_that_recovers_is_used(cache: SmartLRUCache) -> None:
    fails = True

    def fetch(key: str) -> str:
        if fails:
            raise OSError("for now")
        return key

    prefetcher = AsyncPrefetcher(cache, fetch)
    with pytest.raises(OSError, match="for now"):
        prefetcher.get_sync("a")
    fails = False
    assert prefetcher.get_sync("a") == "a"


def test_values_of_a_declining_cache_are_still_the_callers_own(source: Source) -> None:
    prefetcher = AsyncPrefetcher(SmartLRUCache(0), source)
    assert prefetcher.get_sync("a")["key"] == "a"
    assert asyncio.run(prefetcher.get("a"))["key"] == "a"
    assert source.asked == ["a", "a"]


@pytest.mark.parametrize("raised", [asyncio.CancelledError, SystemExit, KeyboardInterrupt])
def test_whatever_a_fetch_raises_the_others_go_on_and_it_is_told(
    cache: SmartLRUCache, raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    async def fetch(key: str) -> str:
        if key == "bad":
            raise raised
        return key

    prefetcher = AsyncPrefetcher(cache, fetch, concurrency=1)
    prefetcher.start()
    with caplog.at_level(logging.WARNING, "headwater"):
        for key in ("bad", "good"):
            prefetcher.queue_item(key)
        until(lambda: "good" in cache, "the next one")
    assert prefetcher.get_metrics().failed == 1
    assert f"cannot prefetch `bad`: RuntimeError: fetch_fn raised {raised.__name__}" in caplog.text
    with pytest.raises(RuntimeError, match=raised.__name__):
        prefetcher.get_sync("bad")
    prefetcher.stop()


def test_a_failure_that_nobody_asked_for_yet_holds_nothing_that_the_fetch_did(cache: SmartLRUCache) -> None:
    bodies: list[weakref.ref[torch.Tensor]] = []

    async def fetch(key: str) -> Any:
        body = torch.zeros(1000)
        bodies.append(weakref.ref(body))
        try:
            raise OSError("half of it")
        except OSError as error:
            raise ValueError(f"cannot read {key}") from error

    prefetcher = AsyncPrefetcher(cache, fetch)
    prefetcher.start()
    prefetcher.queue_item("a")
    until(lambda: settled(prefetcher) and prefetcher.get_metrics().failed == 1, "the failure")
    gc.collect()
    assert [body() for body in bodies] == [None]
    with pytest.raises(ValueError, match="cannot read a") as error:
        prefetcher.get_sync("a")
    assert "half of it" in repr(error.value.__cause__)
    note = "".join(error.value.__notes__)
    assert 'raise OSError("half of it")' in note
    assert len(bodies) == 1
    prefetcher.stop()


def test_what_is_fetched_ahead_in_vain_is_counted(source: Source) -> None:
    prefetcher = AsyncPrefetcher(SmartLRUCache(0), source)
    prefetcher.start()
    prefetcher.queue_item("a")
    until(lambda: settled(prefetcher) and source.asked, "the fetch")
    metrics = prefetcher.get_metrics()
    assert (metrics.fetched, metrics.declined) == (1, 1)
    prefetcher.stop()
