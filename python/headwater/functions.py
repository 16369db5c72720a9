"""Functions of the user's, called from threads of Python's when the core asks for them.

The core knows a function by its name, and asks under it; which kind it is of says how it is called and what its answer means.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headwater import _headwater

# How often a thread looks whether it is still wanted.
_PATIENCE_SECONDS = 1.0
# Functions that are called at once. One that does not return costs a thread until the process ends.
_MOST_THREADS = 8


class WrongAnswerError(Exception):
    """A function returned what it must not; asking again will not help."""


@dataclass(frozen=True)
class Kind:
    """What functions are for.

    Args:
        name: what the names of such functions begin with.
        subject: what such a function is called in errors.
        call: calls one with what the core asks about, and makes of its answer what the core reads.
        register, release: tell the core the name of one, and that it is no longer to be used.

    """

    name: str
    subject: str
    call: Callable[[Callable[..., Any], str], str]
    register: Callable[[str], None] = lambda _: None
    release: Callable[[str], None] = lambda _: None

    def __post_init__(self) -> None:
        _kinds[self.name] = self


_kinds: dict[str, Kind] = {}


class Named(str):
    """The name by which the core asks for what a function returns. It can for as long as somebody holds this object."""

    function: Callable[..., Any]
    kind: Kind


_named: weakref.WeakValueDictionary[str, Named] = weakref.WeakValueDictionary()


def named(kind: Kind, function: Callable[..., Any]) -> Named:
    """Names a function, always in the same way while the name is held."""
    for name in list(_named.values()):
        if name.function is function and name.kind is kind:
            return name
    return _register(f"{kind.name}-{uuid.uuid4().hex}", function)


def renamed(functions: Mapping[str, Callable[..., Any]]) -> tuple[Named, ...]:
    """Gives functions the names that they have in another process."""
    return tuple(_named.get(name) or _register(name, function) for name, function in functions.items())


def _register(text: str, function: Callable[..., Any]) -> Named:
    name, kind = Named(text), _kinds[text.rpartition("-")[0]]
    name.function, name.kind = function, kind
    kind.register(text)
    weakref.finalize(name, kind.release, text).atexit = False
    _named[text] = name
    _threads.begin()
    return name


class _Threads:
    """Those that answer. One of them always listens, unless all that there may be are in functions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listening: set[threading.Thread] = set()
        self._in_functions = 0
        # Not the main thread's end: other threads of the user's may go on for long after that.
        self._is_ending = False

    def begin(self) -> None:
        """Makes sure that somebody listens."""
        with self._lock:
            self._listening = {thread for thread in self._listening if thread.is_alive()}
            if not self._listening and self._in_functions < _MOST_THREADS:
                thread = threading.Thread(target=self._serve, name="headwater-functions", daemon=True)
                self._listening.add(thread)
                thread.start()

    def stop(self) -> None:
        """Has nobody listen any more. A function that does not return is not waited for."""
        self._is_ending = True
        _headwater.close_questions()
        ends = time.monotonic() + 2 * _PATIENCE_SECONDS
        for thread in list(self._listening):
            thread.join(max(ends - time.monotonic(), 0.0))

    def _serve(self) -> None:
        this = threading.current_thread()
        while not self._is_ending:
            question = _headwater.next_question(_PATIENCE_SECONDS)
            with self._lock:
                if question is None and len(self._listening) == 1:
                    continue
                self._listening.discard(this)
                self._in_functions += question is not None
            if question is None:
                return
            self.begin()
            try:
                _reply(*question)
            finally:
                with self._lock:
                    self._in_functions -= 1
                    self._listening.add(this)


def _reply(number: int, question: str) -> None:
    """Calls a function for the core: the question is its name and, in a second line, what it is asked about."""
    text, _, about = question.partition("\n")
    known = _named.get(text)
    if known is None:
        _headwater.answer_question(number, "", "the function", "nothing that uses it is there any more")
        return
    kind = known.kind
    try:
        answer = kind.call(known.function, about)
    except WrongAnswerError as error:
        _headwater.answer_question(number, "", kind.subject, str(error))
    except BaseException as error:
        words = f"it raised {type(error).__name__}: {error}"
        _headwater.answer_question(number, "", kind.subject, words, not isinstance(error, PermissionError))
    else:
        _headwater.answer_question(number, answer)


_threads = _Threads()


def _stop() -> None:
    _threads.stop()


def _begin_anew() -> None:
    # A forked child has the functions, but not the threads.
    global _threads  # noqa: PLW0603 - a lock that was held when the child was made stays locked there
    _threads = _Threads()
    if _named:
        _threads.begin()


atexit.register(_stop)
os.register_at_fork(after_in_child=_begin_anew)
