"""Between coroutines and plain calls: which thread does what."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

_T = TypeVar("_T")

# The user's function: a coroutine function, or one that returns the value itself.
FetchFunction: TypeAlias = Callable[[str], Awaitable[Any] | Any]


class Done:
    """What a method returns that is done, and that older code awaits."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield


def is_in_loop() -> bool:
    """Whether this thread is in a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def run_sync(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine to its end: in a loop of its own, on a thread of its own where this one has a loop running already."""
    if not is_in_loop():
        return asyncio.run(coroutine)
    result: Future[_T] = Future()

    def run() -> None:
        try:
            result.set_result(asyncio.run(coroutine))
        except BaseException as error:
            result.set_exception(error)

    thread = threading.Thread(target=run, name="headwater-sync", daemon=True)
    thread.start()
    try:
        return result.result()
    finally:
        thread.join(0 if not result.done() else None)


async def off_loop(call: Callable[[], _T]) -> _T:
    """Makes a call that takes a while beside the running loop."""
    return await asyncio.get_running_loop().run_in_executor(None, call)


async def fetched(fetch_fn: FetchFunction, key: str) -> Any:
    """What the user's function gives for a key; a cancellation that comes out of it, without anybody's wish, is its failure."""
    try:
        value = fetch_fn(key)
        return await value if inspect.isawaitable(value) else value
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise RuntimeError("fetch_fn raised CancelledError, and nobody had cancelled it") from error
