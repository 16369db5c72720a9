"""Values fetched by a function of the user's ahead of their use."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import threading
import traceback
import weakref
from collections import Counter
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from headwater.adapter.cache import SmartLRUCache
from headwater.adapter.config import whole
from headwater.adapter.loops import Done, FetchFunction, fetched, is_in_loop, run_sync

logger = logging.getLogger("headwater")

# How long `stop` waits for functions that do not let themselves be cancelled. Such a thread is left to its fate.
_PATIENCE_SECONDS = 5.0
# Failures that nobody asked for yet: the oldest are forgotten.
_MOST_FAILURES = 1024

# Whose fetch of a key may be waited for: anybody's; those that go on while a loop of the user's stands still, which a call that
# blocks one waits for; or nobody's, where a fetch blocks the loop that it is called in. So nobody waits for himself.
_ANYBODYS, _GOING_ON, _NOBODYS = range(3)
_may_wait_for: ContextVar[int] = ContextVar("headwater_may_wait_for", default=_ANYBODYS)


@dataclass(frozen=True)
class PrefetchMetrics:
    """What a prefetcher did so far, and what is left to do.

    Args:
        queued: keys that were taken into the queue.
        dropped: those that were not, because it was full.
        fetched: values that were fetched ahead of their use.
        declined: those of them that the cache did not let in.
        skipped: keys that were cached, or being fetched, when their turn came.
        fetched_on_demand: values that were asked for before they were there, and fetched then.
        failed: fetches that failed.
        waiting: keys in the queue now.
        in_flight: fetches under way now.

    """

    queued: int
    dropped: int
    fetched: int
    declined: int
    skipped: int
    fetched_on_demand: int
    failed: int
    waiting: int
    in_flight: int


class AsyncPrefetcher:
    """Fetches queued keys into a cache, in their order, on a thread with an event loop of its own.

    So it goes on whatever the training loop does, and whichever event loop, if any, is running where it is started or asked.
    ``fetch_fn`` is called in that loop for what was queued, and in the asking loop for what :meth:`get` finds missing: what
    is bound to one loop, such as a session of an HTTP client, has to be made in each.

    It pickles with its cache's settings and comes up stopped and empty; so it does in a forked process.

    Args:
        cache: where values go.
        fetch_fn: gives the value of a key, or a coroutine of it.
        queue_size: keys that may wait; what comes when so many do is dropped and counted.
        concurrency: queued keys that are fetched at once. They are begun in order.

    """

    def __init__(self, cache: SmartLRUCache, fetch_fn: FetchFunction, queue_size: int = 10, *, concurrency: int = 4) -> None:
        if not isinstance(cache, SmartLRUCache):
            raise TypeError(f"cannot use a `{type(cache).__name__}` as cache: give a SmartLRUCache")
        if not callable(fetch_fn):
            raise TypeError(f"cannot use a `{type(fetch_fn).__name__}` as fetch_fn: give a function of a key")
        self._settings: dict[str, Any] = {
            "queue_size": whole("queue_size", queue_size, least=1),
            "concurrency": whole("concurrency", concurrency, least=1),
        }
        self._queue = _Queue(cache, fetch_fn, self._settings["queue_size"])
        self._worker: _Worker | None = None
        _prefetchers.add(self)

    def start(self) -> Done:
        """Begins to fetch what is queued; does nothing when it has begun."""
        with self._queue.lock:
            if self._worker is None:
                self._worker = _Worker(self._queue, self._settings["concurrency"])
                self._end = weakref.finalize(self, self._worker.end)
        return Done()

    def stop(self) -> Done:
        """Cancels what is under way, forgets what is queued, and ends the thread; does nothing when it has ended."""
        with self._queue.lock:
            worker, self._worker = self._worker, None
            self._queue.waiting.clear()
        if worker is not None:
            self._end.detach()
            worker.end()
            worker.join()
        return Done()

    @property
    def is_running(self) -> bool:
        """Whether queued keys are being fetched."""
        return self._worker is not None

    def queue_item(self, key: str) -> bool:
        """Has a key fetched; never waits. One that is queued already keeps its place.

        Returns:
            Whether the queue has it: not when it is full.

        Raises:
            TypeError: it is no string.

        """
        if not isinstance(key, str):
            raise TypeError(f"cannot fetch a `{type(key).__name__}`: keys are strings")
        is_in = self._queue.push(key)
        worker = self._worker
        if is_in and worker is not None:
            worker.wake()
        return is_in

    async def get(self, key: str) -> Any:
        """The value of a key: from the cache, from the fetch that is under way, or fetched now. It is the caller's own.

        Raises:
            Exception: whatever ``fetch_fn`` raised for it, also when that was ahead of this call; the next call tries again.
            TypeError: what it returned is not kept by the cache.

        """
        may_wait_for = _may_wait_for.get()
        return await self._get(key, may_wait_for, goes_on=may_wait_for != _ANYBODYS)

    def get_sync(self, key: str) -> Any:
        """Does what :meth:`get` does and waits for it, also inside a running event loop.

        There it does not wait for a fetch that a coroutine of that loop, or of another, is at: it fetches the value itself.
        """
        value = self._queue.cache.get_sync(key) if key in self._queue.cache else None
        if value is not None:
            return value
        may_wait_for = _may_wait_for.get()
        if is_in_loop():
            may_wait_for = _GOING_ON if may_wait_for == _ANYBODYS else _NOBODYS
        return run_sync(self._get_alone(key, may_wait_for))

    async def _get_alone(self, key: str, may_wait_for: int) -> Any:
        """In a loop, and so in a context, of its own."""
        _may_wait_for.set(max(may_wait_for, _GOING_ON))
        return await self._get(key, may_wait_for, goes_on=True)

    async def _get(self, key: str, may_wait_for: int, goes_on: bool) -> Any:
        value = await self._queue.cache.get(key)
        while value is None:
            flight, is_own = self._queue.join(key, may_wait_for, goes_on)
            if is_own:
                return await self._queue.fetch_on_demand(flight)
            # Whoever leaves does not cancel it for the others.
            try:
                await asyncio.shield(asyncio.wrap_future(flight.landed))
            except Exception:
                self._queue.forget_failure(key)
                raise
            value = await self._queue.cache._get_awaited(key)
        return value

    def get_metrics(self) -> PrefetchMetrics:
        """What it did so far, and what is left to do."""
        return self._queue.metrics()

    def reset_metrics(self) -> None:
        """Sets the counters to zero."""
        with self._queue.lock:
            self._queue.counts.clear()

    def __repr__(self) -> str:
        return f"AsyncPrefetcher({self.get_metrics()})"

    def __reduce__(self) -> tuple[Any, ...]:
        make = functools.partial(AsyncPrefetcher, **self._settings)
        return make, (self._queue.cache, self._queue.fetch_fn)

    def _begin_anew(self) -> None:
        # A forked child has no such thread, and whatever held the lock.
        if self._worker is not None:
            self._end.detach()
            _left_behind.append(self._worker)
        self._worker = None
        self._queue = _Queue(self._queue.cache, self._queue.fetch_fn, self._queue.size)


class _Flight:
    """A fetch under way."""

    def __init__(self, key: str, goes_on: bool) -> None:
        self.key = key
        # Whether it goes on while loops of the user's stand still.
        self.goes_on = goes_on
        self.landed: Future[None] = Future()
        self.error: Exception | None = None


class _Queue:
    """Keys that wait, fetches under way, and failures to tell of. One fetch per key at a time, whoever asks."""

    def __init__(self, cache: SmartLRUCache, fetch_fn: FetchFunction, size: int) -> None:
        self.cache = cache
        self.fetch_fn = fetch_fn
        self.size = size
        self.lock = threading.Lock()
        self.waiting: dict[str, None] = {}
        self.counts: Counter[str] = Counter()
        self._flights: dict[str, _Flight] = {}
        self._failures: dict[str, Exception] = {}

    def push(self, key: str) -> bool:
        with self.lock:
            if key in self.waiting:
                return True
            is_in = len(self.waiting) < self.size
            if is_in:
                self.waiting[key] = None
            self.counts["queued" if is_in else "dropped"] += 1
            return is_in

    def begin_next(self) -> _Flight | None:
        """Begins the fetch of the key whose turn it is; those that somebody is fetching by now are skipped."""
        with self.lock:
            while (key := next(iter(self.waiting), None)) is not None:
                del self.waiting[key]
                flight, is_own = self._join(key, _ANYBODYS, goes_on=True)
                if is_own:
                    return flight
                self.counts["skipped"] += 1
            return None

    def join(self, key: str, may_wait_for: int, goes_on: bool) -> tuple[_Flight, bool]:
        """Joins the fetch of a key or begins one, of which it says so; raises what it failed with before."""
        with self.lock:
            if (failure := self._failures.pop(key, None)) is not None:
                raise failure
            # Whoever asks does not wait for its turn.
            self.waiting.pop(key, None)
            return self._join(key, may_wait_for, goes_on)

    def forget_failure(self, key: str) -> None:
        """Somebody was told."""
        with self.lock:
            self._failures.pop(key, None)

    def _join(self, key: str, may_wait_for: int, goes_on: bool) -> tuple[_Flight, bool]:
        flight = self._flights.get(key)
        if flight is not None and (may_wait_for == _ANYBODYS or (may_wait_for == _GOING_ON and flight.goes_on)):
            return flight, False
        flight = self._flights[key] = _Flight(key, goes_on)
        return flight, True

    def land(self, flight: _Flight) -> None:
        with self.lock:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
        if flight.error is None:
            flight.landed.set_result(None)
        else:
            flight.landed.set_exception(flight.error)

    async def fetch_on_demand(self, flight: _Flight) -> Any:
        try:
            value = await fetched(self.fetch_fn, flight.key)
            await self.cache.put(flight.key, value)
            self._count("fetched_on_demand")
        except Exception as error:
            flight.error = error
            self._count("failed")
            raise
        finally:
            self.land(flight)
        return value

    async def fetch_ahead(self, flight: _Flight) -> None:
        """Fetches what was queued, unless it is there; it lands with the task. What fails is told to whoever asks."""
        _may_wait_for.set(_GOING_ON)
        try:
            if flight.key in self.cache:
                self._count("skipped")
                return
            candidate = self.cache._candidate(await fetched(self.fetch_fn, flight.key))
            is_in = await self.cache._put(flight.key, candidate, True, is_prefetched=True)
            self._count("fetched", *(() if is_in else ("declined",)))
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self._fail(flight, error)
        except BaseException as raised:
            # Neither the thread ends with it nor whoever asks.
            failure = RuntimeError(f"fetch_fn raised {type(raised).__name__}")
            failure.__cause__ = raised
            self._fail(flight, failure)

    def _fail(self, flight: _Flight, error: Exception) -> None:
        _let_go_of_frames(error)
        key, flight.error = flight.key, error
        with self.lock:
            self.counts["failed"] += 1
            is_known = self._failures.pop(key, None) is not None
            self._failures[key] = error
            if len(self._failures) > _MOST_FAILURES:
                del self._failures[next(iter(self._failures))]
        if not is_known:
            logger.warning("cannot prefetch `%s`: %s: %s", key, type(error).__name__, error)

    def _count(self, *what: str) -> None:
        with self.lock:
            self.counts.update(what)

    def metrics(self) -> PrefetchMetrics:
        with self.lock:
            names = ("queued", "dropped", "fetched", "declined", "skipped", "fetched_on_demand", "failed")
            counts = {name: self.counts[name] for name in names}
            return PrefetchMetrics(**counts, waiting=len(self.waiting), in_flight=len(self._flights))


class _Note(str):
    """Where a fetch failed."""

    __slots__ = ()


def _let_go_of_frames(error: BaseException) -> None:
    """Has an error that is kept hold no variables of the fetch; where it failed is a note of it."""
    # An exception may refuse notes, and one object be raised many times.
    with contextlib.suppress(Exception):
        if hasattr(error, "__notes__"):
            error.__notes__[:] = [note for note in error.__notes__ if not isinstance(note, _Note)]
        error.add_note(_Note("while it was fetched ahead:\n" + "".join(traceback.format_exception(error)).rstrip()))
    found: list[BaseException] = [error]
    for one in found:
        one.__traceback__ = None
        others = (one.__cause__, one.__context__, *getattr(one, "exceptions", ()))
        found += [other for other in others if isinstance(other, BaseException) and other not in found]


class _Worker:
    """The thread that fetches what is queued, with its event loop."""

    def __init__(self, queue: _Queue, concurrency: int) -> None:
        self._queue = queue
        self._concurrency = concurrency
        self._loop = asyncio.new_event_loop()
        self._changed = asyncio.Event()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="headwater-prefetcher", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Has it look at the queue."""
        # It has ended when the loop is closed.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._changed.set)

    def end(self) -> None:
        """Has it cancel what is under way and end."""
        self._is_ending = True
        self.wake()

    def join(self) -> None:
        """Waits until it has ended, unless it is the one that asks."""
        if threading.current_thread() is self._thread:
            return
        self._thread.join(_PATIENCE_SECONDS)
        if self._thread.is_alive():
            logger.warning("a prefetcher's fetch_fn does not end when it is cancelled: its thread is left behind")

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        under_way: set[asyncio.Task[None]] = set()

        def begin(flight: _Flight) -> None:
            def done(task: asyncio.Task[None]) -> None:
                under_way.discard(task)
                # Also what was cancelled before its first step.
                self._queue.land(flight)
                self._changed.set()

            task = asyncio.create_task(self._queue.fetch_ahead(flight))
            under_way.add(task)
            task.add_done_callback(done)

        while not self._is_ending:
            self._changed.clear()
            while len(under_way) < self._concurrency and (flight := self._queue.begin_next()) is not None:
                begin(flight)
            await self._changed.wait()
        for task in list(under_way):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


# Of the parent: their loops are not closed here.
_left_behind: list[_Worker] = []
_prefetchers: weakref.WeakSet[AsyncPrefetcher] = weakref.WeakSet()


def _begin_anew() -> None:
    for prefetcher in list(_prefetchers):
        prefetcher._begin_anew()


os.register_at_fork(after_in_child=_begin_anew)
