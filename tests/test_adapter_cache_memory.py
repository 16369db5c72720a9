"""What the cache of the older loader holds, how large it is, how long it stays and what gives way."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headwater.adapter import SmartLRUCache
from headwater.testing import ManualClock
from latents import latents

MB = 1e-3


def test_compressed_entries_are_what_is_held() -> None:
    raw, packed = SmartLRUCache(0.1, compression_type="none"), SmartLRUCache(0.1, compression_type="zstd")
    for cache in (raw, packed):
        for number in range(8):
            cache.put_sync(str(number), latents(number))
    plain, held = raw.get_cache_stats(), packed.get_cache_stats()
    bytes_of_all = 8 * latents().nbytes
    assert bytes_of_all <= plain["current_size_gb"] * 1e9 < 1.1 * bytes_of_all
    assert held["current_size_gb"] * 1e9 < bytes_of_all / 2.3
    assert held["compression_savings_gb"] == pytest.approx(plain["current_size_gb"] - held["current_size_gb"], rel=0.01)
    assert plain["compression_savings_gb"] == 0
    packed.put_sync("0", latents(0), compress=False)
    assert packed.get_cache_stats()["current_size_gb"] > held["current_size_gb"] + 0.5 * latents().nbytes / 1e9


def test_more_fits_when_it_is_compressed() -> None:
    kept = {}
    for compression in ("none", "zstd"):
        cache = SmartLRUCache(10 * latents().nbytes / 1e9, compression_type=compression)
        for number in range(40):
            cache.put_sync(str(number), latents(number))
        kept[compression] = len(cache)
    assert kept["zstd"] > 2 * kept["none"], kept


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_memory_stays_below_the_budget_at_any_time_under_threads(compression: Any) -> None:
    budget = 8 * latents().nbytes
    cache = SmartLRUCache(budget / 1e9, compression_type=compression)
    values = [latents(seed, (16 + 28 * seed, 5, 32, 32)) for seed in range(5)]
    done, most = threading.Event(), 0

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, cache.get_cache_stats()["current_size_gb"] * 1e9)

    def work(thread: int) -> None:
        for round_ in range(40):
            number = (round_ * 3 + thread) % 15
            if round_ % 2:
                asyncio.run(cache.put(str(number), values[number % 5]))
            else:
                cache.put_sync(str(number), values[number % 5])
            found = cache.get_sync(str((number + 1) % 15))
            assert found is None or torch.equal(found, values[(number + 1) % 15 % 5])

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    done.set()
    watcher.join()
    assert 0 < most <= budget
    cache.clear()
    assert cache.get_cache_stats()["current_size_gb"] == 0


def test_a_value_larger_than_the_budget_is_declined_and_nothing_else_gives_way() -> None:
    cache = SmartLRUCache(1 * MB, compression_type="none")
    assert cache.put_sync("small", 1)
    assert not cache.put_sync("large", torch.zeros(1_000_000))
    assert cache.get_sync("large") is None
    assert cache.get_sync("small") == 1
    assert cache.get_metrics().declined == 1


def test_an_empty_budget_keeps_nothing() -> None:
    cache = SmartLRUCache(0)
    assert not cache.put_sync("a", 1)
    assert cache.get_cache_stats()["num_items"] == 0


def test_a_budget_beyond_the_memory_there_is_is_clamped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "headwater"):
        caches = [SmartLRUCache(max_size_gb=size) for size in (987_654.0, 987_654.0, 1e30, float("inf"))]
    warnings = [record.getMessage() for record in caplog.records if "cache size" in record.getMessage()]
    assert len([warning for warning in warnings if "988 TB" in warning]) == 1, warnings
    assert len(warnings) == 2, "and one of what is larger than any memory"
    assert all(cache.get_cache_stats()["max_size_gb"] < 987_654 / 2 for cache in caches)


def test_a_value_is_used_until_its_time_is_over_and_no_longer() -> None:
    clock = ManualClock()
    cache = SmartLRUCache(0.1, max_ttl_seconds=10.0, clock=clock)
    cache.put_sync("a", 1)
    clock.advance(9.999)
    assert cache.get_sync("a") == 1, "being asked for does not renew it"
    cache.put_sync("b", 2)
    clock.advance(0.001)
    assert cache.get_sync("a") is None
    assert "b" in cache
    assert cache.get_metrics().expirations == 1
    cache.put_sync("a", 3)
    clock.advance(9.999)
    assert cache.get_sync("a") == 3, "put anew, it lives anew"
    stats = cache.get_cache_stats()
    assert stats["num_items"] == 1, "what is too old is not held"
    assert stats["total_evictions"] == 0


def test_without_a_time_nothing_gets_too_old() -> None:
    for forever in (None, float("inf"), 1e300):
        clock = ManualClock()
        cache = SmartLRUCache(0.1, max_ttl_seconds=forever, clock=clock)
        cache.put_sync("a", 1)
        clock.advance(1e9)
        assert cache.get_sync("a") == 1


_PAGES = st.integers(1, 3)
_OPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), _PAGES),
        st.tuples(st.just("get"), st.integers(0, 9), _PAGES),
        st.tuples(st.just("remove"), st.integers(0, 9), _PAGES),
        st.tuples(st.just("clear"), st.integers(0, 9), _PAGES),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(_OPS)
def test_the_least_recently_used_gives_way_as_in_a_reference_model(ops: list[tuple[str, int, int]]) -> None:
    # Values of one to three pages of memory: a page, and what the tree beside it takes.
    page, tree = 4096, 96
    capacity = 10 * page + 1000
    cache = SmartLRUCache(capacity / 1e9, compression_type="none")
    model: OrderedDict[int, int] = OrderedDict()
    evictions = 0
    for op, key, pages in ops:
        if op == "put":
            cache.put_sync(str(key), torch.zeros(pages * page, dtype=torch.uint8))
            model.pop(key, None)
            while sum(model.values()) + pages * page + tree > capacity:
                model.popitem(last=False)
                evictions += 1
            model[key] = pages * page + tree
        elif op == "get":
            found = cache.get_sync(str(key))
            assert (found is not None) == (key in model)
            if key in model:
                model.move_to_end(key)
                assert found.numel() == model[key] - tree
        elif op == "remove":
            assert cache.remove(str(key)) == (model.pop(key, None) is not None)
        elif key == 0:
            cache.clear()
            model.clear()
        assert {key for key in range(10) if str(key) in cache} == set(model)
    stats = cache.get_cache_stats()
    assert stats["total_evictions"] == evictions
    assert round(stats["current_size_gb"] * 1e9) == sum(model.values())


def test_keep_declines_newcomers() -> None:
    cache = SmartLRUCache(2 * 4200 / 1e9, compression_type="none", policy="keep")
    assert cache.put_sync("a", torch.zeros(1000))
    assert cache.put_sync("b", torch.zeros(1000))
    assert not cache.put_sync("c", torch.zeros(1000))
    assert "a" in cache
    assert cache.put_sync("a", torch.ones(1000)), "what is there may be replaced"
