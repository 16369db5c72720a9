"""Functions that decide about samples that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Literal, TypeAlias, get_args

from headwater.errors import BY_KIND, ConfigError, HeadwaterError
from headwater.functions import Kind, Named, WrongAnswerError, named

Verdict: TypeAlias = Literal["raise", "skip", "substitute"]
ErrorFunction: TypeAlias = Callable[[str, HeadwaterError], Verdict]


def setting(on_error: Verdict | ErrorFunction) -> tuple[str, Named | None]:
    """The setting as the core reads it, and the name of a function to hold on to."""
    if callable(on_error):
        name = named(_ON_ERROR, on_error)
        return f"ask:{name}", name
    if on_error not in get_args(Verdict):
        raise ConfigError(f"cannot use on_error={on_error!r}: give one of {get_args(Verdict)}, or a function")
    return on_error, None


def _call(function: ErrorFunction, about: str) -> str:
    failed = json.loads(about)
    error = BY_KIND.get(failed["kind"], HeadwaterError)(failed["message"])
    try:
        verdict = function(failed["key"], error)
    except HeadwaterError as raised:
        if raised is not error:
            raise
        verdict = "raise"
    if verdict not in get_args(Verdict):
        raise WrongAnswerError(f"it must return one of {get_args(Verdict)}, not {verdict!r}")
    return json.dumps(verdict)


_ON_ERROR = Kind("on-error", "the function on_error", _call)
