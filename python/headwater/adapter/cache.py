"""A cache of values by key."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

from headwater._headwater import Candidate, KeyedCache, ManualClock
from headwater.adapter.config import GB, memory_of, ttl_of, whole
from headwater.adapter.loops import Done, FetchFunction, fetched, off_loop, run_sync
from headwater.config import as_json
from headwater.errors import ConfigError
from headwater.frameworks import FrameworkName, describe_view, framework_of

logger = logging.getLogger("headwater")

CompressionType: TypeAlias = Literal["zstd", "auto", "none"]
Policy: TypeAlias = Literal["lru", "keep", "auto"]

# Less is copied faster than another thread is woken.
_AT_ONCE_BYTES = 256 << 10
# Values that `prefetch` fetches at the same time.
_FETCHES_AT_ONCE = 4


class CacheMetrics:
    """What happened in a cache since its counters were reset, always up to date."""

    def __init__(self, core: KeyedCache) -> None:
        self._core = core

    @property
    def hits(self) -> int:
        """Values that were there when asked for."""
        return self._core.counters()["hits"]

    @property
    def misses(self) -> int:
        """Those that were not, or were too old."""
        return self._core.counters()["misses"]

    @property
    def evictions(self) -> int:
        """Values given up for others."""
        return self._core.counters()["evictions"]

    @property
    def declined(self) -> int:
        """Values that were not let in."""
        return self._core.counters()["declined"]

    @property
    def expirations(self) -> int:
        """Values that were there for too long."""
        return self._core.stats(False)["expired"]

    @property
    def prefetch_hits(self) -> int:
        """Hits on what was fetched ahead of its use."""
        return self._core.counters()["prefetch_hits"]

    @property
    def total_bytes_saved(self) -> int:
        """Bytes by which compression made values smaller."""
        return self._core.stats(True)["saved_bytes"]

    @property
    def hit_rate(self) -> float:
        """Hits of all that was asked for; 0 when nothing was."""
        return _hit_rate(self._core.counters())

    def reset(self) -> None:
        """Sets all of them to zero."""
        self._core.reset_counters()

    def __repr__(self) -> str:
        return f"CacheMetrics({', '.join(f'{name}={number}' for name, number in self._core.counters().items())})"


class SmartLRUCache:
    """Values by key within a budget of memory; the least recently used one gives way.

    Values are what :func:`headwater.save` takes: dicts, lists and tuples of tensors, numbers, strings, bytes and ``None``,
    nested as they may be. A copy is kept, and every ``get`` returns another one, with the same dtypes, shapes and strides
    (dense ones; tensors whose strides skip memory come back contiguous), so that nobody sees the cache's memory. Compressed
    values are held compressed, lossless, and only what they then take is counted.

    Any number of threads and event loops may use one cache. A forked process finds it empty, and so does whoever unpickles
    it: its settings go along, its values do not.

    Args:
        max_size_gb: budget in GB (1e9 bytes). More than this process may use of the memory there is (machine, control groups,
            shared by the ranks of the machine) is not granted, with one warning in the log.
        max_ttl_seconds: how long a value is used after it was put in; ``None`` for ever.
        compression_type: ``"zstd"`` (or ``"auto"``): tensors that shrink by a quarter at least are kept compressed; ``"none"``.
        prefetch_ahead: keys that one call of :meth:`prefetch` fetches at most.
        policy: what gives way when the budget is used up: ``"lru"``, the least recently used value, or ``"keep"``, nothing:
            newcomers are declined, which is better for epochs over more data than fits. ``"auto"`` is ``"lru"`` here.
        framework: ``"torch"`` or ``"numpy"``, of which tensors are; by default torch where it is installed.
        clock: tells the age of values, for tests: :class:`headwater.testing.ManualClock`.

    Raises:
        ConfigError: a setting is wrong; the message names it.

    """

    def __init__(
        self,
        max_size_gb: float = 100.0,
        max_ttl_seconds: float | None = 3600.0,
        compression_type: CompressionType = "zstd",
        prefetch_ahead: int = 10,
        *,
        policy: Policy = "lru",
        framework: FrameworkName | None = None,
        clock: ManualClock | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "max_size_gb": max_size_gb,
            "max_ttl_seconds": ttl_of("max_ttl_seconds", max_ttl_seconds),
            "compression_type": _one_of("compression_type", compression_type, ("zstd", "auto", "none")),
            "prefetch_ahead": whole("prefetch_ahead", prefetch_ahead),
            "policy": _one_of("policy", policy, ("lru", "keep", "auto")),
            "framework": framework,
        }
        name, objects = framework_of(framework)
        config = {
            "memory": memory_of("max_size_gb", max_size_gb),
            "compression": compression_type,
            "policy": policy,
            "ttl": self._settings["max_ttl_seconds"],
        }
        self._core = KeyedCache(as_json({name: value for name, value in config.items() if value is not None}), objects, clock)
        self._describe = describe_view(name)

    async def get(self, key: str, was_prefetched: bool = False) -> Any:
        """The value of a key, which is the caller's own; ``None`` when there is none or it is too old.

        A hit makes it the most recently used. With ``was_prefetched`` a hit counts as one on what was fetched ahead, as the
        first hit on what :meth:`prefetch` put in does by itself.
        """
        found = self._core.get(key, was_prefetched)
        if found is None:
            return None
        return found.value() if found.tensor_bytes <= _AT_ONCE_BYTES else await off_loop(found.value)

    async def _get_awaited(self, key: str) -> Any:
        """The value for whoever waited for it: the miss was counted, and it was not there ahead of its use."""
        found = self._core.get_awaited(key)
        return None if found is None else await off_loop(found.value)

    def get_sync(self, key: str, was_prefetched: bool = False) -> Any:
        """Does what :meth:`get` does, on this thread."""
        found = self._core.get(key, was_prefetched)
        return None if found is None else found.value()

    async def put(self, key: str, data: Any, compress: bool = True) -> bool:
        """Puts a copy of a value in, in the place of what was there. It is found from then on; compressing goes on behind.

        Args:
            key: its name.
            data: the value; nobody may write to its tensors until this is done.
            compress: ``False`` keeps this one as it is.

        Returns:
            Whether it was let in: not when it is larger than the budget, or nothing may give way for it. Nothing is there then.

        Raises:
            TypeError: it has something in it that is not kept, such as an object of a class or a tensor on another device; or
                is ``None``, which is what :meth:`get` says of a miss. What was there stays.

        """
        return await self._put(key, self._candidate(data), compress, is_prefetched=False)

    def put_sync(self, key: str, data: Any, compress: bool = True) -> bool:
        """Does what :meth:`put` does, on this thread."""
        return self._core.put(key, self._candidate(data), compress, False)

    async def prefetch(self, keys: Iterable[str], fetch_fn: FetchFunction) -> dict[str, bool]:
        """Fetches values that are not there and puts them in.

        At most ``prefetch_ahead`` keys, the first ones that are not there; no more than fit into the budget together, so that
        none gives way for another. ``fetch_fn(key)`` returns the value or awaits it; a few are under way at once. One that
        fails is logged and does not stop the others.

        Returns:
            For each key that was to be fetched, whether its value is there now.

        Raises:
            TypeError: a key is no string, or they are no list of keys.

        """
        if isinstance(keys, str | bytes):
            raise TypeError("cannot prefetch a single key: give a list of keys")
        wanted = [key for key in dict.fromkeys(keys) if not self._core.contains(key)][: self._settings["prefetch_ahead"]]
        return await _Prefetch(self, fetch_fn, wanted).run()

    def prefetch_sync(self, keys: Iterable[str], fetch_fn: FetchFunction) -> dict[str, bool]:
        """Does what :meth:`prefetch` does and waits for it, also inside a running event loop."""
        return run_sync(self.prefetch(keys, fetch_fn))

    def remove(self, key: str) -> bool:
        """Removes a value; returns whether there was one."""
        return self._core.remove(key)

    def clear(self) -> Done:
        """Removes all values. Counters stay."""
        self._core.clear()
        return Done()

    def get_metrics(self) -> CacheMetrics:
        """What happened so far: counters that go on, with ``reset()``."""
        return CacheMetrics(self._core)

    def reset_metrics(self) -> None:
        """Sets the counters to zero; values stay."""
        self._core.reset_counters()

    def get_cache_stats(self) -> dict[str, int | float]:
        """What is held and what happened, in items and GB (1e9 bytes).

        ``current_size_gb`` is the memory that values take as they are kept, and what is on its way in; it never exceeds
        ``max_size_gb``, the budget that was granted. What has just been put in is compressed first, for which this waits a
        moment. ``compression_savings_gb`` is by how much compression made values smaller since counters were reset.
        """
        stats = self._core.stats(True)
        return {
            "num_items": stats["entries"],
            "current_size_gb": stats["bytes"] / GB,
            "max_size_gb": stats["capacity"] / GB,
            "hit_rate": _hit_rate(stats),
            "total_hits": stats["hits"],
            "total_misses": stats["misses"],
            "total_evictions": stats["evictions"],
            "prefetch_hits": stats["prefetch_hits"],
            "compression_savings_gb": stats["saved_bytes"] / GB,
        }

    def __contains__(self, key: str) -> bool:
        return self._core.contains(key)

    def __len__(self) -> int:
        return self._core.stats(False)["entries"]

    def __repr__(self) -> str:
        return f"SmartLRUCache({', '.join(f'{name}={value!r}' for name, value in self._settings.items())})"

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(SmartLRUCache, **self._settings), ()

    def _candidate(self, data: Any) -> Candidate:
        if data is None:
            raise TypeError("cannot keep `None`: it is what get() returns when there is no value")
        return Candidate(data, self._describe)

    async def _put(self, key: str, candidate: Candidate, compress: bool, is_prefetched: bool) -> bool:
        put = functools.partial(self._core.put, key, candidate, compress, is_prefetched)
        return put() if candidate.tensor_bytes <= _AT_ONCE_BYTES else await off_loop(put)


class _Prefetch:
    """One call of `prefetch`: a few workers that share the keys and what is left of the budget."""

    def __init__(self, cache: SmartLRUCache, fetch_fn: FetchFunction, keys: list[str]) -> None:
        self._cache = cache
        self._fetch_fn = fetch_fn
        self._results = dict.fromkeys(keys, False)
        self._next = iter(keys)
        self._room = cache._core.capacity
        # Nobody knows how large a value is before it is there: as large as the largest so far.
        self._largest = 0

    async def run(self) -> dict[str, bool]:
        await asyncio.gather(*(self._work() for _ in range(min(_FETCHES_AT_ONCE, len(self._results)))))
        return {key: is_in and key in self._cache for key, is_in in self._results.items()}

    async def _work(self) -> None:
        for key in self._next:
            if self._largest > self._room:
                return
            try:
                candidate = self._cache._candidate(await fetched(self._fetch_fn, key))
                self._largest = max(self._largest, candidate.memory)
                if candidate.memory <= self._room:
                    self._room -= candidate.memory
                    self._results[key] = await self._cache._put(key, candidate, True, is_prefetched=True)
            except Exception as error:
                logger.warning("cannot prefetch `%s`: %s: %s", key, type(error).__name__, error)


def _hit_rate(stats: dict[str, int]) -> float:
    return stats["hits"] / max(stats["hits"] + stats["misses"], 1)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ConfigError(f"cannot use `{name}`: {value!r} is none of {', '.join(map(repr, known))}")
    return value
