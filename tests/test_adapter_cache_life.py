"""The cache of the older loader in several event loops, threads and processes."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from forks import in_child
from headwater.adapter import SmartLRUCache
from latents import latents, sample
from same import assert_same


def test_one_cache_serves_many_loops_and_threads_at_once() -> None:
    cache = SmartLRUCache(0.3)
    values = {str(number): sample(number) for number in range(6)}

    async def work(offset: int) -> None:
        async def one(number: int) -> None:
            key = str((number + offset) % 6)
            await cache.put(key, values[key])
            assert_latents(await cache.get(key), values[key])

        await asyncio.gather(*(one(number) for number in range(12)))

    def assert_latents(found: Any, value: Any) -> None:
        assert torch.equal(found["latents"], value["latents"])
        assert found["name"] == value["name"]

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(asyncio.run, work(offset)) for offset in range(4)]:
            future.result()
    for key, value in values.items():
        assert_latents(asyncio.run(cache.get(key)), value)


def test_blocking_forms_work_inside_a_running_loop() -> None:
    async def work() -> Any:
        cache = SmartLRUCache(0.1)
        cache.put_sync("k", sample())
        return cache.get_sync("k"), await cache.get("k")

    for found in asyncio.run(work()):
        assert_same(found, sample())


def test_the_loop_goes_on_while_a_large_value_is_put_and_got() -> None:
    async def work() -> None:
        cache = SmartLRUCache(1.0)
        large = torch.zeros(30_000_000)
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticking = asyncio.create_task(tick())
        await cache.put("k", large)
        assert ticks > 0
        ticks = 0
        assert (await cache.get("k")).numel() == 30_000_000
        assert ticks > 0
        ticking.cancel()

    asyncio.run(work())


def test_no_thread_is_left_behind_by_a_loop() -> None:
    cache = SmartLRUCache(0.1)

    async def work() -> None:
        await cache.put("k", sample())
        await cache.get("k")

    asyncio.run(work())
    before = threading.active_count()
    asyncio.run(work())
    assert threading.active_count() == before


def test_a_forked_child_has_an_empty_cache_of_its_own() -> None:
    # Small enough for torch to compute on one thread: its own do not survive a fork.
    small, large = latents(3, (10, 10)), latents()
    cache = SmartLRUCache(0.1)
    cache.put_sync("k", sample())
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            cache.put_sync("other", large)
            cache.get_sync("other")

    thread = threading.Thread(target=busy)
    thread.start()

    def work() -> None:
        assert cache.get_sync("k") is None
        cache.put_sync("k", small)
        cache.put_sync("l", large)
        assert_same(cache.get_sync("k"), small)
        assert cache.get_sync("l").shape == large.shape
        assert cache.get_cache_stats()["num_items"] == 2
        assert cache.get_metrics().hits == 2

    try:
        for _ in range(10):
            in_child(work)
    finally:
        stop.set()
        thread.join()
    assert_same(cache.get_sync("k"), sample())


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda cache: pickle.loads(pickle.dumps(cache))])
def test_a_pickled_cache_comes_up_empty_with_the_same_settings(duplicate: Callable[[SmartLRUCache], SmartLRUCache]) -> None:
    cache = SmartLRUCache(0.05, 60.0, "none", 4, policy="keep")
    cache.put_sync("k", 1)
    other = duplicate(cache)
    assert repr(other) == repr(cache)
    assert other.get_cache_stats()["max_size_gb"] == 0.05
    assert other.get_sync("k") is None
    assert cache.get_sync("k") == 1
