"""Functions that give credentials, called from a thread of Python's when the core asks for them."""

from __future__ import annotations

import atexit
import json
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from headwater import _headwater

Credentials: TypeAlias = Mapping[str, Any]
CredentialsFunction: TypeAlias = Callable[[], Credentials]

# How often the thread looks whether it is still wanted.
_PATIENCE_SECONDS = 1.0

_functions: dict[str, CredentialsFunction] = {}
# The one thread that answers, once it is needed.
_threads: list[threading.Thread] = []


def named(function: CredentialsFunction) -> str:
    """The name under which the core asks for what a function returns."""
    for name, known in _functions.items():
        if known is function:
            return name
    name = f"python-{uuid.uuid4().hex}"
    register({name: function})
    return name


def register(functions: Mapping[str, CredentialsFunction]) -> None:
    """Has the core ask functions by names that were given in another process."""
    for name, function in functions.items():
        _functions[name] = function
        _headwater.register_credentials(name)
    if functions:
        _start()


def functions_of(names: set[str]) -> dict[str, CredentialsFunction]:
    """The functions behind names."""
    return {name: _functions[name] for name in names if name in _functions}


def _start() -> None:
    if not any(thread.is_alive() for thread in _threads):
        _threads[:] = [threading.Thread(target=_serve, name="headwater-credentials", daemon=True)]
        _threads[0].start()


def _serve() -> None:
    while threading.main_thread().is_alive():
        question = _headwater.next_question(_PATIENCE_SECONDS)
        if question is not None:
            number, name = question
            try:
                _headwater.answer_question(number, _answer(_functions[name]()))
            except Exception as error:
                _headwater.answer_question(number, "", f"it raised {type(error).__name__}: {error}")


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


def _stop() -> None:
    _headwater.close_questions()
    for thread in _threads:
        thread.join(2 * _PATIENCE_SECONDS)


def _begin_anew() -> None:
    # A forked child has the functions, but not the thread.
    _threads.clear()
    if _functions:
        _start()


atexit.register(_stop)
os.register_at_fork(after_in_child=_begin_anew)
