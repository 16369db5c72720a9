"""Code of a trainer that uses the adapter, as `mypy --strict` reads it. Checked by a test, never run."""

from __future__ import annotations

from typing import Any

from headwater.adapter import AsyncPrefetcher, SmartLRUCache


async def fetch(key: str) -> dict[str, Any]:
    """Stands for reading an object."""
    return {"key": key}


async def train() -> None:
    """Uses every method."""
    cache = SmartLRUCache(max_size_gb=4.0, max_ttl_seconds=3600.0, compression_type="zstd", prefetch_ahead=10)
    kept: bool = await cache.put("a", {"x": 1}, compress=False)
    value: Any = await cache.get("a", was_prefetched=True)
    fetched: dict[str, bool] = await cache.prefetch(["a", "b"], fetch)
    print(kept, value, fetched, cache.put_sync("b", 2), cache.get_sync("b"), cache.prefetch_sync(["c"], fetch))
    stats: dict[str, int | float] = cache.get_cache_stats()
    metrics = cache.get_metrics()
    rate: float = metrics.hit_rate
    saved: int = metrics.total_bytes_saved
    print(stats["hit_rate"] + rate, saved, metrics.hits + metrics.misses + metrics.evictions + metrics.prefetch_hits)
    metrics.reset()
    cache.reset_metrics()
    cache.clear()

    prefetcher = AsyncPrefetcher(cache, fetch, queue_size=10)
    prefetcher.start()
    queued: bool = prefetcher.queue_item("a")
    print(queued, await prefetcher.get("a"), prefetcher.get_sync("b"), prefetcher.get_metrics().dropped)
    prefetcher.stop()
