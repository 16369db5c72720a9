"""Waiting for what other threads and servers do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_T = TypeVar("_T")


def until(condition: Callable[[], object], what: str, deadline_s: float = 30.0) -> None:
    """Asks until the condition holds; fails after a generous deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {deadline_s:.0f} s"
        time.sleep(0.02)


def within(call: Callable[[], _T], deadline_s: float = 60.0) -> _T:
    """What a call returns that might wait for ever; fails after a generous deadline."""
    result: Future[_T] = Future()

    def run() -> None:
        try:
            result.set_result(call())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result.result(deadline_s)
