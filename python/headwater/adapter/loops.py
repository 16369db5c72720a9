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


def run_sync(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine to its end: in a loop of its own, on a thread of its own where this one has a loop running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
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
    """What the user's function gives for a key."""
    value = fetch_fn(key)
    return await value if inspect.isawaitable(value) else value
