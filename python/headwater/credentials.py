"""Functions that give credentials, called from threads of Python's when the core asks for them."""

from __future__ import annotations

import atexit
import json
import os
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from headwater import _headwater

Credentials: TypeAlias = Mapping[str, Any]
CredentialsFunction: TypeAlias = Callable[[], Credentials]

# How often a thread looks whether it is still wanted.
_PATIENCE_SECONDS = 1.0
# Functions that are called at once. One that does not return costs a thread until the process ends.
_MOST_THREADS = 8


class Named(str):
    """The name by which the core asks for what a function returns. It can for as long as somebody holds this object."""

    function: CredentialsFunction


_named: weakref.WeakValueDictionary[str, Named] = weakref.WeakValueDictionary()


def named(function: CredentialsFunction) -> Named:
    """Names a function, always in the same way while the name is held."""
    for name in list(_named.values()):
        if name.function is function:
            return name
    return _register(f"python-{uuid.uuid4().hex}", function)


def renamed(functions: Mapping[str, CredentialsFunction]) -> tuple[Named, ...]:
    """Gives functions the names that they have in another process."""
    return tuple(_named.get(name) or _register(name, function) for name, function in functions.items())


def _register(text: str, function: CredentialsFunction) -> Named:
    name = Named(text)
    name.function = function
    _headwater.register_credentials(name)
    weakref.finalize(name, _headwater.release_credentials, text).atexit = False
    _named[text] = name
    _threads.begin()
    return name


class _Threads:
    """Those that answer. One of them always listens, unless all that there may be are in functions."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listening: set[threading.Thread] = set()
        self._in_functions = 0

    def begin(self) -> None:
        """Makes sure that somebody listens."""
        with self._lock:
            self._listening = {thread for thread in self._listening if thread.is_alive()}
            if not self._listening and self._in_functions < _MOST_THREADS:
                thread = threading.Thread(target=self._serve, name="headwater-credentials", daemon=True)
                self._listening.add(thread)
                thread.start()

    def stop(self) -> None:
        """Has nobody listen any more. A function that does not return is not waited for."""
        _headwater.close_questions()
        ends = time.monotonic() + 2 * _PATIENCE_SECONDS
        for thread in list(self._listening):
            thread.join(max(ends - time.monotonic(), 0.0))

    def _serve(self) -> None:
        this = threading.current_thread()
        while threading.main_thread().is_alive():
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


def _reply(number: int, name: str) -> None:
    """Calls a function for the core. What it raises may pass, unless it says that there is no access."""
    known = _named.get(name)
    if known is None:
        _headwater.answer_question(number, "", "nothing that uses it is there any more")
        return
    try:
        given = known.function()
    except BaseException as error:
        _headwater.answer_question(number, "", _words(error), not isinstance(error, PermissionError))
        return
    try:
        answer = _answer(given)
    except Exception as error:
        _headwater.answer_question(number, "", _words(error), False)
    else:
        _headwater.answer_question(number, answer)


def _words(error: BaseException) -> str:
    return f"it raised {type(error).__name__}: {error}"


def _answer(given: Credentials) -> str:
    if not isinstance(given, Mapping):
        raise TypeError("it must return a dict such as {'token': ..., 'expires_at': ...}")
    answer = dict(given)
    expires = answer.pop("expires_at", None)
    if isinstance(expires, str):
        expires = datetime.fromisoformat(expires)
    if isinstance(expires, datetime):
        expires = expires.timestamp()
    return json.dumps({"values": {name: str(value) for name, value in answer.items()}, "expires_at": expires})


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
