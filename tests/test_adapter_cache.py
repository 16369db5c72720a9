"""The cache that trainers of the older loader use, by its names: counting, prefetching, settings."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from headwater.adapter import SmartLRUCache
from headwater.errors import ConfigError
from latents import sample
from same import assert_same


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
        return object() if key == "odd" else key

    with caplog.at_level(logging.WARNING, "headwater"):
        results = asyncio.run(cache.prefetch(["a", "bad", "odd", "b"], fetch))
    assert results == {"a": True, "bad": False, "odd": False, "b": True}
    assert sorted(record.getMessage() for record in caplog.records) == [
        "cannot prefetch `bad`: OSError: gone",
        "cannot prefetch `odd`: TypeError: cannot keep a `object`",
    ]


def test_a_cancellation_that_nobody_wished_is_a_failure_as_others_are() -> None:
    async def fetch(key: str) -> str:
        if key == "bad":
            raise asyncio.CancelledError
        return key

    cache = SmartLRUCache(0.1)
    assert cache.prefetch_sync(["a", "bad", "b"], fetch) == {"a": True, "bad": False, "b": True}


def test_a_prefetch_that_is_cancelled_ends() -> None:
    async def work() -> None:
        cache, began, ended = SmartLRUCache(0.1), asyncio.Event(), asyncio.Event()

        async def fetch(_: str) -> str:
            began.set()
            try:
                await asyncio.sleep(3600)
            finally:
                ended.set()
            return ""

        waiting = asyncio.create_task(cache.prefetch(["a"], fetch))
        await began.wait()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert ended.is_set()
        assert "a" not in cache

    asyncio.run(work())


def test_a_single_key_is_no_list_of_keys() -> None:
    asked: list[str] = []
    with pytest.raises(TypeError, match="a list of keys"):
        SmartLRUCache(0.1).prefetch_sync("abc", asked.append)
    assert not asked


def test_prefetch_works_inside_a_running_loop_without_awaiting() -> None:
    cache = SmartLRUCache(0.1)

    async def fetch(key: str) -> str:
        await asyncio.sleep(0.001)
        return key

    async def work() -> dict[str, bool]:
        return cache.prefetch_sync(["a", "b"], fetch)

    assert asyncio.run(work()) == {"a": True, "b": True}


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
        ("prefetch_ahead", 2.5, "prefetch_ahead"),
        ("max_size_gb", True, "max_size_gb"),
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
