"""Coroutines that wait for what the core does, in any number of event loops at once.

The core leaves the number of what is done in a queue; one thread of Python's takes it from there and wakes the loop that waits.
No loop is blocked, no thread is spent on a wait, and a coroutine that is cancelled cancels what it waited for.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import os
import threading
from collections.abc import Callable
from typing import Any

from headwater import _headwater

# How often the thread looks whether it is still wanted, and how long the end of the process waits for it.
_PATIENCE_SECONDS = 1.0

_Waiting = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class _Waker:
    """The thread that wakes loops, while anybody waits."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._numbers = itertools.count(1)
        self._thread: threading.Thread | None = None
        # Not the main thread's end: other threads of the user's may go on for long after that.
        self._is_ending = False

    def enter(self, loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> int:
        """A number under which the loop is woken."""
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = (loop, future)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="headwater-awaiting", daemon=True)
                self._thread.start()
        return number

    def leave(self, number: int) -> None:
        """Nobody waits under the number any more."""
        with self._lock:
            self._waiting.pop(number, None)

    def stop(self) -> None:
        """Has the thread end."""
        self._is_ending = True
        _headwater.close_done()
        if self._thread is not None:
            self._thread.join(2 * _PATIENCE_SECONDS)

    def _serve(self) -> None:
        while not self._is_ending:
            done = _headwater.next_done(_PATIENCE_SECONDS)
            with self._lock:
                woken = [self._waiting.pop(number) for number in done if number in self._waiting]
                if not self._waiting:
                    # Whoever comes next starts another.
                    self._thread = None
            for loop, future in woken:
                # A loop that was closed has nobody who waits.
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(_wake, future)
            if self._thread is not threading.current_thread():
                return


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_waker = _Waker()


async def outcome(begin: Callable[[int], _headwater.Pending]) -> Any:
    """Begins something under a number, and waits for what it brings.

    Raises:
        CancelledError: the coroutine was cancelled, and what was begun with it.

    """
    loop, waker = asyncio.get_running_loop(), _waker
    future: asyncio.Future[None] = loop.create_future()
    number = waker.enter(loop, future)
    try:
        pending = begin(number)
        try:
            await future
        except BaseException:
            pending.cancel()
            raise
    finally:
        waker.leave(number)
    return pending.take()


def _stop() -> None:
    _waker.stop()


def _begin_anew() -> None:
    # A forked child has neither the thread nor the loops of its parent that wait.
    global _waker  # noqa: PLW0603 - a lock that was held when the child was made stays locked there
    _waker = _Waker()


atexit.register(_stop)
os.register_at_fork(after_in_child=_begin_anew)
