"""Functions that give credentials."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from headwater import _headwater
from headwater.functions import Kind, Named, WrongAnswerError, named

Credentials: TypeAlias = Mapping[str, Any]
CredentialsFunction: TypeAlias = Callable[[], Credentials]


def named_credentials(function: CredentialsFunction) -> Named:
    """The name by which sources ask for what a function returns."""
    return named(_CREDENTIALS, function)


def _call(function: CredentialsFunction, _: str) -> str:
    given = function()
    try:
        return _answer(given)
    except Exception as error:
        raise WrongAnswerError(error) from error


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


_CREDENTIALS = Kind(
    "credentials",
    "the function that gives credentials",
    _call,
    _headwater.register_credentials,
    _headwater.release_credentials,
)
