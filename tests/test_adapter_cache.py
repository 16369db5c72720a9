"""The cache that trainers of the older loader use, by its names: counting, budget, age, policy, prefetch, settings."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cached import MB, Thing, latents, sample
from headwater.adapter import SmartLRUCache
from headwater.errors import ConfigError
from headwater.testing import ManualClock
from same import assert_same

# ---- counting


def test_stats_have_the_names_that_trainers_read_and_metrics_the_same_numbers() -> None:
    cache = SmartLRUCache(max_size_gb=0.1)
    cache.put_sync("a", sample())
    cache.get_sync("a")
    cache.get_sync("a", was_prefetched=True)
    cache.get_sync("b")
    stats = cache.get_cache_stats()
    assert list(stats) == [
        "num_items", "current_size_gb", "max_size_gb", "hit_rate", "total_hits", "total_misses", "total_evictions",
        "prefetch_hits", "compression_savings_gb",
    ]  # fmt: skip
    assert (stats["num_items"], stats["total_hits"], stats["total_misses"], stats["total_evictions"]) == (1, 2, 1, 0)
    assert (stats["prefetch_hits"], stats["max_size_gb"]) == (1, 0.1)
    assert stats["hit_rate"] == pytest.approx(2 / 3)
    metrics = cache.get_metrics()
    assert (metrics.hits, metrics.misses, metrics.evictions, metrics.prefetch_hits) == (2, 1, 0, 1)
    assert metrics.hit_rate == pytest.approx(2 / 3)
    assert metrics.total_bytes_saved == pytest.approx(stats["compression_savings_gb"] * 1e9)


def test_metrics_go_on_and_are_reset_by_either_name() -> None:
    cache = SmartLRUCache(0.1)
    metrics = cache.get_metrics()
    assert (metrics.hit_rate, metrics.hits) == (0.0, 0)
    for reset in (metrics.reset, cache.reset_metrics):
        cache.put_sync("a", sample())
        cache.get_sync("a")
        cache.get_sync("b")
        assert (metrics.hits, metrics.misses) == (1, 1)
        assert metrics.total_bytes_saved > 0
        reset()
        assert (metrics.hits, metrics.misses, metrics.total_bytes_saved, metrics.hit_rate) == (0, 0, 0, 0.0)
        assert cache.get_sync("a") is not None, "values stay"
        cache.reset_metrics()


def test_replace_remove_and_clear() -> None:
    cache = SmartLRUCache(0.1)
    cache.put_sync("a", sample(1))
    cache.put_sync("a", sample(2))
    assert len(cache) == 1
    assert_same(cache.get_sync("a"), sample(2))
    cache.put_sync("b", 3)
    assert cache.remove("a")
    assert not cache.remove("a")
    assert "a" not in cache
    assert "b" in cache
    cache.clear()
    stats = cache.get_cache_stats()
    assert (stats["num_items"], stats["current_size_gb"]) == (0, 0)
    assert cache.get_sync("b") is None


def test_code_that_awaits_what_is_no_coroutine_works_too() -> None:
    async def work() -> None:
        cache = SmartLRUCache(0.1)
        await cache.put("a", 1)
        await cache.clear()
        assert await cache.get("a") is None

    asyncio.run(work())


# ---- budget, compression


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
        caches = [SmartLRUCache(max_size_gb=987_654.0) for _ in range(3)]
    warnings = [record.getMessage() for record in caplog.records if "cache size" in record.getMessage()]
    assert len(warnings) == 1, warnings
    assert "988 TB" in warnings[0]
    assert all(cache.get_cache_stats()["max_size_gb"] < 987_654 / 2 for cache in caches)


# ---- age


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
    for forever in (None, float("inf")):
        clock = ManualClock()
        cache = SmartLRUCache(0.1, max_ttl_seconds=forever, clock=clock)
        cache.put_sync("a", 1)
        clock.advance(1e9)
        assert cache.get_sync("a") == 1


# ---- policy

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


# ---- prefetch


def test_prefetch_fetches_what_is_not_there_up_to_its_limit() -> None:
    cache = SmartLRUCache(0.1, prefetch_ahead=3)
    cache.put_sync("b", "old")
    asked: list[str] = []

    async def fetch(key: str) -> str:
        asked.append(key)
        await asyncio.sleep(0)
        return f"new {key}"

    results = asyncio.run(cache.prefetch(["a", "b", "a", "c", "d", "e"], fetch))
    assert results == {"a": True, "c": True, "d": True}
    assert asked == ["a", "c", "d"]
    assert [cache.get_sync(key) for key in "abcde"] == ["new a", "old", "new c", "new d", None]
    assert cache.get_metrics().prefetch_hits == 3, "the first use of each"
    assert [cache.get_sync(key) for key in "ac"] == ["new a", "new c"]
    assert cache.get_metrics().prefetch_hits == 3
    assert asyncio.run(cache.prefetch(["a", "b"], fetch)) == {}


def test_prefetch_takes_no_more_than_fits_and_nothing_of_it_gives_way_for_the_rest() -> None:
    value = torch.zeros(250_000)
    cache = SmartLRUCache(3.5 * value.nbytes / 1e9, compression_type="none", prefetch_ahead=10)
    asked: list[str] = []

    def fetch(key: str) -> torch.Tensor:
        asked.append(key)
        return value

    results = cache.prefetch_sync([str(number) for number in range(10)], fetch)
    assert sum(results.values()) == 3
    assert all((key in cache) == is_there for key, is_there in results.items())
    assert cache.get_metrics().evictions == 0
    assert len(asked) < 10, "what will not fit is not fetched"


def test_a_fetch_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    cache = SmartLRUCache(0.1)

    async def fetch(key: str) -> Any:
        if key == "bad":
            raise OSError("gone")
        return Thing() if key == "odd" else key

    with caplog.at_level(logging.WARNING, "headwater"):
        results = asyncio.run(cache.prefetch(["a", "bad", "odd", "b"], fetch))
    assert results == {"a": True, "bad": False, "odd": False, "b": True}
    assert sorted(record.getMessage() for record in caplog.records) == [
        "cannot prefetch `bad`: OSError: gone",
        "cannot prefetch `odd`: TypeError: cannot keep a `Thing`",
    ]


def test_prefetch_works_inside_a_running_loop_without_awaiting() -> None:
    cache = SmartLRUCache(0.1)

    async def fetch(key: str) -> str:
        await asyncio.sleep(0.001)
        return key

    async def work() -> dict[str, bool]:
        return cache.prefetch_sync(["a", "b"], fetch)

    assert asyncio.run(work()) == {"a": True, "b": True}


# ---- settings


def test_the_defaults_are_those_of_the_older_loader() -> None:
    cache = SmartLRUCache()
    assert repr(cache) == (
        "SmartLRUCache(max_size_gb=100.0, max_ttl_seconds=3600.0, compression_type='zstd', prefetch_ahead=10, "
        "policy='lru', framework=None)"
    )


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("compression_type", "lz4", "'zstd', 'auto', 'none'"),
        ("policy", "fifo", "'lru', 'keep', 'auto'"),
        ("max_size_gb", -1, "max_size_gb"),
        ("max_size_gb", float("nan"), "max_size_gb"),
        ("max_size_gb", "8GB", "max_size_gb"),
        ("max_ttl_seconds", -1, "max_ttl_seconds"),
        ("prefetch_ahead", -1, "prefetch_ahead"),
        ("framework", "jax", "'torch' and 'numpy'"),
    ],
)
def test_a_wrong_setting_is_an_error_that_names_it(setting: str, value: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SmartLRUCache(**{setting: value})


def test_the_adapter_is_imported_without_torch() -> None:
    code = "import sys, headwater.adapter; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)


def test_code_of_a_trainer_passes_mypy_strict() -> None:
    file = Path(__file__).parent / "types" / "adapter.py"
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", "pyproject.toml", str(file)],
        check=False, capture_output=True, text=True, cwd=file.parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
